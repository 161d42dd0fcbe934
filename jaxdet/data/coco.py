"""COCO folders: an annotation file, read and checked once, and the images it lists.

What makes a file unusable is a UserError; what concerns single annotations only (a box of zero
size, a polygon of two points, ...) is skipped, counted and told by `CocoDataset.summary`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from jaxdet.data.dataset import RLE, Category, Example, Polygons
from jaxdet.data.picture import LARGEST_IMAGE, EncodedPicture
from jaxdet.data.rle import compressed_rle
from jaxdet.errors import UserError

LARGEST_COORDINATE = 1e6


def find_coco(
    root: str | Path | None,
    split: str,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """Finds the annotation file and the image folder of one split.

    Looked for, in this order: `root`/instances.json with `root`/images, then
    `root`/annotations/instances_`split`*.json with the folder `root`/`split`* of the same ending
    (instances_train2017.json with train2017), as the COCO downloads unpack.

    Args:
        root: the data set's folder; None where file and folder are given.
        split: "train" or "val".
        annotations: the file itself, where it lies elsewhere; `images` must be given too.
        images: the folder itself; `annotations` must be given too.

    Raises:
        UserError: nothing, or more than one pair, was found; names the places looked at.
    """
    if annotations and images:
        return Path(annotations), Path(images)
    if annotations or images:
        raise UserError(
            f"only one of annotation file and image folder is given for the {split} data; set both "
            f"config.data.{split}_annotations and config.data.{split}_images"
        )
    if not root:
        raise UserError(f"no folder is given for the {split} data; set config.data.root")
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; set config.data.root to the COCO folder")

    flat = root / "instances.json", root / "images"
    if os.path.isfile(flat[0]) and os.path.isdir(flat[1]):
        return flat
    pairs = [
        (file, root / file.stem.removeprefix("instances_"))
        for file in sorted((root / "annotations").glob(f"instances_{split}*.json"))
    ]
    pairs = [(file, folder) for file, folder in pairs if os.path.isdir(folder)]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        names = " and ".join(str(file) for file, _ in pairs)
        raise UserError(f"{root} holds several {split} sets: {names}; name file and folder of one")
    raise UserError(
        f"{root} holds no {split} set: looked for {flat[0]} with {flat[1]}, and for "
        f"{root / 'annotations' / f'instances_{split}*.json'} with {root / f'{split}*'} of the "
        "same ending; arrange the folder so, or name annotation file and image folder"
    )


@dataclass
class Skipped:
    """How often one kind of flaw was met, and where first."""

    count: int
    example: str


@dataclass
class Report:
    """What indexing an annotation file found.

    Attributes:
        images: images listed.
        images_with_objects: those with an object to train on.
        objects: objects to train on.
        most_objects: the most of them in one image.
        crowds: crowd regions, kept for evaluation only.
        skipped: by kind of flaw.
    """

    images: int = 0
    images_with_objects: int = 0
    objects: int = 0
    most_objects: int = 0
    crowds: int = 0
    skipped: dict[str, Skipped] = field(default_factory=dict)

    def skip(self, flaw: str, example: str) -> None:
        self.skipped.setdefault(flaw, Skipped(0, example)).count += 1


class CocoDataset:
    """Images and objects of a COCO instances file; a `DetectionDataset`.

    Any categories will do: ids may have holes; labels are positions in the order of ids. Objects
    without a usable segmentation are not trained on, crowd regions neither.

    Args:
        annotations: the JSON file.
        images: folder that the file names in it are relative to; None to use the annotations only.

    Raises:
        UserError: the file or folder is missing, the file is not a COCO instances file, ids are
            used twice, a category is not listed, or image files are missing or not inside the
            folder; from indexing, an image that cannot be read or is not of the size listed.
    """

    categories: tuple[Category, ...]
    image_ids: tuple[int, ...]
    report: Report

    def __init__(self, annotations: str | Path, images: str | Path | None):
        annotations = Path(annotations)
        document = _Document.read(annotations)
        self._annotations_path = annotations
        self._images_path = Path(images) if images is not None else None
        self._file_names = [image["file_name"] for image in document.images]
        self._sizes = np.array([(i["height"], i["width"]) for i in document.images], np.int32)
        self.categories = document.categories
        self.image_ids = tuple(image["id"] for image in document.images)
        if self._images_path is not None:
            _check_files(self._images_path, self._file_names, annotations)
        self._index_objects(document)

    def _index_objects(self, document: _Document) -> None:
        """Stores all objects in a few flat arrays: lists of lists would take gigabytes."""
        report = Report(images=len(document.images))
        images, labels, boxes = array("q"), array("i"), array("f")
        coordinates, polygon_ends, object_ends = array("f"), array("q"), array("q")
        self._rles: dict[int, RLE] = {}
        for annotation in document.iterate(report.skip):
            x, y, width, height = annotation.box
            if annotation.is_crowd:
                report.crowds += 1
            elif width <= 0 or height <= 0:
                report.skip("a box of zero size", annotation.name)
            elif annotation.segmentation is not None:
                if isinstance(annotation.segmentation, dict):
                    self._rles[len(images)] = annotation.segmentation
                else:
                    for polygon in annotation.segmentation:
                        coordinates.extend(polygon)
                        polygon_ends.append(len(coordinates) // 2)
                object_ends.append(len(polygon_ends))
                images.append(annotation.image)
                labels.append(annotation.label)
                boxes.extend((x, y, x + width, y + height))

        self._labels = np.array(labels, np.int32)
        self._boxes = np.array(boxes, np.float32).reshape(-1, 4)
        self._points = np.array(coordinates, np.float32).reshape(-1, 2)
        self._polygon_bounds = np.concatenate([[0], polygon_ends]).astype(np.int64)
        self._object_bounds = np.concatenate([[0], object_ends]).astype(np.int64)
        image_of_object = np.array(images, np.int64)
        self._by_image = np.argsort(image_of_object, kind="stable")
        counts = np.bincount(image_of_object, minlength=len(self))
        self._image_bounds = np.concatenate([[0], np.cumsum(counts)])
        report.objects = len(image_of_object)
        report.images_with_objects = int(np.count_nonzero(counts))
        report.most_objects = int(counts.max(initial=0))
        self.report = report

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Example:
        if self._images_path is None:
            raise UserError(
                f"{self._annotations_path} was opened without an image folder; name the folder"
            )
        objects = self._objects(index)
        path = self._images_path / self._file_names[index]
        return Example(
            picture=EncodedPicture(
                tuple(self._sizes[index].tolist()), path, str(path), str(self._annotations_path)
            ),
            image_id=self.image_ids[index],
            boxes=self._boxes[objects],
            labels=self._labels[objects],
            masks=[self._mask(number) for number in objects.tolist()],
        )

    def has_objects(self, index: int) -> bool:
        """Whether the image has an object with a usable segmentation that is not a crowd."""
        return len(self._objects(index)) > 0

    def _objects(self, index: int) -> np.ndarray:
        return self._by_image[self._image_bounds[index] : self._image_bounds[index + 1]]

    def _mask(self, number: int) -> Polygons | RLE:
        if number in self._rles:
            return self._rles[number]
        first, last = self._object_bounds[number : number + 2]
        bounds = self._polygon_bounds[first : last + 1]
        return [
            self._points[start:end].astype(np.float64) for start, end in itertools.pairwise(bounds)
        ]

    def ground_truth(self) -> dict[str, Any]:
        """The annotation file's content as pycocotools takes it, read anew.

        Annotations keep their fields. Where a custom set lacks id, area or iscrowd they are filled
        in; an id of 0, which pycocotools takes for "not matched", is replaced. Annotations of
        images that are not listed or with a box that is not four finite numbers are left out, and
        a segmentation without any usable part is removed from its annotation.
        """
        document = _Document.read(self._annotations_path)
        sound = list(document.iterate())
        next_id = 1 + max((annotation.raw.get("id") or 0 for annotation in sound), default=0)
        annotations = []
        for annotation in sound:
            filled = {**annotation.raw, "iscrowd": int(annotation.is_crowd)}
            if annotation.segmentation is None:
                filled.pop("segmentation", None)
            elif isinstance(annotation.segmentation, list):
                filled["segmentation"] = annotation.segmentation
            if not filled.get("id"):
                filled["id"] = next_id
                next_id += 1
            if not _is_finite(filled.get("area")):
                filled["area"] = _area(annotation, tuple(self._sizes[annotation.image].tolist()))
            annotations.append(filled)
        return {"info": {}, **document.raw, "annotations": annotations}

    def summary(self) -> str:
        """One line for the log: what there is, and what was skipped."""
        report = self.report
        skipped = ", ".join(
            f"{found.count} with {flaw} (first: {found.example})"
            for flaw, found in report.skipped.items()
        )
        return (
            f"{self._annotations_path}: {report.images} images, {report.images_with_objects} of "
            f"them with objects; {report.objects} objects of {len(self.categories)} classes, "
            f"at most {report.most_objects} in an image, {report.crowds} crowd regions; "
            f"skipped: {skipped or 'nothing'}"
        )


class _Annotation(NamedTuple):
    """One annotation of a listed image with a finite box.

    `image` and `label` are positions, `box` is (x, y, width, height) and `segmentation` holds what
    can be used of it, None where that is nothing.
    """

    raw: dict[str, Any]
    name: str
    image: int
    label: int
    box: list[float]
    segmentation: list[list[float]] | RLE | None
    is_crowd: bool


def _ignore(_flaw: str, _example: str) -> None:
    pass


@dataclass(frozen=True)
class _Document:
    """A parsed annotation file whose images and categories are known to be sound."""

    path: Path
    raw: dict[str, Any]
    images: list[dict[str, Any]]
    categories: tuple[Category, ...]

    @classmethod
    def read(cls, path: Path) -> _Document:
        try:
            raw = json.loads(path.read_bytes())
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
        for key in ("images", "annotations", "categories"):
            if not isinstance(raw, dict) or not isinstance(raw.get(key), list):
                raise UserError(
                    f"{path} is not a COCO instances file: it has no list {key!r}; name the file "
                    "with images, annotations and categories"
                )
        return cls(path, raw, cls._images(path, raw["images"]), cls._categories(path, raw))

    @staticmethod
    def _images(path: Path, images: list[Any]) -> list[dict[str, Any]]:
        if not images:
            raise UserError(f"{path} lists no images; name an annotation file with images")
        for position, image in enumerate(images):
            name = f"{path}: images[{position}]"
            _require_object(image, name)
            _require_id(image, "id", name)
            file_name = image.get("file_name")
            if not _is_file_name(file_name):
                raise UserError(f"{name} has file_name {file_name!r}; give the name of its file")
            sides = image.get("height"), image.get("width")
            if not all(_is_integer(side) and side > 0 for side in sides):
                raise UserError(
                    f"{name} ({file_name}) has height {sides[0]!r} and width {sides[1]!r}; "
                    "give both as whole numbers of pixels"
                )
            if sides[0] * sides[1] > LARGEST_IMAGE:
                raise UserError(
                    f"{name} ({file_name}) has {sides[0]} x {sides[1]} pixels, more than the "
                    f"{LARGEST_IMAGE} that are read; scale or tile it"
                )
        _require_unique(path, "images", "id", [image["id"] for image in images])
        return images

    @staticmethod
    def _categories(path: Path, raw: dict[str, Any]) -> tuple[Category, ...]:
        if not raw["categories"]:
            raise UserError(f"{path} lists no categories; add those its annotations name")
        for position, category in enumerate(raw["categories"]):
            name = f"{path}: categories[{position}]"
            _require_object(category, name)
            _require_id(category, "id", name)
            if not isinstance(category.get("name"), str):
                raise UserError(f"{name} has name {category.get('name')!r}; give a text")
        _require_unique(path, "categories", "id", [c["id"] for c in raw["categories"]])
        _require_unique(path, "categories", "name", [c["name"] for c in raw["categories"]])
        return tuple(sorted(Category(c["id"], c["name"]) for c in raw["categories"]))

    def iterate(self, skip: Callable[[str, str], None] = _ignore) -> Iterator[_Annotation]:
        """Checks and gives one annotation after the other.

        Args:
            skip: told each flaw by its kind and the annotation that has it.
        """
        image_positions = {image["id"]: position for position, image in enumerate(self.images)}
        labels = {category.id: label for label, category in enumerate(self.categories)}
        used_ids = set()
        for position, raw in enumerate(self.raw["annotations"]):
            name = f"annotations[{position}]"
            place = f"{self.path}: {name}"
            _require_object(raw, place)
            if raw.get("id") is not None:
                _require_id(raw, "id", place)
                name = f"annotation {raw['id']}"
                if raw["id"] in used_ids:
                    raise UserError(f"{place} has id {raw['id']} a second time; make ids unique")
                used_ids.add(raw["id"])
            _require_id(raw, "image_id", place)
            _require_id(raw, "category_id", place)
            if raw["category_id"] not in labels:
                raise UserError(
                    f"{place} has category_id {raw['category_id']}, which is not listed; add the "
                    "category or remove the annotation"
                )
            if raw.get("iscrowd", 0) not in (0, 1):
                raise UserError(f"{place} has iscrowd {raw['iscrowd']!r}; make it 0 or 1")
            image = image_positions.get(raw["image_id"])
            if image is None:
                skip("an image that is not listed", name)
                continue
            box = raw.get("bbox")
            if not _is_box(box):
                skip("a box that is not four finite numbers", name)
                continue
            size = self.images[image]["height"], self.images[image]["width"]
            yield _Annotation(
                raw=raw,
                name=name,
                image=image,
                label=labels[raw["category_id"]],
                box=box,
                segmentation=_usable_segmentation(raw.get("segmentation"), size, skip, name),
                is_crowd=bool(raw.get("iscrowd", 0)),
            )


def _require_object(value: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{place} is not a JSON object; export the annotations again as COCO")


def _require_id(values: dict[str, Any], key: str, place: str) -> None:
    value = values.get(key)
    if not _is_integer(value) or abs(value) >= 2**63:
        raise UserError(f"{place} has {key} {value!r}; make it a whole number")


def _require_unique(path: Path, key: str, field_name: str, values: list[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise UserError(
                f"{path}: two {key} have {field_name} {value}; make {field_name}s unique"
            )
        seen.add(value)


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


def _is_box(box: Any) -> bool:
    is_four_numbers = isinstance(box, list) and len(box) == 4 and _are_coordinates(box)
    return is_four_numbers and box[2] >= 0 and box[3] >= 0


def _usable_segmentation(
    segmentation: Any, size: tuple[int, int], skip: Callable[[str, str], None], name: str
) -> list[list[float]] | RLE | None:
    """The polygons that have an inside, or the compressed mask if it is one of this image."""
    if isinstance(segmentation, dict):
        rle = compressed_rle(segmentation, *size)
        if rle is not None and coco_mask.area(rle):
            return rle
        skip("a run-length mask that is malformed, empty or not of the image's size", name)
        return None
    if not segmentation:
        skip("no segmentation", name)
        return None
    usable, flaws = [], set()
    for polygon in segmentation if isinstance(segmentation, list) else [segmentation]:
        if isinstance(polygon, list) and (len(polygon) < 6 or len(polygon) % 2):
            flaws.add("a polygon of fewer than 6 or an odd count of numbers")
        elif not isinstance(polygon, list) or not _are_coordinates(polygon):
            flaws.add("a polygon that is not a list of finite numbers")
        else:
            usable.append(polygon)
    for flaw in sorted(flaws):
        skip(flaw, name)
    return usable or None


def _area(annotation: _Annotation, size: tuple[int, int]) -> float:
    """Pixels of the mask, of the box where there is no mask."""
    rle = compressed_rle(annotation.segmentation, *size)
    return float(annotation.box[2] * annotation.box[3] if rle is None else coco_mask.area(rle))


def _check_files(root: Path, file_names: list[str], annotations: Path) -> None:
    """Every file is in the image folder: found by listing folders, not by asking file by file."""
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such image folder; set the folder {annotations} belongs to")
    real_root = os.path.realpath(root)
    names_by_folder: dict[PurePosixPath, list[str]] = {}
    for file_name in file_names:
        path = PurePosixPath(file_name)
        if path.is_absolute() or ".." in path.parts or PureWindowsPath(file_name).anchor:
            raise _outside(file_name, root, annotations)
        names_by_folder.setdefault(path.parent, []).append(path.name)

    missing = []
    for folder, names in names_by_folder.items():
        if not _is_inside(root / folder, real_root):
            raise _outside(str(folder / names[0]), root, annotations)
        try:
            with os.scandir(root / folder) as entries:
                is_link = {entry.name: entry.is_symlink() for entry in entries}
        except OSError:
            is_link = {}
        for name in names:
            if name not in is_link:
                missing.append(str(folder / name))
            elif is_link[name] and not _is_inside(root / folder / name, real_root):
                raise _outside(str(folder / name), root, annotations)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(file_names)} images that {annotations} lists are not in "
            f"{root} (first: {missing[0]}); set the right image folder or complete it"
        )


def _is_inside(path: Path, real_root: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(real_root)


def _outside(file_name: str, root: Path, annotations: Path) -> UserError:
    return UserError(
        f"{annotations} names the image file {file_name!r}, which leads out of {root}; keep "
        "images inside the folder and name them relative to it"
    )
