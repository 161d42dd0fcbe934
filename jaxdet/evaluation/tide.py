"""What the errors of a detector cost: TIDE's error types (arXiv 2008.08115) for boxes and masks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as mask_api

from jaxdet.errors import UserError
from jaxdet.evaluation.inputs import EvalInputs
from jaxdet.evaluation.metric_names import MAIN_ERRORS

CLS, LOC, BOTH, DUPE, BKG, MISS = range(6)
NO_ERROR = -1

RECALLS = np.arange(101) / 100  # tidecv's; np.linspace, as in pycocotools, rounds .35 otherwise


class Borders(NamedTuple):
    """The IoUs that tell errors apart, see `evaluate_tide`."""

    foreground: float = 0.5
    background: float = 0.1


BORDERS = Borders()


def evaluate_tide(
    inputs: EvalInputs,
    *,
    max_detections: int = 100,
    foreground: float = 0.5,
    background: float = 0.1,
) -> dict[str, dict[str, Any]]:
    """The AP lost to each type of error: what AP would gain if an oracle fixed that type alone.

    A false positive has one type, the first that fits: Loc (right category, IoU from `background`
    to `foreground`), Cls (IoU of at least `foreground` with an object of another category), Dupe
    (a detection of better score has found the object), Bkg (no IoU above `background`), Both
    (wrong category and badly localised). A Miss is an object that neither a detection finds nor a
    Cls or Loc error would, if fixed.

    The oracle turns Cls and Loc errors into true positives, one an object, that of best score; it
    removes other false positives, and missed objects from what there is to find. "FalsePos" is the
    gain without any false positive, "FalseNeg" that without any object unfound.

    Args:
        inputs: what is compared, and for which IoU types. In a crowd region a detection of its
            category is no false positive.
        max_detections: how many detections of an image count over all categories, best scores
            first.
        foreground: the least IoU of a true positive.
        background: the greatest IoU of a detection of the background.

    Returns:
        For each IoU type "AP" at the threshold `foreground`, the gains "main" by type and the gains
        "special" ("FalsePos", "FalseNeg"), in 0..1. "AP" is COCO's AP50 of the detections that
        count, but for ten of the recalls at which precision is read: tidecv's .35 is 7 / 20,
        pycocotools' a last digit more. As in COCO, categories without ground truth do not enter the
        mean over categories (in tidecv they do, as 0, where they have detections); without any
        ground truth a number is nan. A category of which nothing is found has AP 0 whatever is
        removed, and is no part of "Miss" and "FalseNeg".

    Raises:
        UserError: `max_detections` is below 1, or the two IoUs are out of order.
    """
    if max_detections < 1:
        raise UserError(f"max_detections={max_detections} must be at least 1")
    if not 0 < background < foreground <= 1:
        raise UserError(
            f"background={background} and foreground={foreground} must be above 0, at most 1, and "
            "background the smaller"
        )
    borders = Borders(foreground, background)
    return {
        iou_type: _gains(*_judge(inputs, iou_type, max_detections, borders))
        for iou_type in inputs.truth.iou_types
    }


class JudgedDetections(NamedTuple):
    """What became of detections, best scores first.

    Attributes:
        score, category: as detected.
        correct: whether it is a true positive.
        ignored: whether it lies in a crowd region and is no true positive.
        error: its type, a position in MAIN_ERRORS, or NO_ERROR. An ignored detection has one too:
            fixed, it may find an object.
        is_fixed: whether the oracle of its type makes a true positive of it,
        fixed_category: and in which category.
    """

    score: Float[np.ndarray, "detections"]
    category: Int[np.ndarray, "detections"]
    correct: Bool[np.ndarray, "detections"]
    ignored: Bool[np.ndarray, "detections"]
    error: Int[np.ndarray, "detections"]
    is_fixed: Bool[np.ndarray, "detections"]
    fixed_category: Int[np.ndarray, "detections"]


class JudgedObjects(NamedTuple):
    """What became of the ground truth, crowd regions left out.

    Attributes:
        category: as annotated.
        found: whether a true positive is matched with it.
        missed: whether it is a Miss.
    """

    category: Int[np.ndarray, "objects"]
    found: Bool[np.ndarray, "objects"]
    missed: Bool[np.ndarray, "objects"]


class JudgedImage(NamedTuple):
    """What became of an image's detections, best scores first, and of its objects.

    Attributes:
        results, truths: as pycocotools reads them; crowd regions are left out.
        iou: of each of them with each.
    """

    image_id: int
    results: list[dict[str, Any]]
    truths: list[dict[str, Any]]
    iou: Float[np.ndarray, "detections objects"]
    detections: JudgedDetections
    objects: JudgedObjects


def judged_images(
    inputs: EvalInputs,
    iou_type: str,
    max_detections: int,
    borders: Borders = BORDERS,
    least_score: float = 0.0,
) -> Iterator[JudgedImage]:
    """Every image in the order of the ids, see `evaluate_tide`.

    Args:
        least_score: detections below it are left out.
    """
    truths_of, results_of = inputs.truth.indexed[iou_type].imgToAnns, inputs.detections.imgToAnns
    # pycocotools' order, which decides between equal scores.
    for image_id in sorted(inputs.truth.image_sizes):
        listed = [each for each in results_of.get(image_id, []) if each["score"] >= least_score]
        results = sorted(listed, key=lambda result: -result["score"])[:max_detections]
        truths = truths_of.get(image_id, [])
        crowd = np.array([truth["iscrowd"] for truth in truths], bool)
        iou = _iou(results, truths, crowd, iou_type)
        judged, objects = _judge_image(
            np.array([result["score"] for result in results], float),
            np.array([result["category_id"] for result in results], int),
            np.array([truth["category_id"] for truth in truths], int),
            crowd,
            iou,
            borders,
        )
        countable = [truth for truth in truths if not truth["iscrowd"]]
        yield JudgedImage(image_id, results, countable, iou[:, ~crowd], judged, objects)


def _judge(
    inputs: EvalInputs, iou_type: str, max_detections: int, borders: Borders
) -> tuple[JudgedDetections, JudgedObjects]:
    """The verdicts on all images together, best scores first."""
    images = list(judged_images(inputs, iou_type, max_detections, borders))
    # No images are one without anything.
    nothing = _judge_image(*[np.zeros(0, int)] * 3, np.zeros(0, bool), np.zeros((0, 0)), borders)
    verdicts = [(image.detections, image.objects) for image in images] or [nothing]
    judged, objects = zip(*verdicts, strict=True)
    judged = JudgedDetections(*map(np.concatenate, zip(*judged, strict=True)))
    order = np.argsort(-judged.score, kind="stable")
    return (
        JudgedDetections(*(field[order] for field in judged)),
        JudgedObjects(*map(np.concatenate, zip(*objects, strict=True))),
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
    borders: Borders,
) -> tuple[JudgedDetections, JudgedObjects]:
    """The verdicts on one image, whose detections come best scores first."""
    foreground, background = borders
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

    is_fixed = np.zeros(len(score), bool)
    fixed_category = category.copy()
    reached = found.copy()
    for detection in np.flatnonzero((error == CLS) | (error == LOC)):
        nearest = (own_iou if error[detection] == LOC else other_iou)[detection].argmax()
        if not reached[nearest]:
            is_fixed[detection] = reached[nearest] = True
            fixed_category[detection] = object_category[nearest]

    return (
        JudgedDetections(
            score, category, correct, in_crowd & ~correct, error, is_fixed, fixed_category
        ),
        JudgedObjects(object_category, found, ~reached),
    )


def _gains(detections: JudgedDetections, objects: JudgedObjects) -> dict[str, Any]:
    _, category, correct, ignored, error, is_fixed, fixed_category = detections
    categories = np.unique(objects.category)

    def mean_ap(
        category: Int[np.ndarray, "detections"],
        correct: Bool[np.ndarray, "detections"],
        to_find: Int[np.ndarray, "objects"],
    ) -> float:
        # Over the same categories whatever was fixed: gains are differences of like with like.
        values = [
            _average_precision(correct[category == each], np.count_nonzero(to_find == each))
            for each in categories
        ]
        return float(np.mean(values)) if values else math.nan

    def fixed(kind: int) -> float:
        if kind == MISS:
            return unchanged(objects.category[~objects.missed])
        wrong = error == kind
        kept = np.where(wrong, is_fixed, ~ignored)
        return mean_ap(
            np.where(wrong, fixed_category, category)[kept],
            (correct | wrong)[kept],
            objects.category,
        )

    def unchanged(to_find: Int[np.ndarray, "objects"]) -> float:
        return mean_ap(category[~ignored], correct[~ignored], to_find)

    ap = unchanged(objects.category)
    return {
        "AP": ap,
        # A gain below 0 comes from the finite recall steps.
        "main": {name: max(fixed(kind) - ap, 0.0) for kind, name in enumerate(MAIN_ERRORS)},
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
