"""COCO's metrics (https://cocodataset.org/#detection-eval), equal to pycocotools' last digit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdet.errors import UserError
from jaxdet.evaluation.coco_matching import (
    AREAS,
    IOU_THRESHOLDS,
    Entries,
    Matches,
    match,
    of_category,
    sort_entries,
)
from jaxdet.evaluation.inputs import EvalInputs

AR_LIMITS = (1, 10, 100)
RECALLS = np.linspace(0, 1, 101)


def evaluate_coco(inputs: EvalInputs, *, max_detections: int = 100) -> dict[str, dict[str, Any]]:
    """Average precision and recall of detections, averaged over IoU thresholds .5, .55, ..., .95.

    Args:
        inputs: what is compared, and for which IoU types.
        max_detections: how many detections of an image and category count, best scores first.

    Returns:
        For each IoU type a dict of AP, AP50, AP75, APs, APm, APl, ARs, ARm, ARl (at
        `max_detections`), AR1, AR10, AR100 (at 1, 10, 100 of them), in 0..1, and under
        "per_category" the AP of each category by its name. A number is nan where there is no
        ground truth to find: pycocotools says -1 there, which is no precision and must not enter
        an average. With ground truth but no detections it is 0.

    Raises:
        UserError: `max_detections` is below 1.
    """
    if max_detections < 1:
        raise UserError(f"max_detections={max_detections} must be at least 1")
    return {
        iou_type: _evaluate(inputs, iou_type, max_detections) for iou_type in inputs.truth.iou_types
    }


class MatchedCategory(NamedTuple):
    """A category's detections and objects by image, and what became of the detections.

    Attributes:
        score, rank, image: of each detection: rank in its image from 0, position of the image in
            the order of the ids.
        counted: whether an object is one to be found.
        object_image: positions of the objects' images.
    """

    score: Float[np.ndarray, " detections"]
    rank: Int[np.ndarray, " detections"]
    image: Int[np.ndarray, " detections"]
    matches: Matches
    counted: Bool[np.ndarray, "areas objects"]
    object_image: Int[np.ndarray, " objects"]


def matched_categories(
    inputs: EvalInputs, iou_type: str, max_detections: int
) -> Iterator[MatchedCategory]:
    """All that COCO's numbers depend on, in the order of the categories."""
    category_ids = [category["id"] for category in inputs.truth.categories]
    image_ids = sorted(inputs.truth.image_sizes)
    objects = sort_entries(
        inputs.truth.indexed[iou_type].dataset["annotations"], image_ids, category_ids
    )
    found = inputs.detections.dataset["annotations"]
    score = np.array([detection["score"] for detection in found], float)
    detections = sort_entries(found, image_ids, category_ids, score)
    detections, rank = _best_of_image(detections, max(max_detections, *AR_LIMITS))
    crowd = np.array([annotation["iscrowd"] for annotation in objects.entries], bool)
    matches = match(detections, objects, crowd, iou_type)
    for k in range(len(category_ids)):
        ours, theirs = (of_category(each, k, len(image_ids)) for each in (detections, objects))
        yield MatchedCategory(
            np.array([detection["score"] for detection in detections.entries[ours]], float),
            rank[ours],
            detections.group[ours] - k * len(image_ids),
            Matches(matches.found[:, :, ours], matches.ignored[:, :, ours]),
            ~(objects.outside | crowd)[:, theirs],
            objects.group[theirs] - k * len(image_ids),
        )


def precision_curves(
    inputs: EvalInputs, iou_type: str, max_detections: int = 100
) -> Float[np.ndarray, "thresholds recalls"]:
    """Precision at RECALLS, for each of IOU_THRESHOLDS the mean over the categories that have
    objects; nan without any object. The mean of all numbers is AP."""
    precision = _curves(inputs, iou_type, max_detections).precision[..., 0]
    known = precision[..., precision[0, 0] > -1]
    if not known.size:
        return np.full(precision.shape[:2], math.nan)
    return known.mean(-1)


def _evaluate(inputs: EvalInputs, iou_type: str, max_detections: int) -> dict[str, Any]:
    names = [category["name"] for category in inputs.truth.categories]
    return _numbers(_curves(inputs, iou_type, max_detections), names)


def _curves(inputs: EvalInputs, iou_type: str, max_detections: int) -> _Curves:
    curves = _Curves.absent(len(inputs.truth.categories))
    for k, category in enumerate(matched_categories(inputs, iou_type, max_detections)):
        objects = np.count_nonzero(category.counted, axis=1)
        _accumulate(
            curves, k, category.score, category.rank, category.matches, objects, max_detections
        )
    return curves


class _Curves(NamedTuple):
    """Precision at RECALLS and greatest recall; -1 where there is no ground truth.

    Attributes:
        precision, recall: of as many detections as count.
        recall_at: over all areas, of each of AR_LIMITS detections.
    """

    precision: Float[np.ndarray, "thresholds recalls categories areas"]
    recall: Float[np.ndarray, "thresholds categories areas"]
    recall_at: Float[np.ndarray, "limits thresholds categories"]

    @classmethod
    def absent(cls, categories: int) -> _Curves:
        """The curves before anything is known."""
        thresholds, areas = len(IOU_THRESHOLDS), len(AREAS)
        return cls(
            np.full((thresholds, len(RECALLS), categories, areas), -1.0),
            np.full((thresholds, categories, areas), -1.0),
            np.full((len(AR_LIMITS), thresholds, categories), -1.0),
        )


def _best_of_image(detections: Entries, limit: int) -> tuple[Entries, np.ndarray]:
    """The first `limit` of each group, and each one's rank in its group, from 0."""
    group = detections.group
    rank = np.arange(len(group)) - np.searchsorted(group, group, "left")
    kept = np.flatnonzero(rank < limit)
    entries = [detections.entries[position] for position in kept.tolist()]
    return Entries(entries, group[kept], detections.outside[:, kept]), rank[kept]


def _accumulate(
    curves: _Curves,
    category: int,
    score: Float[np.ndarray, " detections"],
    rank: Int[np.ndarray, " detections"],
    matches: Matches,
    objects: Int[np.ndarray, " areas"],
    max_detections: int,
) -> None:
    """Fills in a category; `objects` are those to be found. As pycocotools' `accumulate`."""
    order = np.argsort(-score, kind="stable")
    rank, counts = rank[order], ~matches.ignored[:, :, order]
    right, wrong = matches.found[:, :, order] & counts, ~matches.found[:, :, order] & counts
    if objects[0]:
        for position, limit in enumerate(AR_LIMITS):
            hits = np.count_nonzero(right[0][:, rank < limit], axis=1)
            curves.recall_at[position, :, category] = hits / objects[0]
    listed = rank < max_detections
    for area in np.flatnonzero(objects):
        precision, recall = precision_and_recall(
            right[area][:, listed], wrong[area][:, listed], objects[area]
        )
        curves.precision[:, :, category, area] = precision
        curves.recall[:, category, area] = recall


def precision_and_recall(
    right: Bool[np.ndarray, "thresholds detections"],
    wrong: Bool[np.ndarray, "thresholds detections"],
    objects: int,
) -> tuple[Float[np.ndarray, "thresholds recalls"], Float[np.ndarray, " thresholds"]]:
    """Precision at RECALLS and the greatest recall of detections, best first.

    Args:
        right, wrong: which found an object, and which count as false.
        objects: how many are to be found, at least one.
    """
    hits, misses = (np.cumsum(each, axis=1).astype(float) for each in (right, wrong))
    recall, precision = hits / objects, hits / (misses + hits + np.spacing(1))
    # The greatest precision at this recall or any beyond, and none beyond the last.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))
    reached = [np.searchsorted(each, RECALLS, side="left") for each in recall]
    greatest = recall[:, -1] if recall.shape[1] else np.zeros(len(recall))
    return np.take_along_axis(precision, np.stack(reached), axis=1), greatest


def _numbers(curves: _Curves, names: list[str]) -> dict[str, Any]:
    overall = curves.precision[..., 0]
    metrics: dict[str, Any] = {
        "AP": mean_defined(overall),
        "AP50": mean_defined(overall[0]),
        "AP75": mean_defined(overall[5]),
    }
    for area, suffix in enumerate("sml", start=1):
        metrics[f"AP{suffix}"] = mean_defined(curves.precision[..., area])
    for position, limit in enumerate(AR_LIMITS):
        metrics[f"AR{limit}"] = mean_defined(curves.recall_at[position])
    for area, suffix in enumerate("sml", start=1):
        metrics[f"AR{suffix}"] = mean_defined(curves.recall[..., area])
    metrics["per_category"] = {name: mean_defined(overall[:, :, k]) for k, name in enumerate(names)}
    return metrics


def mean_defined(values: np.ndarray) -> float:
    """The mean of the defined values; pycocotools marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan
