"""LVIS's metrics (Gupta et al., arXiv 1908.03195), equal to those of its package lvis 0.5.3.

An image of LVIS is annotated in full for some of its categories only: those it has objects of, and
its negative ones, which it shows none of. A detection of any other category counts neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as mask_api

from jaxdet.errors import UserError
from jaxdet.evaluation.coco import RECALLS, mean_defined, precision_and_recall
from jaxdet.evaluation.coco_matching import (
    AREAS,
    IOU_THRESHOLDS,
    match,
    of_category,
    sort_entries,
)
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.metric_names import FREQUENCIES

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
"""What each image says beside its objects."""


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
            *_curves(inputs, iou_type, max_detections), inputs.truth, groups, max_detections
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


def _curves(
    inputs: EvalInputs, iou_type: str, max_detections: int
) -> tuple[
    Float[np.ndarray, "ious recalls categories areas"], Float[np.ndarray, "ious categories areas"]
]:
    """Precision at each recall, and the final recall; -1 where there is nothing to find.

    Axes are in the order of the package lvis, so that means round as its do.
    """
    truth = inputs.truth
    image_ids = sorted(truth.image_sizes)
    category_ids = [category["id"] for category in truth.categories]
    annotations = truth.indexed[iou_type].dataset["annotations"]
    objects = sort_entries(annotations, image_ids, category_ids)
    found, is_unsure = _counting(inputs, iou_type, max_detections)
    score = np.array([detection["score"] for detection in found], float)
    detections = sort_entries(found, image_ids, category_ids, score)
    matches = match(detections, objects, np.zeros(len(objects.entries), bool), iou_type)
    unsure = np.array([is_unsure[entry["id"]] for entry in detections.entries], bool)
    counts = ~(matches.ignored | unsure & ~matches.found)

    shape = (len(category_ids), len(AREAS))
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), *shape), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), *shape), -1.0)
    for number in range(len(category_ids)):
        ours, theirs = (of_category(each, number, len(image_ids)) for each in (detections, objects))
        to_find = np.count_nonzero(~objects.outside[:, theirs], axis=1)
        scores = [detection["score"] for detection in detections.entries[ours]]
        order = ours.start + np.argsort(-np.array(scores, float), kind="stable")
        matched, counted = matches.found[..., order], counts[..., order]
        for area in np.flatnonzero(to_find):
            precision[:, :, number, area], recall[:, number, area] = precision_and_recall(
                matched[area] & counted[area], ~matched[area] & counted[area], to_find[area]
            )
    return precision, recall


def _counting(
    inputs: EvalInputs, iou_type: str, max_detections: int
) -> tuple[list[dict[str, Any]], dict[int, bool]]:
    """The detections that count: the best of each image, of categories it was searched for.

    Returns:
        They, with their masks' own areas for "segm"; and by their ids whether the image may show
        objects of the category that are not annotated, so that one that finds none is not wrong.
    """
    indexed, results_of = inputs.truth.indexed[iou_type], inputs.detections.imgToAnns
    counting, is_unsure = [], {}
    for image in sorted(indexed.dataset["images"], key=lambda image: image["id"]):
        negative, unsure = (_listed(image, key) for key in LISTS)
        shown = {truth["category_id"] for truth in indexed.imgToAnns.get(image["id"], ())}
        known = negative | shown
        results = sorted(results_of.get(image["id"], ()), key=lambda result: -result["score"])
        found = [each for each in results[:max_detections] if each["category_id"] in known]
        counting += found
        is_unsure |= {each["id"]: each["category_id"] in unsure for each in found}
    if iou_type == "segm":
        counting = [
            {**each, "area": float(mask_api.area(each["segmentation"]))} for each in counting
        ]
    return counting, is_unsure


def _listed(image: dict[str, Any], key: str) -> set[int]:
    ids = image.get(key)
    if not isinstance(ids, list) or not all(isinstance(each, int) for each in ids):
        raise UserError(
            f"image {image['id']} must have a list {key!r} of category ids for LVIS's metric; name "
            "LVIS's annotations as the validation data, or set config.data.metric='coco'"
        )
    return set(ids)


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
