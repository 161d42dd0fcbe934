"""COCO instances files, read and checked.

What makes a file unusable is an error; what concerns single annotations only (a box of zero size, a
polygon of two points, ...) is a flaw: the annotation, or that part of it, is left out.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from jaxdet.data.dataset import RLE, Category
from jaxdet.data.image import LARGEST_IMAGE
from jaxdet.data.rle import compressed_rle
from jaxdet.errors import UserError
from jaxdet.files import read_file

LARGEST_COORDINATE = 1e6
SMALLEST_AREA = 1e-6
"""Square pixels below which a triangle of a polygon's corners is a line."""

ENTRIES = "images", "annotations", "categories"

NO_AREA = "an area computed from the mask or box, as it is missing or no number"
NO_MASK = "no segmentation"
BAD_RLE = "a run-length mask that is malformed, empty or not of the image's size"
SHORT_POLYGON = "a polygon of fewer than 6 or an odd count of numbers"
BAD_POLYGON = "a polygon that is not a list of finite numbers"
FLAT_MASK = "a polygon without an area: its corners lie on one line"
MASK_FLAWS = (NO_MASK, BAD_RLE, SHORT_POLYGON, BAD_POLYGON, FLAT_MASK)
"""Kinds of flaws that matter where masks are trained alone."""

OnError = Callable[[str], None]
"""Called with one sentence for everything that makes a set unusable. Where it returns, the entry
concerned is left out."""

OnFlaw = Callable[[str, str], None]
"""Called with each flaw's kind and the annotation that has it."""


def fail(problem: str) -> None:
    """The default `OnError`: raises UserError."""
    raise UserError(problem)


def ignore(_flaw: str, _annotation: str) -> None:
    """The default `OnFlaw`."""


class Annotation(NamedTuple):
    """One annotation of a listed image with a finite box.

    `image` and `label` are positions, `box` is (x, y, width, height) and `segmentation` holds what
    can be used of it, None where that is nothing. `has_mask` tells whether that has an inside:
    what has none is scored, as by pycocotools, and not trained on.
    """

    raw: dict[str, Any]
    name: str
    image: int
    label: int
    box: list[float]
    segmentation: list[list[float]] | RLE | None
    has_mask: bool
    is_crowd: bool

    @property
    def is_trainable(self) -> bool:
        """Whether it is an object with a usable mask that is not a crowd."""
        return self.has_mask and not self.is_crowd and min(self.box[2:]) > 0

    @property
    def is_box_only(self) -> bool:
        """Whether it is an object with a box alone."""
        return not self.has_mask and not self.is_crowd and min(self.box[2:]) > 0

    def filling_its_box(self) -> Annotation:
        """The same with its box for a mask."""
        x1, y1, x2, y2 = self.corners
        return self._replace(segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]], has_mask=True)

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """The box as (x1, y1, x2, y2)."""
        x, y, width, height = self.box
        return x, y, x + width, y + height


@dataclass(frozen=True)
class AnnotationFile:
    """A parsed annotation file whose images and categories are known to be sound.

    Attributes:
        raw: its content, without a grouping category.
        listed: its whole content.
        images: the sound entries of "images".
        categories: in the order of their ids.
    """

    path: Path
    raw: dict[str, Any]
    listed: dict[str, Any]
    images: list[dict[str, Any]]
    categories: tuple[Category, ...]

    @classmethod
    def read(cls, path: Path, on_error: OnError = fail) -> AnnotationFile:
        """Reads a file and checks all of it but its annotations.

        Raises:
            UserError: it is missing, no JSON, or no COCO instances file.
        """
        raw = read_json(path)
        for key in ENTRIES:
            if not isinstance(raw, dict) or not isinstance(raw.get(key), list):
                raise UserError(
                    f"{path} is not a COCO instances file: it has no list {key!r}; name the file "
                    "with images, annotations and categories"
                )
            _read_whole_numbers(raw[key])
        listed, raw = raw, without_grouping(raw)
        images = _sound(path, raw, "images", _image_problem, ("id",), on_error)
        categories = _sound(path, raw, "categories", _category_problem, ("id", "name"), on_error)
        labels = sorted(Category(category["id"], category["name"]) for category in categories)
        return cls(path, raw, listed, images, tuple(labels))

    def annotations(
        self, on_flaw: OnFlaw = ignore, on_error: OnError = fail, on_repair: OnFlaw = ignore
    ) -> Iterator[Annotation]:
        """Checks and gives one annotation after the other.

        A box that is not four finite numbers is taken around the mask where there is one, and
        numbers written as text are read; `on_repair` is told of both.
        """
        image_positions = {image["id"]: position for position, image in enumerate(self.images)}
        labels = {category.id: label for label, category in enumerate(self.categories)}
        used_ids = set()
        for position, raw in enumerate(self.raw["annotations"]):
            problem = _annotation_problem(raw, labels)
            if problem is None and raw.get("id") in used_ids:
                problem = f"has id {raw['id']} a second time; make ids unique"
            if problem is not None:
                on_error(f"{self.path}: annotations[{position}] {problem}")
                continue
            name = f"annotations[{position}]"
            if raw.get("id") is not None:
                name = f"annotation {raw['id']}"
                used_ids.add(raw["id"])
            image = image_positions.get(raw["image_id"])
            if image is None:
                on_flaw("an image that is not listed", name)
                continue
            segmentation = raw.get("segmentation")
            mended_segmentation = _numbers_in(segmentation)
            if mended_segmentation is not segmentation:
                on_repair("a segmentation of numbers written as text", name)
            segmentation = _usable_segmentation(
                mended_segmentation, self.size(image), on_flaw, name
            )
            box, repair = _box(raw.get("bbox"), segmentation)
            if box is None:
                on_flaw("a box that is not four finite numbers", name)
                continue
            if repair is not None:
                on_repair(repair, name)
            if not _is_finite(raw.get("area")):
                on_repair(NO_AREA, name)
            has_mask = segmentation is not None and not is_flat(segmentation)
            if segmentation is not None and not has_mask:
                on_flaw(FLAT_MASK, name)
            annotation = Annotation(
                raw=raw,
                name=name,
                image=image,
                label=labels[raw["category_id"]],
                box=box,
                segmentation=segmentation,
                has_mask=has_mask,
                is_crowd=bool(raw.get("iscrowd", 0)),
            )
            if min(annotation.box[2:]) <= 0 and not annotation.is_crowd:
                on_flaw("a box of zero size", name)
            yield annotation

    def size(self, image: int) -> tuple[int, int]:
        """Height and width of the image at a position."""
        return self.images[image]["height"], self.images[image]["width"]

    def annotated_images(self) -> np.ndarray:
        """Of each image whether it has any annotation, bool [images]."""
        annotations = (each for each in self.raw["annotations"] if isinstance(each, dict))
        ids = {each["image_id"] for each in annotations if _is_id(each.get("image_id"))}
        return np.array([image["id"] in ids for image in self.images], bool)

    def file_names(self) -> list[str]:
        """Of each image, relative to the image folder."""
        return [_file_name(image) for image in self.images]

    def ground_truth(self, annotations: Iterable[Annotation]) -> dict[str, Any]:
        """The content as pycocotools takes it, with these annotations of the file.

        They keep their fields. Where a custom set lacks id, area, iscrowd or a usable box they are
        filled in; an id of 0, which pycocotools takes for "not matched", is replaced. A
        segmentation without any usable part is removed.
        """
        annotations = list(annotations)
        next_id = 1 + max((annotation.raw.get("id") or 0 for annotation in annotations), default=0)
        completed = []
        for annotation in annotations:
            entry = {**annotation.raw, "iscrowd": int(annotation.is_crowd), "bbox": annotation.box}
            if annotation.segmentation is None:
                entry.pop("segmentation", None)
            elif isinstance(annotation.segmentation, list):
                entry["segmentation"] = annotation.segmentation
            if not entry.get("id"):
                entry["id"] = next_id
                next_id += 1
            if not _is_finite(entry.get("area")):
                entry["area"] = _area(annotation, self.size(annotation.image))
            completed.append(entry)
        return {"info": {}, **self.raw, "annotations": completed}


def grouping_category(raw: dict[str, Any]) -> dict[str, Any] | None:
    """The category that Roboflow puts before the classes to name the project; None without one.

    It is the supercategory of all others, has none itself, and no annotation is of it.
    """
    categories = raw["categories"]
    if len(categories) < 2 or not all(isinstance(category, dict) for category in categories):
        return None
    first, *others = categories
    is_group = first.get("supercategory") == "none" and all(
        other.get("supercategory") == first.get("name") for other in others
    )
    if not is_group or first.get("id") in [other.get("id") for other in others]:
        return None
    is_used = any(
        isinstance(annotation, dict) and annotation.get("category_id") == first.get("id")
        for annotation in raw["annotations"]
    )
    return None if is_used else first


def without_grouping(raw: dict[str, Any]) -> dict[str, Any]:
    """The content without its grouping category."""
    group = grouping_category(raw)
    if group is None:
        return raw
    return {**raw, "categories": [other for other in raw["categories"] if other is not group]}


def read_ground_truth(path: Path) -> dict[str, Any]:
    """A file's content as `AnnotationFile.ground_truth` gives it.

    Raises:
        UserError: the file is missing or unusable.
    """
    file = AnnotationFile.read(path)
    return file.ground_truth(file.annotations())


def read_json(path: Path) -> Any:
    """An annotation file's content, not checked.

    Raises:
        UserError: it is missing or no JSON.
    """
    try:
        return json.loads(read_file(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such annotation file; correct the path") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); name a readable annotation file"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not valid JSON ({reason}); fetch or export the annotations again"
        ) from error


def _read_whole_numbers(entries: list[Any]) -> None:
    """Ids and sizes that a table's export wrote as 2.0 become 2, in place."""
    for entry in entries:
        if not isinstance(entry, dict):
            continue
        for key in ("id", "image_id", "category_id", "height", "width"):
            value = entry.get(key)
            if type(value) is float and value.is_integer():
                entry[key] = int(value)


def _sound(
    path: Path,
    raw: dict[str, Any],
    key: str,
    problem_of: Callable[[Any], str | None],
    unique: tuple[str, ...],
    on_error: OnError,
) -> list[dict[str, Any]]:
    """The entries of a list without a problem and whose `unique` fields are not used before."""
    sound, used = [], set()
    for position, entry in enumerate(raw[key]):
        problem = problem_of(entry)
        for field in unique:
            if problem is None and (field, entry[field]) in used:
                problem = f"has {field} {entry[field]} a second time; make {field}s unique"
        if problem is None:
            sound.append(entry)
            used |= {(field, entry[field]) for field in unique}
        else:
            on_error(f"{path}: {key}[{position}] {problem}")
    if not raw[key]:
        on_error(f"{path} lists no {key}; add those that its annotations name")
    return sound


NOT_AN_OBJECT = "is not a JSON object; export the annotations again as COCO"


def _image_problem(image: Any) -> str | None:
    """What is wrong with an entry of "images" and the fix; None if nothing."""
    if not isinstance(image, dict):
        return NOT_AN_OBJECT
    file_name = _file_name(image)
    sides = image.get("height"), image.get("width")
    if not _is_id(image.get("id")):
        return _id_problem(image, "id")
    if not _is_file_name(file_name):
        return f"has file_name {file_name!r}; give the name of its file"
    if not all(_is_integer(side) and side > 0 for side in sides):
        return (
            f"({file_name}) has height {sides[0]!r} and width {sides[1]!r}; "
            "give both as whole numbers of pixels"
        )
    if sides[0] * sides[1] > LARGEST_IMAGE:
        return (
            f"({file_name}) has {sides[0]} x {sides[1]} pixels, more than the {LARGEST_IMAGE} "
            "that are read; scale or tile it"
        )
    return None


def _category_problem(category: Any) -> str | None:
    """What is wrong with an entry of "categories" and the fix; None if nothing."""
    if not isinstance(category, dict):
        return NOT_AN_OBJECT
    if not _is_id(category.get("id")):
        return _id_problem(category, "id")
    if not isinstance(category.get("name"), str) or not _is_unicode(category["name"]):
        return f"has name {category.get('name')!r}; give a text"
    return None


def _annotation_problem(annotation: Any, labels: dict[int, int]) -> str | None:
    """What of an annotation makes the file unusable and the fix; None if nothing."""
    if not isinstance(annotation, dict):
        return NOT_AN_OBJECT
    if annotation.get("id") is not None and not _is_id(annotation["id"]):
        return _id_problem(annotation, "id")
    for key in ("image_id", "category_id"):
        if not _is_id(annotation.get(key)):
            return _id_problem(annotation, key)
    if annotation["category_id"] not in labels:
        return (
            f"has category_id {annotation['category_id']}, which is not listed; add the category "
            "or remove the annotation"
        )
    if annotation.get("iscrowd", 0) not in (0, 1):
        return f"has iscrowd {annotation['iscrowd']!r}; make it 0 or 1"
    return None


def _is_id(value: Any) -> bool:
    return _is_integer(value) and abs(value) < 2**63


def _id_problem(entry: dict[str, Any], key: str) -> str:
    return f"has {key} {entry.get(key)!r}; make it a whole number"


def _file_name(image: dict[str, Any]) -> Any:
    """The file's name; LVIS gives only its address, which ends in COCO's folder and name."""
    address = image.get("coco_url")
    if image.get("file_name") is None and isinstance(address, str):
        return "/".join(address.split("/")[-2:])
    return image.get("file_name")


def _is_unicode(text: str) -> bool:
    """Whether it can be written at all; half of a pair of surrogates cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_file_name(value: Any) -> bool:
    try:
        return isinstance(value, str) and value != "" and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < math.inf


def _are_coordinates(values: Any) -> bool:
    """Whether all of at least one value can be coordinates; found by functions of C speed."""
    try:
        return (
            math.isfinite(sum(values))
            and min(values) >= -LARGEST_COORDINATE
            and max(values) <= LARGEST_COORDINATE
        )
    except (TypeError, OverflowError):
        return False


def _numbers_in(value: Any) -> Any:
    """Numbers written as text read, in lists and lists of lists; else the value itself."""
    if not isinstance(value, list) or not value:
        return value
    if isinstance(value[0], list):
        read = [_numbers_in(each) for each in value]
        return value if all(a is b for a, b in zip(read, value, strict=True)) else read
    if not isinstance(value[0], str):
        return value
    try:
        return [float(each) for each in value]
    except (TypeError, ValueError):
        return value


def _box(
    box: Any, segmentation: list[list[float]] | RLE | None
) -> tuple[list[float] | None, str | None]:
    """A box that can be used, and what had to be done for it; None where there is none."""
    if _is_box(box):
        return box, None
    read = _numbers_in(box)
    if _is_box(read):
        return read, "a box of numbers written as text"
    if segmentation is None:
        return None, None
    return _box_around(segmentation), "a box taken from the mask, as it is missing or unusable"


def _box_around(segmentation: list[list[float]] | RLE) -> list[float]:
    """The extent of a usable segmentation as (x, y, width, height)."""
    if isinstance(segmentation, dict):
        return coco_mask.toBbox(segmentation).tolist()
    xs = [x for polygon in segmentation for x in polygon[::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _is_box(box: Any) -> bool:
    is_four_numbers = isinstance(box, list) and len(box) == 4 and _are_coordinates(box)
    return is_four_numbers and box[2] >= 0 and box[3] >= 0


def _usable_segmentation(
    segmentation: Any, size: tuple[int, int], on_flaw: OnFlaw, name: str
) -> list[list[float]] | RLE | None:
    """The polygons that have an inside, or the compressed mask if it is one of this image."""
    if isinstance(segmentation, dict):
        rle = compressed_rle(segmentation, *size)
        if rle is not None and coco_mask.area(rle):
            return rle
        on_flaw(BAD_RLE, name)
        return None
    if not segmentation:
        on_flaw(NO_MASK, name)
        return None
    usable, flaws = [], set()
    for polygon in segmentation if isinstance(segmentation, list) else [segmentation]:
        if isinstance(polygon, list) and (len(polygon) < 6 or len(polygon) % 2):
            flaws.add(SHORT_POLYGON)
        elif not isinstance(polygon, list) or not _are_coordinates(polygon):
            flaws.add(BAD_POLYGON)
        else:
            usable.append(polygon)
    for flaw in sorted(flaws):
        on_flaw(flaw, name)
    return usable or None


def is_flat(segmentation: list[list[float]] | RLE) -> bool:
    """Whether all corners of each polygon lie on one line, so that there is no inside."""
    return isinstance(segmentation, list) and all(map(_is_line, segmentation))


def _is_line(polygon: list[float]) -> bool:
    left, top = polygon[:2]
    along_x = along_y = 0.0
    for x, y in zip(polygon[2::2], polygon[3::2], strict=True):
        x, y = x - left, y - top
        if abs(along_x * y - along_y * x) > 2 * SMALLEST_AREA:
            return False
        if abs(x) + abs(y) > abs(along_x) + abs(along_y):
            along_x, along_y = x, y
    return True


def _area(annotation: Annotation, size: tuple[int, int]) -> float:
    """Pixels of the mask, of the box where there is no mask."""
    rle = compressed_rle(annotation.segmentation, *size)
    return float(annotation.box[2] * annotation.box[3] if rle is None else coco_mask.area(rle))
