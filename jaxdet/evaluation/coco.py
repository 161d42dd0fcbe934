"""COCO's detection metrics, computed by pycocotools (https://cocodataset.org/#detection-eval)."""

from __future__ import annotations

import contextlib
import io
import math
import sys
from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxdet.data.rle import compressed_rle
from jaxdet.errors import UserError

IOU_TYPES = ("bbox", "segm")
AR_LIMITS = (1, 10, 100)

ImageSizes = dict[int, tuple[int, int]]  # (height, width) by image id


def evaluate_coco(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    *,
    iou_types: Sequence[str] = IOU_TYPES,
    max_detections: int = 100,
) -> dict[str, dict[str, Any]]:
    """Average precision and recall of detections, averaged over IoU thresholds .5, .55, ..., .95.

    Args:
        ground_truth: COCO's annotation layout ("images", "annotations", "categories"). Only its
            images are scored. An annotation without a usable mask is left out of "segm" alone;
            where "area" is missing it is measured.
        detections: COCO's result layout, one dict each: "image_id", "category_id", "score", for
            "bbox" "bbox" (x, y, width, height), for "segm" "segmentation" (run-length code of the
            image's size). As in pycocotools a mask with a "bbox" counts as small, medium or large
            by the area of the box; Detectron2 takes the mask's own (its mask APs, APm and APl
            differ a little, nothing else does).
        iou_types: which of "bbox" and "segm" to compute.
        max_detections: how many detections of an image and category count, best scores first.

    Returns:
        For each IoU type a dict of AP, AP50, AP75, APs, APm, APl, ARs, ARm, ARl (at
        `max_detections`), AR1, AR10, AR100 (at 1, 10, 100 of them), in 0..1, and under
        "per_category" the AP of each category by its name. A number is nan where there is no
        ground truth to find: pycocotools says -1 there, which is no precision and must not enter
        an average. With ground truth but no detections it is 0.

    Raises:
        UserError: an unknown IoU type, or a detection of an unknown image or category or
            with a malformed field.
    """
    for iou_type in iou_types:
        if iou_type not in IOU_TYPES:
            raise UserError(f"iou_types: {iou_type!r} is unknown, use 'bbox' and 'segm'.")
    if max_detections < 1:
        raise UserError(f"max_detections is {max_detections}, it must be at least 1.")
    return {
        iou_type: _evaluate(ground_truth, detections, iou_type, max_detections)
        for iou_type in iou_types
    }


def check_novel(categories: Collection[str], novel: Sequence[str]) -> None:
    """Raises UserError where some of the novel names are categories and some are not.

    None may be, as in a data set of base classes alone.
    """
    unknown = sorted(set(novel) - set(categories))
    if 0 < len(unknown) < len(set(novel)):
        raise UserError(
            f"config.few_shot.novel names {unknown[0]!r}, which the validation data does not list; "
            f"it has {', '.join(sorted(categories))}"
        )


def split_ap(per_category: dict[str, float], novel: Sequence[str]) -> dict[str, float]:
    """The mean AP of base, novel and all categories, nan where there is none with ground truth.

    Args:
        per_category: AP by name, as `evaluate_coco` returns it.
        novel: names of the novel categories; all others are base.

    Raises:
        UserError: see `check_novel`.
    """
    check_novel(per_category.keys(), novel)

    def mean(names: Sequence[str]) -> float:
        return _mean(np.array([per_category[n] for n in names if per_category[n] >= 0]))

    return {
        "base": mean([name for name in per_category if name not in novel]),
        "novel": mean([name for name in per_category if name in novel]),
        "overall": mean([*per_category]),
    }


def _evaluate(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    iou_type: str,
    max_detections: int,
) -> dict[str, Any]:
    image_sizes = {
        image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]
    }
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    annotations = counted_annotations(ground_truth["annotations"], image_sizes, iou_type)
    results = checked_results(detections, image_sizes, {c["id"] for c in categories}, iou_type)

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _indexed(ground_truth, annotations), _indexed(ground_truth, results), iou_type
        )
        limits = sorted({*AR_LIMITS, max_detections})
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    # [thresholds, recalls, categories, areas, limits] and [thresholds, categories, areas, limits]
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    best = limits.index(max_detections)
    overall = precision[:, :, :, 0, best]
    metrics: dict[str, Any] = {
        "AP": _mean(overall),
        "AP50": _mean(overall[0]),
        "AP75": _mean(overall[5]),
    }
    for area, suffix in enumerate("sml", start=1):
        metrics[f"AP{suffix}"] = _mean(precision[:, :, :, area, best])
    for limit in AR_LIMITS:
        metrics[f"AR{limit}"] = _mean(recall[:, :, 0, limits.index(limit)])
    for area, suffix in enumerate("sml", start=1):
        metrics[f"AR{suffix}"] = _mean(recall[:, :, area, best])
    metrics["per_category"] = {
        category["name"]: _mean(overall[:, :, k]) for k, category in enumerate(categories)
    }
    return metrics


def _mean(values: np.ndarray) -> float:
    """The mean of the defined values; pycocotools marks the others by -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _indexed(ground_truth: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": ground_truth["images"],
        "categories": ground_truth["categories"],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def counted_annotations(
    annotations: list[dict[str, Any]], image_sizes: ImageSizes, iou_type: str
) -> list[dict[str, Any]]:
    """What pycocotools is to see of the ground truth, as new dicts, since it writes into them.

    They are numbered anew from 1: to pycocotools a match with an annotation 0 is none.
    """
    kept: list[dict[str, Any]] = []
    for annotation in annotations:
        image_id = annotation["image_id"]
        if image_id not in image_sizes:
            continue
        entry = {
            "id": len(kept) + 1,
            "image_id": image_id,
            "category_id": annotation["category_id"],
            "iscrowd": annotation.get("iscrowd", 0),
        }
        if iou_type == "segm":
            rle = compressed_rle(annotation.get("segmentation"), *image_sizes[image_id])
            if rle is None:
                continue
            entry["segmentation"] = rle
            measured = float(mask_api.area(rle))
        else:
            entry["bbox"] = annotation["bbox"]
            measured = annotation["bbox"][2] * annotation["bbox"][3]
        entry["area"] = annotation.get("area", measured)
        kept.append(entry)
    return kept


def checked_results(
    detections: list[dict[str, Any]],
    image_sizes: ImageSizes,
    category_ids: set[int],
    iou_type: str,
) -> list[dict[str, Any]]:
    """What pycocotools is to see of the detections, checked."""
    if not isinstance(detections, list):
        raise UserError("detections: they must be a list, as in a COCO result file.")
    return [
        _result(number, detection, image_sizes, category_ids, iou_type)
        for number, detection in enumerate(detections)
    ]


def _result(
    number: int,
    detection: dict[str, Any],
    image_sizes: ImageSizes,
    category_ids: set[int],
    iou_type: str,
) -> dict[str, Any]:
    def wrong(problem: str) -> UserError:
        return UserError(f"detections[{number}]: {problem}.")

    if not isinstance(detection, dict):
        raise wrong("it must be an object with image_id, category_id, bbox and score")
    image_id, category_id = detection.get("image_id"), detection.get("category_id")
    score, bbox = detection.get("score"), detection.get("bbox")
    if not isinstance(image_id, Integral) or image_id not in image_sizes:
        raise wrong(f"image_id {image_id!r} is not among the images of the ground truth")
    if not isinstance(category_id, Integral) or category_id not in category_ids:
        raise wrong(f"category_id {category_id!r} is not among the categories of the ground truth")
    if not _is_finite(score):
        raise wrong(f"score {score!r} must be a finite number")
    entry = {
        "id": number + 1,
        "image_id": image_id,
        "category_id": category_id,
        "score": score,
    }
    if bbox is not None:
        if not _is_box(bbox):
            raise wrong(
                f"bbox {bbox!r} must be x, y, width, height: finite numbers, no negative extent"
            )
        entry["area"] = bbox[2] * bbox[3]
    if iou_type == "bbox":
        if bbox is None:
            raise wrong("bbox is missing; leave 'bbox' out of iou_types to score masks alone")
        entry["bbox"] = bbox
        return entry
    segmentation = detection.get("segmentation")
    if segmentation is None:
        raise wrong("segmentation is missing; leave 'segm' out of iou_types to score boxes alone")
    height, width = image_sizes[image_id]
    rle = compressed_rle(segmentation, height, width)
    if rle is None:
        raise wrong(f"segmentation is no sound mask of its image ({height} x {width})")
    entry["segmentation"] = rle
    entry.setdefault("area", float(mask_api.area(rle)))
    return entry


def _is_finite(value: Any) -> bool:
    # Whole numbers beyond the range of floats are none to compute with.
    return isinstance(value, Real) and abs(value) <= sys.float_info.max


def _is_box(bbox: Any) -> bool:
    return (
        isinstance(bbox, list | tuple | np.ndarray)
        and len(bbox) == 4
        and all(_is_finite(value) for value in bbox)
        and min(bbox[2], bbox[3]) >= 0
        and _is_finite(float(bbox[2]) * float(bbox[3]))
    )
