"""AP of images drawn again and again from those that were evaluated, as a bootstrap needs it.

What each image's detections found is worked out once; a draw only counts an image as often as it
was drawn. That is COCO's AP of a set that holds each image so many times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxdet.evaluation.coco import RECALLS, MatchedCategory, matched_categories, mean_defined
from jaxdet.evaluation.inputs import EvalInputs


class _Threshold(NamedTuple):
    """What became of a category's detections at an IoU threshold: positions by descending score.

    Attributes:
        right: of those that found an object. Between two of them neither recall nor the greatest
            precision from there on changes, so that the wrong ones need only be counted.
        ignored: of those that are neither right nor wrong.
        before: how many of `ignored` come before each of `right`.
    """

    right: Int[np.ndarray, " right"]
    ignored: Int[np.ndarray, " ignored"]
    before: Int[np.ndarray, " right"]


class _Category(NamedTuple):
    """The image of each detection, by descending score, and of each object to be found."""

    image: Int[np.ndarray, " detections"]
    thresholds: tuple[_Threshold, ...]
    object_image: Int[np.ndarray, " objects"]


class ResampledAP:
    """AP over all areas of any multiset of the images that were evaluated.

    Args:
        inputs: what is compared.
        iou_type: "bbox" or "segm".
        max_detections: see `evaluate_coco`.
    """

    def __init__(self, inputs: EvalInputs, iou_type: str, *, max_detections: int = 100):
        self.images = len(inputs.truth.image_sizes)
        self._categories = [
            _ranked(category, max_detections)
            for category in matched_categories(inputs, iou_type, max_detections)
        ]

    def __call__(self, times: Int[np.ndarray, " images"]) -> float:
        """AP in 0..1 of the images, each counted so many times, in the order of their ids.

        A category whose objects were not drawn is left out of the mean; nan where all were not.
        """
        precision = [_precision(category, times) for category in self._categories]
        return mean_defined(np.array(precision))


def _ranked(category: MatchedCategory, max_detections: int) -> _Category:
    order = np.argsort(-category.score, kind="stable")
    order = order[category.rank[order] < max_detections]
    found, ignored = (each[0][:, order] for each in category.matches)
    thresholds = []
    for is_right, is_ignored in zip(found & ~ignored, ignored, strict=True):
        right, other = np.flatnonzero(is_right), np.flatnonzero(is_ignored)
        thresholds.append(_Threshold(right, other, np.searchsorted(other, right)))
    objects = category.object_image[category.counted[0]]
    return _Category(category.image[order], tuple(thresholds), objects)


def _precision(
    category: _Category, times: Int[np.ndarray, " images"]
) -> Float[np.ndarray, "thresholds recalls"]:
    """Precision at RECALLS; -1 where there is no object, as pycocotools has it."""
    objects, weight = times[category.object_image].sum(), times[category.image]
    precision = np.full((len(category.thresholds), len(RECALLS)), 0.0 if objects else -1.0)
    if not objects:
        return precision
    listed = np.cumsum(weight)
    for row, (right, ignored, before) in zip(precision, category.thresholds, strict=True):
        hits = np.cumsum(weight[right])
        passed = np.concatenate([[0], np.cumsum(weight[ignored])])[before]
        best = hits / (listed[right] - passed + np.spacing(1))
        best = np.maximum.accumulate(best[::-1])[::-1]
        reached = np.searchsorted(hits / objects, RECALLS, side="left")
        reached = reached[reached < len(right)]
        row[: len(reached)] = best[reached]
    return precision
