"""LVIS's metrics (Gupta et al., arXiv 1908.03195), equal to those of its package lvis 0.5.3.

An image of LVIS is annotated in full for some of its categories only: those it has objects of, and
its negative ones, which it shows none of. A detection of any other category counts neither way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as mask_api

from jaxdet.errors import UserError
from jaxdet.evaluation.coco import RECALLS, mean_defined, precision_and_recall
from jaxdet.evaluation.coco_matching import AREAS, IOU_THRESHOLDS, is_outside
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.metric_names import FREQUENCIES

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""What each image says beside its objects."""


class _Verdict(NamedTuple):
    """What became of one category's detections, best first, in one image or in all of them.

    Attributes:
        scores: as detected.
        matched: whether it has found an object, by area and IoU threshold.
        ignored: whether it counts neither way, by the same.
        objects: how many there are to find, by area.
    """

    scores: Float[np.ndarray, "detections"]
    matched: Bool[np.ndarray, "areas ious detections"]
    ignored: Bool[np.ndarray, "areas ious detections"]
    objects: Int[np.ndarray, "areas"]


def evaluate_lvis(inputs: EvalInputs, *, max_detections: int = 300) -> dict[str, dict[str, Any]]:
    """Average precision of detections, over all categories and over the rare and frequent ones.

    Args:
        inputs: what is compared, and for which IoU types. The ground truth says of each image
            "neg_category_ids" and "not_exhaustive_category_ids", of each category "frequency".
        max_detections: how many detections of an image count over all categories, best scores
            first.

    Returns:
        For each IoU type a dict of AP, AP50, AP75, APs, APm, APl, APr, APc, APf (rare, common and
        frequent categories), AR@N, ARs@N, ARm@N, ARl@N (N = `max_detections`), in 0..1, and under
        "per_category" the AP of each category by its name. A number is nan where there is no ground
        truth to find. Masks are small or large by their own areas, whatever their boxes' are.

    Raises:
        UserError: `max_detections` is below 1, or the ground truth is not LVIS's.
    """
    if max_detections < 1:
        raise UserError(f"max_detections={max_detections} must be at least 1")
    groups = frequency_groups(inputs.truth.categories)
    return {
        iou_type: _summary(
            *_curves(_judge(inputs, iou_type, max_detections), inputs.truth),
            inputs.truth,
            groups,
            max_detections,
        )
        for iou_type in inputs.truth.iou_types
    }


def frequency_groups(categories: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """Positions of the rare ("r"), common ("c") and frequent ("f") categories.

    Raises:
        UserError: the ground truth is not LVIS's.
    """
    groups: dict[str, list[int]] = {frequency: [] for frequency in FREQUENCIES}
    for position, category in enumerate(categories):
        if category.get("frequency") not in tuple(groups):
            raise UserError(
                f"category {category['name']!r} must have a frequency of 'r', 'c' or 'f' for "
                "LVIS's metric; name LVIS's annotations as the validation data, or set "
                "config.data.metric='coco'"
            )
        groups[category["frequency"]].append(position)
    return groups


def check_lvis(document: dict[str, Any]) -> None:
    """Raises UserError where annotations lack what LVIS's metric needs; takes a moment."""
    frequency_groups(document["categories"])
    for image in document["images"]:
        for key in LISTS:
            _listed(image, key)


def _judge(inputs: EvalInputs, iou_type: str, max_detections: int) -> dict[int, list[_Verdict]]:
    """By category the verdict of each image that says something about it."""
    indexed, results_of = inputs.truth.indexed[iou_type], inputs.detections.imgToAnns
    verdicts: dict[int, list[_Verdict]] = defaultdict(list)
    for image in sorted(indexed.dataset["images"], key=lambda image: image["id"]):
        negative, unsure = (_listed(image, key) for key in LISTS)
        truths = _by_category(indexed.imgToAnns.get(image["id"], ()))
        results = sorted(results_of.get(image["id"], ()), key=lambda result: -result["score"])
        known = negative | truths.keys()
        found = _by_category(
            result for result in results[:max_detections] if result["category_id"] in known
        )
        for category in truths.keys() | found.keys():
            verdict = _judge_category(
                found.get(category, []), truths.get(category, []), iou_type, category in unsure
            )
            verdicts[category].append(verdict)
    return verdicts


def _listed(image: dict[str, Any], key: str) -> set[int]:
    ids = image.get(key)
    if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
        raise UserError(
            f"image {image['id']} must have a list {key!r} of category ids for LVIS's metric; name "
            "LVIS's annotations as the validation data, or set config.data.metric='coco'"
        )
    return set(ids)


def _by_category(entries: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry["category_id"], []).append(entry)
    return found


def _judge_category(
    results: list[dict[str, Any]],
    truths: list[dict[str, Any]],
    iou_type: str,
    is_unsure: bool,
) -> _Verdict:
    """What becomes of one image's detections of one category.

    Args:
        results: best first.
        is_unsure: whether the image may show objects of it that are not annotated, so that a
            detection that finds none is no false positive.
    """
    key = "segmentation" if iou_type == "segm" else "bbox"
    shapes = [result[key] for result in results]
    outside = is_outside(np.array([truth["area"] for truth in truths], float))
    matched, ignored = _match(shapes, [truth[key] for truth in truths], outside)
    if is_unsure:
        ignored |= ~matched
    elif results:
        areas = (
            [mask_api.area(s) for s in shapes]
            if iou_type == "segm"
            else [s[2] * s[3] for s in shapes]
        )
        ignored |= ~matched & is_outside(np.array(areas, float))[:, None]
    scores = np.array([result["score"] for result in results], float)
    return _Verdict(scores, matched, ignored, (~outside).sum(1))


def _match(
    shapes: list[Any], truths: list[Any], is_ignored: Bool[np.ndarray, "areas objects"]
) -> tuple[Bool[np.ndarray, "areas ious detections"], Bool[np.ndarray, "areas ious detections"]]:
    """Which detections find an object, and for which it is one to ignore.

    Each takes, best score first, the object of highest IoU that is left, the later one of equals;
    one to ignore only where no other is left above the threshold.
    """
    matched = np.zeros((len(AREAS), len(IOU_THRESHOLDS), len(shapes)), bool)
    ignored = np.zeros_like(matched)
    if not shapes or not truths:
        return matched, ignored
    overlaps = np.asarray(mask_api.iou(shapes, truths, [0] * len(truths)))
    count = len(truths)
    rank = np.argsort(np.argsort(overlaps, axis=1, kind="stable"), axis=1)
    preference = rank[:, None, None] + count * ~is_ignored[None, :, None]
    is_near = overlaps[:, None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    free = np.ones((len(AREAS), len(IOU_THRESHOLDS), count), bool)
    for number in np.flatnonzero(is_near.any((1, 2))):
        choice = np.where(free & is_near[number], preference[number], -1)
        best = choice.argmax(-1)
        has_found = choice.max(-1) >= 0
        matched[..., number] = has_found
        ignored[..., number] = has_found & np.take_along_axis(is_ignored, best, 1)
        area, iou = np.nonzero(has_found)
        free[area, iou, best[area, iou]] = False
    return matched, ignored


def _curves(
    verdicts: dict[int, list[_Verdict]], truth: GroundTruth
) -> tuple[
    Float[np.ndarray, "ious recalls categories areas"], Float[np.ndarray, "ious categories areas"]
]:
    """Precision at each recall, and the final recall; -1 where there is nothing to find.

    Axes are in the order of the package lvis, so that means round as its do.
    """
    shape = (len(truth.categories), len(AREAS))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), *shape), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), *shape), -1.0)
    for number, category in enumerate(truth.categories):
        if category["id"] not in verdicts:
            continue
        parts = zip(*verdicts[category["id"]], strict=True)
        scores, matched, ignored, objects = (np.concatenate(part, -1) for part in parts)
        objects = objects.reshape(-1, len(AREAS)).sum(0)
        order = np.argsort(-scores, kind="stable")
        matched, ignored = matched[..., order], ignored[..., order]
        right, wrong = matched & ~ignored, ~matched & ~ignored
        for area in np.flatnonzero(objects):
            precision[:, :, number, area], recall[:, number, area] = precision_and_recall(
                right[area], wrong[area], objects[area]
            )
    return precision, recall


def _summary(
    precision: Float[np.ndarray, "ious recalls categories areas"],
    recall: Float[np.ndarray, "ious categories areas"],
    truth: GroundTruth,
    groups: dict[str, list[int]],
    max_detections: int,
) -> dict[str, Any]:
    overall = precision[..., 0]
    metrics: dict[str, Any] = {
        "AP": mean_defined(overall),
        "AP50": mean_defined(overall[0]),
        "AP75": mean_defined(overall[5]),
    }
    for area, suffix in enumerate("sml", start=1):
        metrics[f"AP{suffix}"] = mean_defined(precision[..., area])
    for frequency, positions in groups.items():
        metrics[f"AP{frequency}"] = mean_defined(overall[..., positions])
    for area, suffix in enumerate(("", *"sml")):
        metrics[f"AR{suffix}@{max_detections}"] = mean_defined(recall[..., area])
    metrics["per_category"] = {
        category["name"]: mean_defined(overall[..., number])
        for number, category in enumerate(truth.categories)
    }
    return metrics
