"""What the errors of a detector cost: TIDE's error types (arXiv 2008.08115) for boxes and masks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as mask_api

from jaxdet.errors import UserError
from jaxdet.evaluation.coco import IOU_TYPES, ImageSizes, checked_results, counted_annotations

MAIN_ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
CLS, LOC, BOTH, DUPE, BKG, MISS = range(6)
NO_ERROR = -1

RECALLS = np.arange(101) / 100  # tidecv's; np.linspace, as in pycocotools, rounds .35 otherwise


def evaluate_tide(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    iou_types: Sequence[str] = IOU_TYPES,
    max_detections: int = 100,
    foreground: float = 0.5,
    background: float = 0.1,
) -> dict[str, dict[str, Any]]:
    """The AP lost to each type of error: what AP would gain if an oracle mended that type alone.

    A false positive has one type, the first that fits: Loc (right category, IoU from `background`
    to `foreground`), Cls (IoU of at least `foreground` with an object of another category), Dupe
    (a detection of better score has found the object), Bkg (no IoU above `background`), Both
    (wrong category and badly localised). A Miss is an object that neither a detection finds nor a
    Cls or Loc error would, if mended.

    The oracle turns Cls and Loc errors into true positives, one an object, that of best score; it
    removes other false positives, and missed objects from what there is to find. "FalsePos" is the
    gain without any false positive, "FalseNeg" that without any object unfound.

    Args:
        ground_truth, detections, iou_types: as `evaluate_coco` takes them. In a crowd region a
            detection of its category is no false positive.
        max_detections: how many detections of an image count over all categories, best scores
            first.
        foreground: the least IoU of a true positive.
        background: the greatest IoU of a detection of the background.

    Returns:
        For each IoU type "AP" at the threshold `foreground`, the gains "main" by type and the gains
        "special" ("FalsePos", "FalseNeg"), in 0..1. The recalls are tidecv's, so that on small data
        "AP" differs from pycocotools' in the third digit. As in COCO, categories without ground
        truth do not enter the mean over categories (in tidecv they do, as 0, where they have
        detections); without any ground truth a number is nan. A category of which nothing is found
        has AP 0 whatever is removed, and is no part of "Miss" and "FalseNeg".

    Raises:
        UserError: an unknown IoU type, thresholds out of order, or a detection of an unknown image
            or category or with a malformed field.
    """
    for iou_type in iou_types:
        if iou_type not in IOU_TYPES:
            raise UserError(f"iou_types: {iou_type!r} is unknown, use 'bbox' and 'segm'.")
    if max_detections < 1:
        raise UserError(f"max_detections is {max_detections}, it must be at least 1.")
    if not 0 < background < foreground <= 1:
        raise UserError(
            f"background is {background} and foreground is {foreground}, "
            "they must be above 0, at most 1, and background the smaller."
        )
    return {
        iou_type: _gains(
            *_judge(ground_truth, detections, iou_type, max_detections, foreground, background)
        )
        for iou_type in iou_types
    }


class _Detections(NamedTuple):
    """What became of detections, best scores first.

    Attributes:
        score, category: as detected.
        correct: whether it is a true positive.
        ignored: whether it lies in a crowd region and is no true positive.
        error: its type, a position in MAIN_ERRORS, or NO_ERROR. An ignored detection has one too:
            mended, it may find an object.
        mends: whether the oracle of its type makes a true positive of it,
        mended_category: and in which category.
    """

    score: Float[np.ndarray, "detections"]
    category: Int[np.ndarray, "detections"]
    correct: Bool[np.ndarray, "detections"]
    ignored: Bool[np.ndarray, "detections"]
    error: Int[np.ndarray, "detections"]
    mends: Bool[np.ndarray, "detections"]
    mended_category: Int[np.ndarray, "detections"]


class _Objects(NamedTuple):
    """What became of the ground truth, crowd regions left out.

    Attributes:
        category: as annotated.
        found: whether a true positive is matched with it.
        missed: whether it is a Miss.
    """

    category: Int[np.ndarray, "objects"]
    found: Bool[np.ndarray, "objects"]
    missed: Bool[np.ndarray, "objects"]


def _judge(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    iou_type: str,
    max_detections: int,
    foreground: float,
    background: float,
) -> tuple[_Detections, _Objects]:
    image_sizes: ImageSizes = {
        image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]
    }
    category_ids = {category["id"] for category in ground_truth["categories"]}
    truths_of, results_of = defaultdict(list), defaultdict(list)
    for annotation in counted_annotations(ground_truth["annotations"], image_sizes, iou_type):
        truths_of[annotation["image_id"]].append(annotation)
    for result in checked_results(detections, image_sizes, category_ids, iou_type):
        results_of[result["image_id"]].append(result)

    verdicts = []
    # pycocotools' order, which decides between equal scores; no images are one without anything.
    for image_id in sorted(image_sizes) or [None]:
        results = sorted(results_of[image_id], key=lambda result: -result["score"])
        results, truths = results[:max_detections], truths_of[image_id]
        crowd = np.array([truth["iscrowd"] for truth in truths], bool)
        verdicts.append(
            _judge_image(
                np.array([result["score"] for result in results], float),
                np.array([result["category_id"] for result in results], int),
                np.array([truth["category_id"] for truth in truths], int),
                crowd,
                _iou(results, truths, crowd, iou_type),
                foreground,
                background,
            )
        )
    judged, objects = zip(*verdicts, strict=True)
    judged = _Detections(*map(np.concatenate, zip(*judged, strict=True)))
    order = np.argsort(-judged.score, kind="stable")
    return (
        _Detections(*(field[order] for field in judged)),
        _Objects(*map(np.concatenate, zip(*objects, strict=True))),
    )


def _iou(
    results: list[dict[str, Any]],
    truths: list[dict[str, Any]],
    crowd: Bool[np.ndarray, "truths"],
    iou_type: str,
) -> Float[np.ndarray, "detections truths"]:
    """pycocotools' IoU; with a crowd region the share of the detection that lies inside."""
    if not results or not truths:
        return np.zeros((len(results), len(truths)))
    if iou_type == "segm":
        shapes = [[entry["segmentation"] for entry in entries] for entries in (results, truths)]
    else:
        shapes = [
            np.array([entry["bbox"] for entry in entries], float) for entries in (results, truths)
        ]
    return mask_api.iou(*shapes, crowd.astype(np.uint8))


def _judge_image(
    score: Float[np.ndarray, "detections"],
    category: Int[np.ndarray, "detections"],
    truth_category: Int[np.ndarray, "truths"],
    crowd: Bool[np.ndarray, "truths"],
    iou: Float[np.ndarray, "detections truths"],
    foreground: float,
    background: float,
) -> tuple[_Detections, _Objects]:
    """The verdicts on one image, whose detections come best scores first."""
    same_category = category[:, None] == truth_category
    in_crowd = ((iou > foreground) & same_category & crowd).any(1)
    iou, same_category, object_category = (
        iou[:, ~crowd],
        same_category[:, ~crowd],
        truth_category[~crowd],
    )
    own_iou, other_iou = iou * same_category, iou * ~same_category
    nearest_own, nearest_other = own_iou.max(1, initial=0), other_iou.max(1, initial=0)

    correct = np.zeros(len(score), bool)
    found = np.zeros(len(object_category), bool)
    for detection in np.flatnonzero(nearest_own >= foreground):
        free_iou = own_iou[detection] * ~found
        nearest = free_iou.argmax()
        if free_iou[nearest] >= foreground:
            correct[detection] = found[nearest] = True

    error = np.select(
        [
            correct,
            (nearest_own >= background) & (nearest_own <= foreground),
            nearest_other >= foreground,
            nearest_own >= foreground,
            np.maximum(nearest_own, nearest_other) <= background,
        ],
        [NO_ERROR, LOC, CLS, DUPE, BKG],
        BOTH,
    )

    mends = np.zeros(len(score), bool)
    mended_category = category.copy()
    reached = found.copy()
    for detection in np.flatnonzero((error == CLS) | (error == LOC)):
        nearest = (own_iou if error[detection] == LOC else other_iou)[detection].argmax()
        if not reached[nearest]:
            mends[detection] = reached[nearest] = True
            mended_category[detection] = object_category[nearest]

    return (
        _Detections(score, category, correct, in_crowd & ~correct, error, mends, mended_category),
        _Objects(object_category, found, ~reached),
    )


def _gains(detections: _Detections, objects: _Objects) -> dict[str, Any]:
    _, category, correct, ignored, error, mends, mended_category = detections
    categories = np.unique(objects.category)

    def mean_ap(
        category: Int[np.ndarray, "detections"],
        correct: Bool[np.ndarray, "detections"],
        to_find: Int[np.ndarray, "objects"],
    ) -> float:
        # Over the same categories whatever was mended: gains are differences of like with like.
        values = [
            _average_precision(correct[category == each], np.count_nonzero(to_find == each))
            for each in categories
        ]
        return float(np.mean(values)) if values else math.nan

    def mended(kind: int) -> float:
        if kind == MISS:
            return unchanged(objects.category[~objects.missed])
        wrong = error == kind
        kept = np.where(wrong, mends, ~ignored)
        return mean_ap(
            np.where(wrong, mended_category, category)[kept],
            (correct | wrong)[kept],
            objects.category,
        )

    def unchanged(to_find: Int[np.ndarray, "objects"]) -> float:
        return mean_ap(category[~ignored], correct[~ignored], to_find)

    ap = unchanged(objects.category)
    return {
        "AP": ap,
        # A gain below 0 comes from the finite recall steps.
        "main": {name: max(mended(kind) - ap, 0.0) for kind, name in enumerate(MAIN_ERRORS)},
        "special": {
            "FalsePos": mean_ap(category[correct], correct[correct], objects.category) - ap,
            "FalseNeg": unchanged(objects.category[objects.found]) - ap,
        },
    }


def _average_precision(correct: Bool[np.ndarray, "detections"], to_find: int) -> float:
    """COCO's AP of one category: best precision at each of 101 recalls or beyond, averaged.

    Args:
        correct: whether each detection is a true positive, best scores first.
        to_find: number of objects; without any the AP is 0.
    """
    if to_find == 0:
        return 0.0
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(hits) + 1)
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    reached_at = np.searchsorted(hits / to_find, RECALLS)
    return float(np.append(best_beyond, 0.0)[reached_at].mean())
