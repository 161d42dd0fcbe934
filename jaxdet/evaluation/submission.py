"""Files of detections in COCO's result format, from anyone."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from jaxdet.errors import UserError
from jaxdet.evaluation.metric_names import IOU_TYPES
from jaxdet.files import read_file
from jaxdet.inference.coco_results import Results

FIELDS = {"bbox": "bbox", "segm": "segmentation"}
"""The field of an entry that each IoU type compares."""


def read_detections(path: Path) -> tuple[Results, tuple[str, ...], str]:
    """What a file holds, the IoU types its entries can be scored by, and its SHA-256.

    What the fields hold is for `jaxdet.evaluation.inputs.EvalInputs` to check.

    Raises:
        UserError: the file cannot be read, is no list of objects, or some of its entries have boxes
            or masks and others do not.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); --detections takes the path of a JSON file"
        ) from error
    try:
        results = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}); write the detections out again, as json.dump does"
        ) from error
    if not isinstance(results, list):
        raise UserError(
            f"{path} holds no list; COCO's result format is a list of objects with image_id, "
            "category_id, bbox or segmentation (or both), and score"
        )
    if not results:
        return results, ("bbox",), sha256(content).hexdigest()
    kinds = _kinds(path, results, 0)
    for number in range(1, len(results)):
        if _kinds(path, results, number) != kinds:
            raise UserError(
                f"{path}: entry {number} has other fields than entry 0, whose AP would be that of "
                f"{' and '.join(kinds)}; give all entries bbox, segmentation or both"
            )
    return results, kinds, sha256(content).hexdigest()


def _kinds(path: Path, results: Results, number: int) -> tuple[str, ...]:
    entry = results[number]
    fields = entry if isinstance(entry, dict) else {}
    kinds = tuple(kind for kind in IOU_TYPES if fields.get(FIELDS[kind]) is not None)
    if not kinds:
        raise UserError(
            f"{path}: entry {number} has neither bbox nor segmentation; an entry is an object with "
            "image_id, category_id, bbox or segmentation (or both), and score"
        )
    return kinds
