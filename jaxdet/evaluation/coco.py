"""COCO's detection metrics, computed by pycocotools (https://cocodataset.org/#detection-eval)."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from jaxdet.errors import UserError
from jaxdet.evaluation.inputs import EvalInputs

AR_LIMITS = (1, 10, 100)


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


def _evaluate(inputs: EvalInputs, iou_type: str, max_detections: int) -> dict[str, Any]:
    limits = sorted({*AR_LIMITS, max_detections})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(inputs.truth.indexed[iou_type], inputs.detections, iou_type)
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    # [thresholds, recalls, categories, areas, limits] and [thresholds, categories, areas, limits]
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    best = limits.index(max_detections)
    overall = precision[:, :, :, 0, best]
    metrics: dict[str, Any] = {
        "AP": mean_defined(overall),
        "AP50": mean_defined(overall[0]),
        "AP75": mean_defined(overall[5]),
    }
    for area, suffix in enumerate("sml", start=1):
        metrics[f"AP{suffix}"] = mean_defined(precision[:, :, :, area, best])
    for limit in AR_LIMITS:
        metrics[f"AR{limit}"] = mean_defined(recall[:, :, 0, limits.index(limit)])
    for area, suffix in enumerate("sml", start=1):
        metrics[f"AR{suffix}"] = mean_defined(recall[:, :, area, best])
    metrics["per_category"] = {
        category["name"]: mean_defined(overall[:, :, k])
        for k, category in enumerate(inputs.truth.categories)
    }
    return metrics


def mean_defined(values: np.ndarray) -> float:
    """The mean of the defined values; pycocotools marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan
