"""inspection.json of a finished run, read with care: it may come from anyone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jaxdet.benchmark.reporting.json_values import count, number, section, text
from jaxdet.evaluation.metric_names import (
    INSPECTION,
    INSPECTION_VERSION,
    IOU_TYPES,
    MAIN_ERRORS,
    RIGHT,
)
from jaxdet.files import regular_file

LARGEST_INSPECTION = 256 * 2**20

Box = tuple[float, float, float, float]
"""x, y, width and height in pixels."""


class Object(NamedTuple):
    """An annotated object: the position of its category, and whether it was found."""

    label: int
    box: Box
    is_found: bool


class Detection(NamedTuple):
    """A detection; `verdict` is RIGHT or one of MAIN_ERRORS."""

    label: int
    score: float
    box: Box
    verdict: str


class InspectedImage(NamedTuple):
    """What is on an image and what was found there, at the working point.

    Attributes:
        file: its name in the folder of images, where it has one.
        hw: height and width in pixels.
    """

    image_id: int
    file: str | None
    hw: tuple[int, int]
    objects: tuple[Object, ...]
    detections: tuple[Detection, ...]

    @property
    def wrong(self) -> list[Detection]:
        return [each for each in self.detections if each.verdict != RIGHT]

    @property
    def missed(self) -> list[Object]:
        return [each for each in self.objects if not each.is_found]


@dataclass(frozen=True)
class Inspection:
    """See `jaxdet.evaluation.inspection.inspect`.

    Attributes:
        objects: by "train" and "val", where known, how many of each category.
        confusion: (category, category found there): how often; one beyond the last category is the
            background.
    """

    categories: list[str]
    objects: dict[str, list[int]]
    precision: dict[str, dict[str, list[float]]]
    iou: float
    score: float
    confusion: dict[tuple[int, int], int]
    images: dict[int, InspectedImage]


def read_inspection(
    folder: Path, categories: Sequence[str], checkpoint_sha256: str
) -> Inspection | None:
    """That of a run of these categories; None where there is none of this version and result."""
    path = folder / INSPECTION
    try:
        if regular_file(path).stat().st_size > LARGEST_INSPECTION:
            return None
        content = section(json.loads(path.read_bytes()))
        is_known = content["version"] == INSPECTION_VERSION
        if not is_known or content["checkpoint_sha256"] != checkpoint_sha256:
            return None
        return _inspection(content, list(categories))
    # Whatever a damaged file has in another place than it should.
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None


def _inspection(content: dict[str, Any], categories: list[str]) -> Inspection:
    if content["categories"] != categories:
        raise ValueError("it is of other categories")
    classes = len(categories)
    images = [_image(each, classes) for each in content["images"]]
    return Inspection(
        categories=categories,
        objects={
            split: [_known(count(each)) for each in counts]
            for split, counts in section(content["objects"]).items()
            if split in ("train", "val") and isinstance(counts, list) and len(counts) == classes
        },
        precision={
            kind: {
                iou: [_share(each) for each in values]
                for iou, values in section(section(content["precision"]).get(kind)).items()
                if isinstance(values, list) and len(values) > 1
            }
            for kind in IOU_TYPES
        },
        iou=_share(content["iou"]),
        score=_known(number(content["score"])),
        confusion={
            (_label(row, classes + 1), _label(column, classes + 1)): _known(count(times))
            for row, column, times in content["confusion"]
        },
        images={image.image_id: image for image in images},
    )


def _image(content: dict[str, Any], classes: int) -> InspectedImage:
    height, width = (_known(count(side)) for side in content["hw"])
    if not height or not width:
        raise ValueError("an image has no pixels")
    return InspectedImage(
        image_id=_known(count(content["id"])),
        file=text(content["file"]),
        hw=(height, width),
        objects=tuple(
            Object(_label(label, classes), _box(box), found is True)
            for label, *box, found in content["objects"]
        ),
        detections=tuple(
            Detection(_label(label, classes), _known(number(score)), _box(box), _verdict(verdict))
            for label, score, *box, verdict in content["detections"]
        ),
    )


def _known(value: Any) -> Any:
    if value is None:
        raise ValueError("a number is missing or out of range")
    return value


def _share(value: Any) -> float:
    if not 0 <= _known(number(value)) <= 1:
        raise ValueError("a share is not in 0..1")
    return value


def _label(value: Any, classes: int) -> int:
    if not _known(count(value)) < classes:
        raise ValueError("a category is not among those listed")
    return value


def _box(values: list[Any]) -> Box:
    x, y, width, height = (_known(number(each)) for each in values)
    if min(width, height) < 0:
        raise ValueError("a box has a negative extent")
    return x, y, width, height


def _verdict(value: Any) -> str:
    if value not in (RIGHT, *MAIN_ERRORS):
        raise ValueError("an unknown kind of error")
    return value
