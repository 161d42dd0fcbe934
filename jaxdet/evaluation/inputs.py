"""Ground truth and detections as every metric reads them: checked and run-length coded once."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO

from jaxdet.data.rle import compressed_rles
from jaxdet.errors import UserError
from jaxdet.evaluation.metric_names import IOU_TYPES


class GroundTruth:
    """The annotations of a set of images; serves all metrics and any number of evaluations.

    Args:
        document: COCO's annotation layout ("images", "annotations", "categories"); not changed.
            Only its images are scored. An annotation without a usable mask is left out of "segm"
            alone; where "area" is missing it is measured.
        iou_types: which of "bbox" and "segm" to score.

    Attributes:
        iou_types: as given.
        image_sizes: (height, width) by image id.
        categories: as in the document, in the order of their ids.
        indexed: by IoU type the annotations as pycocotools reads them.

    Raises:
        UserError: an unknown IoU type.
    """

    def __init__(self, document: dict[str, Any], iou_types: Sequence[str] = IOU_TYPES):
        for iou_type in iou_types:
            if iou_type not in IOU_TYPES:
                raise UserError(f"iou_types: {iou_type!r} is unknown, use 'bbox' and 'segm'.")
        self.iou_types = tuple(iou_types)
        self.image_sizes = {
            image["id"]: (image["height"], image["width"]) for image in document["images"]
        }
        self.categories = sorted(document["categories"], key=lambda category: category["id"])
        self._listed = {name: document[name] for name in ("images", "categories")}
        self.indexed = {
            iou_type: self.index(self._annotations(document["annotations"], iou_type))
            for iou_type in self.iou_types
        }

    def index(self, entries: list[dict[str, Any]]) -> COCO:
        """Annotations or detections of these images as pycocotools reads them."""
        coco = COCO()
        coco.dataset = {**self._listed, "annotations": entries}
        with contextlib.redirect_stdout(io.StringIO()):
            coco.createIndex()
        return coco

    def _annotations(
        self, annotations: list[dict[str, Any]], iou_type: str
    ) -> list[dict[str, Any]]:
        """The scored annotations as new dicts, since pycocotools writes into them.

        They are numbered from 1: to pycocotools a match with an annotation 0 is none.
        """
        listed = [each for each in annotations if each["image_id"] in self.image_sizes]
        if iou_type == "segm":
            sizes = [self.image_sizes[annotation["image_id"]] for annotation in listed]
            codes = compressed_rles([each.get("segmentation") for each in listed], sizes)
            shapes = [{"segmentation": code} for code in codes]
        else:
            shapes = [{"bbox": annotation["bbox"]} for annotation in listed]
        kept: list[dict[str, Any]] = []
        for annotation, shape in zip(listed, shapes, strict=True):
            if shape.get("segmentation", ...) is None:
                continue
            entry = {
                "id": len(kept) + 1,
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "iscrowd": annotation.get("iscrowd", 0),
                **shape,
            }
            if "area" in annotation:
                entry["area"] = annotation["area"]
            elif iou_type == "segm":
                entry["area"] = float(mask_api.area(shape["segmentation"]))
            else:
                entry["area"] = shape["bbox"][2] * shape["bbox"][3]
            kept.append(entry)
        return kept


class EvalInputs:
    """Detections beside the ground truth they are compared with.

    Args:
        truth: of the same images.
        results: COCO's result layout, one dict each: "image_id", "category_id", "score", for
            "bbox" "bbox" (x, y, width, height), for "segm" "segmentation" (run-length code of the
            image's size); not changed.

    Attributes:
        truth: as given.
        detections: as pycocotools reads them, the same for all IoU types. As in pycocotools a mask
            with a "bbox" counts as small, medium or large by the area of the box; Detectron2 takes
            the mask's own (its mask APs, APm and APl differ a little, nothing else does).

    Raises:
        UserError: a detection of an unknown image or category or with a malformed field.
    """

    def __init__(self, truth: GroundTruth, results: list[dict[str, Any]]):
        if not isinstance(results, list):
            raise UserError("detections: they must be a list, as in a COCO result file.")
        self.truth = truth
        self._category_ids = {category["id"] for category in truth.categories}
        entries = [self._checked(number, result) for number, result in enumerate(results)]
        if "segm" in truth.iou_types:
            self._add_masks(entries, results)
        self.detections = truth.index(entries)

    def _checked(self, number: int, result: dict[str, Any]) -> dict[str, Any]:
        def wrong(problem: str) -> UserError:
            return UserError(f"detections[{number}]: {problem}.")

        if not isinstance(result, dict):
            raise wrong("it must be an object with image_id, category_id, bbox and score")
        image_id, category_id = map(_id, (result.get("image_id"), result.get("category_id")))
        score, bbox = result.get("score"), result.get("bbox")
        if not isinstance(image_id, int | Integral) or image_id not in self.truth.image_sizes:
            raise wrong(f"image_id {image_id!r} is not among the images of the ground truth")
        if not isinstance(category_id, int | Integral) or category_id not in self._category_ids:
            raise wrong(
                f"category_id {category_id!r} is not among the categories of the ground truth"
            )
        if not _is_finite(score):
            raise wrong(f"score {score!r} must be a finite number")
        entry = {"id": number + 1, "image_id": image_id, "category_id": category_id, "score": score}
        if bbox is not None:
            if not _is_box(bbox):
                raise wrong(
                    f"bbox {bbox!r} must be x, y, width, height: finite numbers, no negative extent"
                )
            entry |= {"bbox": bbox, "area": bbox[2] * bbox[3]}
        elif "bbox" in self.truth.iou_types:
            raise wrong("bbox is missing; leave 'bbox' out of iou_types to score masks alone")
        if "segm" in self.truth.iou_types and result.get("segmentation") is None:
            raise wrong(
                "segmentation is missing; leave 'segm' out of iou_types to score boxes alone"
            )
        return entry

    def _add_masks(self, entries: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
        """Writes each result's mask into its entry, and the area where there is no box."""
        sizes = [self.truth.image_sizes[entry["image_id"]] for entry in entries]
        codes = compressed_rles([result["segmentation"] for result in results], sizes)
        for number, (entry, code) in enumerate(zip(entries, codes, strict=True)):
            if code is None:
                height, width = sizes[number]
                raise UserError(
                    f"detections[{number}]: segmentation must be a run-length code or polygons of "
                    f"its image ({height} x {width})."
                )
            entry["segmentation"] = code
            if "area" not in entry:
                entry["area"] = float(mask_api.area(code))


def _id(value: Any) -> Any:
    """A whole number that a table's export wrote as 2.0 is that number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_finite(value: Any) -> bool:
    # Whole numbers beyond the range of floats are none to compute with. Python's own kinds are
    # asked for first: an abstract one takes ten times as long.
    return isinstance(value, int | float | Real) and abs(value) <= sys.float_info.max


def _is_box(bbox: Any) -> bool:
    return (
        isinstance(bbox, list | tuple | np.ndarray)
        and len(bbox) == 4
        and all(_is_finite(value) for value in bbox)
        and min(bbox[2], bbox[3]) >= 0
        and _is_finite(float(bbox[2]) * float(bbox[3]))
    )
