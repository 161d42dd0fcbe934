"""What a report shows of detections beside their AP: curves, confusions, and which are wrong.

The file inspection.json in a run's folder. All but the curves is of one working point: the
detections of at least that score at which as many as possible are right and as few objects as
possible are missed (the greatest F1 over all categories).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from jaxdet.data.dataset import DetectionDataset
from jaxdet.errors import UserError
from jaxdet.evaluation.coco import precision_curves
from jaxdet.evaluation.inputs import EvalInputs
from jaxdet.evaluation.metric_names import INSPECTION_VERSION, MAIN_ERRORS, RIGHT
from jaxdet.evaluation.tide import BORDERS, NO_ERROR, JudgedImage, judged_images

MOST_IMAGES = 2000
"""As many images, the first by their ids, are listed with what was found on them."""

CURVES = {"0.5": slice(0, 1), "0.75": slice(5, 6), "0.5:0.95": slice(None)}
"""Which of the IoU thresholds each curve of precision is the mean over."""


def inspect(inputs: EvalInputs, *, max_detections: int = 100) -> dict[str, Any]:
    """The content of inspection.json, as JSON values.

    Returns:
        Under "precision" by IoU type and IoU the precision at 101 recalls; "iou_type" is that of
        all the rest, boxes where there are any. "score" is the least score that counts.
        "confusion" has (category, category found there, how often): positions in "categories", one
        beyond for the background, without what is right to leave out. "images" has the objects
        (category, box, whether found) and the detections (category, score, box, what it is: "right"
        or one of MAIN_ERRORS) of each image, boxes as (x, y, width, height) in pixels. "objects"
        counts the objects by category.
    """
    truth = inputs.truth
    iou_type = "bbox" if "bbox" in truth.iou_types else "segm"
    label_of = {category["id"]: label for label, category in enumerate(truth.categories)}
    listed = truth.indexed[iou_type].dataset["images"]
    files = {each["id"]: each.get("file_name") for each in listed}
    score = _working_point([*judged_images(inputs, iou_type, max_detections)])
    confusion: Counter[tuple[int, int]] = Counter()
    images = []
    objects = Counter()
    for image in judged_images(inputs, iou_type, max_detections, least_score=score):
        confusion.update(_confusions(image, label_of))
        objects.update(each["category_id"] for each in image.truths)
        if len(images) < MOST_IMAGES:
            size = truth.image_sizes[image.image_id]
            images.append(_listed(image, label_of, files[image.image_id], size))
    return {
        "version": INSPECTION_VERSION,
        "categories": [category["name"] for category in truth.categories],
        "objects": {"val": [objects[number] for number in label_of]},
        "precision": {
            kind: _curves(precision_curves(inputs, kind, max_detections))
            for kind in truth.iou_types
        },
        "iou_type": iou_type,
        "iou": BORDERS.foreground,
        "score": score,
        "confusion": [[*pair, count] for pair, count in sorted(confusion.items())],
        "images": images,
    }


def object_counts(dataset: DetectionDataset) -> list[int] | None:
    """How many objects there are of each category to train on.

    None where the set lists no labels, as those that an older version prepared.
    """
    counts = np.zeros(len(dataset.categories), int)
    try:
        for index in range(len(dataset)):
            counts += np.bincount(dataset.labels(index), minlength=len(counts))
    except UserError:
        return None
    return counts.tolist()


def _curves(precision: np.ndarray) -> dict[str, list[float] | None]:
    if np.isnan(precision).any():
        return dict.fromkeys(CURVES)
    return {name: precision[rows].mean(0).round(4).tolist() for name, rows in CURVES.items()}


def _working_point(images: Sequence[JudgedImage]) -> float:
    """The score from which on F1 is greatest, rounded down to two digits; 0.5 if nothing is
    right."""
    scores, right = (
        np.concatenate([[], *(getattr(image.detections, name) for image in images)])
        for name in ("score", "correct")
    )
    counted = ~np.concatenate([np.zeros(0, bool), *(i.detections.ignored for i in images)])
    order = np.argsort(-scores[counted], kind="stable")
    hits = np.cumsum(right[counted][order])
    if not hits.size or not hits[-1]:
        return 0.5
    f1 = hits / (np.arange(1, len(hits) + 1) + sum(len(image.truths) for image in images))
    return math.floor(100 * scores[counted][order][np.argmax(f1)]) / 100


def _confusions(image: JudgedImage, label_of: dict[int, int]) -> list[tuple[int, int]]:
    """Each object with what was found there, whatever its category, best scores first; and what
    was found where there is nothing."""
    background = len(label_of)
    free = np.ones(len(image.truths), bool)
    pairs = []
    labels = [label_of.get(each["category_id"], background) for each in image.truths]
    for result, iou, ignored in zip(
        image.results, image.iou, image.detections.ignored, strict=True
    ):
        found = label_of[result["category_id"]]
        nearest = int(np.argmax(np.where(free, iou, -1.0))) if free.any() else -1
        if nearest >= 0 and iou[nearest] >= BORDERS.foreground:
            free[nearest] = False
            pairs.append((labels[nearest], found))
        elif not ignored:
            pairs.append((background, found))
    missed = [label for label, is_free in zip(labels, free, strict=True) if is_free]
    return [*pairs, *((label, background) for label in missed)]


def _listed(
    image: JudgedImage, label_of: dict[int, int], file: str | None, size: tuple[int, int]
) -> dict[str, Any]:
    judged = image.detections
    return {
        "id": image.image_id,
        "file": file,
        "hw": list(size),
        "objects": [
            [label_of[each["category_id"]], *_box(each), bool(found)]
            for each, found in zip(image.truths, image.objects.found, strict=True)
            if each["category_id"] in label_of
        ],
        "detections": [
            [
                label_of[each["category_id"]],
                round(float(each["score"]), 3),
                *_box(each),
                RIGHT if error == NO_ERROR else MAIN_ERRORS[error],
            ]
            for each, error, ignored in zip(
                image.results, judged.error, judged.ignored, strict=True
            )
            if not ignored
        ],
    }


def _box(entry: dict[str, Any]) -> list[float]:
    box = entry["bbox"] if "bbox" in entry else mask_api.toBbox(entry["segmentation"])
    return [round(float(value), 1) for value in box]
