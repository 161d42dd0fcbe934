"""Which detections find which objects, by COCO's rules, at all IoU thresholds and sizes at once.

The same decisions as pycocotools' `evaluateImg`: the detections of an image and category choose in
the order of their scores, each the free object of greatest IoU (of equal ones the last), and one
that is ignored only where no other fits. What pycocotools does one image, category, size and
threshold after the other happens here for thousands of images side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as mask_api

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = np.array([(0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2)])
"""All, small, medium and large, in pixels, both ends included."""

GROUPS_AT_ONCE = 4096


def is_outside(areas: Float[np.ndarray, " entries"]) -> Bool[np.ndarray, "areas entries"]:
    """Whether an area is outside of each of AREAS."""
    return (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:])


class Entries(NamedTuple):
    """Annotations or detections sorted by group: by category, in it by image.

    Attributes:
        entries: as pycocotools reads them.
        group: position of the category times the number of images, plus that of the image.
        outside: whether its area is outside of each of AREAS.
    """

    entries: list[dict[str, Any]]
    group: Int[np.ndarray, " entries"]
    outside: Bool[np.ndarray, "areas entries"]


class Matches(NamedTuple):
    """What became of detections, at each of AREAS and IOU_THRESHOLDS.

    Attributes:
        found: whether it has an object.
        ignored: whether it is neither right nor wrong.
    """

    found: Bool[np.ndarray, "areas thresholds detections"]
    ignored: Bool[np.ndarray, "areas thresholds detections"]


class _Group(NamedTuple):
    """Detections that may find an object of an image and category, and the objects' positions."""

    detections: Int[np.ndarray, " rows"]
    iou: Float[np.ndarray, "rows objects"]
    first: int


def sort_entries(
    entries: Sequence[dict[str, Any]],
    image_ids: Sequence[Any],
    category_ids: Sequence[Any],
    score: Float[np.ndarray, " entries"] | None = None,
) -> Entries:
    """Entries of the categories by group, in it by descending score or else as they come."""
    image_of, category_of = (
        {number: position for position, number in enumerate(ids)}
        for ids in (image_ids, category_ids)
    )
    group = np.array(
        [
            category_of.get(entry["category_id"], -1) * len(image_of) + image_of[entry["image_id"]]
            for entry in entries
        ],
        np.int64,
    )
    order = np.argsort(group, kind="stable") if score is None else np.lexsort((-score, group))
    order = order[group[order] >= 0]
    chosen = [entries[position] for position in order.tolist()]
    area = np.array([entry["area"] for entry in chosen], float)
    return Entries(chosen, group[order], is_outside(area))


def of_category(entries: Entries, category: int, images: int) -> slice:
    """Where the entries of a category lie, by its position; `images` is their number."""
    first, end = np.searchsorted(entries.group, (category * images, (category + 1) * images))
    return slice(int(first), int(end))


def match(
    detections: Entries, objects: Entries, crowd: Bool[np.ndarray, " objects"], iou_type: str
) -> Matches:
    """Matches detections, which come by descending score in their group.

    Args:
        crowd: whether an object is a crowd region: ignored, and never taken.
    """
    shape = len(AREAS), len(IOU_THRESHOLDS), len(detections.entries)
    matches = Matches(np.zeros(shape, bool), np.zeros(shape, bool))
    ignored = objects.outside | crowd
    for groups in _batches(_overlapping(detections, objects, crowd, iou_type)):
        _match_groups(groups, ignored, crowd, matches)
    matches.ignored[:] |= ~matches.found & detections.outside[:, None]
    return matches


def _overlapping(
    detections: Entries, objects: Entries, crowd: Bool[np.ndarray, " objects"], iou_type: str
) -> Iterator[_Group]:
    """The groups with detections that overlap objects enough."""
    field = "segmentation" if iou_type == "segm" else "bbox"
    shapes, targets = (
        [entry[field] for entry in entries] for entries in (detections.entries, objects.entries)
    )
    if iou_type == "bbox":
        shapes, targets = (np.array(boxes, float).reshape(-1, 4) for boxes in (shapes, targets))
    common = np.intersect1d(detections.group, objects.group)
    bounds = [
        np.searchsorted(entries.group, common, side).tolist()
        for entries in (detections, objects)
        for side in ("left", "right")
    ]
    crowds = crowd.astype(np.uint8)
    for d0, d1, o0, o1 in zip(*bounds, strict=True):
        iou = mask_api.iou(shapes[d0:d1], targets[o0:o1], crowds[o0:o1])
        near = np.flatnonzero(iou.max(1) >= IOU_THRESHOLDS[0])
        if len(near):
            yield _Group(d0 + near, iou[near], o0)


def _batches(groups: Iterable[_Group]) -> Iterator[list[_Group]]:
    """Groups of similar numbers of objects; in each batch those with most detections first."""
    by_width: dict[int, list[_Group]] = {}
    for group in groups:
        by_width.setdefault((group.iou.shape[1] - 1).bit_length(), []).append(group)
    for similar in by_width.values():
        similar.sort(key=lambda group: -len(group.detections))
        for start in range(0, len(similar), GROUPS_AT_ONCE):
            yield similar[start : start + GROUPS_AT_ONCE]


def _match_groups(
    groups: list[_Group],
    ignored: Bool[np.ndarray, "areas objects"],
    crowd: Bool[np.ndarray, " objects"],
    matches: Matches,
) -> None:
    """Lets the first detection of every group choose, then the second, and so on."""
    count, width = len(groups), max(group.iou.shape[1] for group in groups)
    rows = np.array([len(group.detections) for group in groups])
    iou = np.full((rows[0], count, width), -1.0)
    detection = np.zeros((rows[0], count), np.int64)
    is_ignored = np.zeros((len(AREAS), 1, count, width), bool)
    is_crowd = np.zeros((count, width), bool)
    for position, group in enumerate(groups):
        objects = slice(group.first, group.first + group.iou.shape[1])
        iou[: rows[position], position, : group.iou.shape[1]] = group.iou
        detection[: rows[position], position] = group.detections
        is_ignored[:, 0, position, : group.iou.shape[1]] = ignored[:, objects]
        is_crowd[position, : group.iou.shape[1]] = crowd[objects]
    thresholds = IOU_THRESHOLDS[:, None]
    free = np.ones((len(AREAS), len(IOU_THRESHOLDS), count, width), bool)
    for turn in range(rows[0]):
        active = np.count_nonzero(rows > turn)
        available, now = free[:, :, :active], iou[turn, :active]
        spare = is_ignored[:, :, :active]
        chosen, regular = _choose(available & ~spare, now, thresholds)
        other, irregular = _choose((available | is_crowd[:active]) & spare, now, thresholds)
        irregular &= ~regular
        taken = np.where(irregular, other, chosen)[..., None]
        matches.found[:, :, detection[turn, :active]] = found = regular | irregular
        matches.ignored[:, :, detection[turn, :active]] = irregular
        still = np.take_along_axis(available, taken, -1)
        np.put_along_axis(available, taken, still & ~found[..., None], -1)


def _choose(
    eligible: Bool[np.ndarray, "areas thresholds groups objects"],
    iou: Float[np.ndarray, "groups objects"],
    thresholds: Float[np.ndarray, "thresholds 1"],
) -> tuple[Int[np.ndarray, "areas thresholds groups"], Bool[np.ndarray, "areas thresholds groups"]]:
    """The eligible object of greatest IoU, of equal ones the last, and whether that is enough."""
    overlap = np.where(eligible, iou, -1.0)
    chosen = iou.shape[1] - 1 - np.argmax(overlap[..., ::-1], axis=-1)
    best = np.take_along_axis(overlap, chosen[..., None], -1)[..., 0]
    return chosen, best >= thresholds
