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
from jaxdet.data.image import LARGEST_IMAGE, EncodedImage
from jaxdet.data.rle import compressed_rle
from jaxdet.errors import UserError

LARGEST_COORDINATE = 1e6


Refuse = Callable[[str], None]
"""What is done about something that makes a set unusable, said in one sentence."""


def stop(problem: str) -> None:
    """Refuses at once: raises UserError."""
    raise UserError(problem)


def find_coco(
    root: str | Path | None,
    split: str,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """Finds the annotation file and the image folder of one split.

    Looked for, in this order: `root`/instances.json with `root`/images, then
    `root`/annotations/instances_`split`*.json with the folder `root`/`split`* of the same ending
    (instances_train2017.json with train2017), as the COCO downloads unpack; then
    `root`/annotations/lvis_v1_`split`.json or `root`/lvis_v1_`split`.json, whose images lie in the
    folders of COCO beside it.

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
    for lvis in (root / "annotations" / f"lvis_v1_{split}.json", root / f"lvis_v1_{split}.json"):
        if os.path.isfile(lvis):
            return lvis, root
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
        refuse: told of everything that makes the set unusable; by default the first is raised.
            Where it returns, the entry concerned is left out.

    Attributes:
        unusable: positions of images whose file is missing or outside the folder; empty unless
            `refuse` returns.

    Raises:
        UserError: the file or folder is missing, the file is not a COCO instances file, ids are
            used twice, a category is not listed, or image files are missing or not inside the
            folder; from indexing, an image that cannot be read or is not of the size listed.
    """

    categories: tuple[Category, ...]
    image_ids: tuple[int, ...]
    report: Report

    def __init__(self, annotations: str | Path, images: str | Path | None, refuse: Refuse = stop):
        annotations = Path(annotations)
        document = _Document.read(annotations, refuse)
        self._annotations_path = annotations
        self._images_path = Path(images) if images is not None else None
        self._file_names = [_file_name(image) for image in document.images]
        self._sizes = np.array([(i["height"], i["width"]) for i in document.images], np.int32)
        self.categories = document.categories
        self.image_ids = tuple(image["id"] for image in document.images)
        self._ground_truth: dict[str, Any] | None = None
        self.unusable: set[int] = set()
        if self._images_path is not None:
            self.unusable = _unusable_files(
                self._images_path, self._file_names, annotations, refuse
            )
        self._index_objects(document, refuse)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes make batches; they need no ground truth.
        return self.__dict__ | {"_ground_truth": None}

    def _index_objects(self, document: _Document, refuse: Refuse) -> None:
        """Stores all objects in a few flat arrays: lists of lists would take gigabytes."""
        report = Report(images=len(document.images))
        images, labels, boxes = array("q"), array("i"), array("f")
        coordinates, polygon_ends, object_ends = array("f"), array("q"), array("q")
        self._rles: dict[int, RLE] = {}
        for annotation in document.iterate(report.skip, refuse):
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
        path, hw = self.file(index)
        return Example(
            picture=EncodedImage(hw, path, str(path), str(self._annotations_path)),
            image_id=self.image_ids[index],
            boxes=self._boxes[objects],
            labels=self._labels[objects],
            masks=[self._mask(number) for number in objects.tolist()],
        )

    def file_name(self, index: int) -> str:
        """An image's name in the annotations, relative to the image folder."""
        return self._file_names[index]

    def file(self, index: int) -> tuple[Path, tuple[int, int]]:
        """An image's path, and the height and width that the annotations list."""
        return self._images_path / self._file_names[index], tuple(self._sizes[index].tolist())

    def annotations(self) -> Iterator[Annotation]:
        """All annotations of listed images with a finite box, read anew from the file."""
        return _Document.read(self._annotations_path).iterate()

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
        """The annotation file's content as pycocotools takes it; read at the first call and kept.

        Annotations keep their fields. Where a custom set lacks id, area or iscrowd they are filled
        in; an id of 0, which pycocotools takes for "not matched", is replaced. Annotations of
        images that are not listed or with a box that is not four finite numbers are left out, and
        a segmentation without any usable part is removed from its annotation.
        """
        if self._ground_truth is None:
            self._ground_truth = self._read_ground_truth()
        return self._ground_truth

    def _read_ground_truth(self) -> dict[str, Any]:
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
        return f"{self._annotations_path}: {self.findings()}"

    def findings(self) -> str:
        """The summary without the file's name."""
        report = self.report
        skipped = ", ".join(
            f"{found.count} with {flaw} (first: {found.example})"
            for flaw, found in report.skipped.items()
        )
        return (
            f"{report.images} images, {report.images_with_objects} of "
            f"them with objects; {report.objects} objects of {len(self.categories)} classes, "
            f"at most {report.most_objects} in an image, {report.crowds} crowd regions; "
            f"skipped: {skipped or 'nothing'}"
        )


class Annotation(NamedTuple):
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
    def read(cls, path: Path, refuse: Refuse = stop) -> _Document:
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
        images = cls._images(path, raw["images"], refuse)
        return cls(path, raw, images, cls._categories(path, raw["categories"], refuse))

    @staticmethod
    def _images(path: Path, images: list[Any], refuse: Refuse) -> list[dict[str, Any]]:
        sound, ids = [], set()
        for position, image in enumerate(images):
            problem = _image_problem(image)
            if problem is None and image["id"] in ids:
                problem = f"has id {image['id']} a second time; make ids unique"
            if problem is None:
                sound.append(image)
                ids.add(image["id"])
            else:
                refuse(f"{path}: images[{position}] {problem}")
        if not images:
            refuse(f"{path} lists no images; name an annotation file with images")
        return sound

    @staticmethod
    def _categories(path: Path, categories: list[Any], refuse: Refuse) -> tuple[Category, ...]:
        sound, used = [], set()
        for position, category in enumerate(categories):
            problem = _category_problem(category)
            if problem is None and not used.isdisjoint((category["id"], category["name"])):
                which = "id" if category["id"] in used else "name"
                problem = f"has {which} {category[which]} a second time; make {which}s unique"
            if problem is None:
                sound.append(Category(category["id"], category["name"]))
                used |= {category["id"], category["name"]}
            else:
                refuse(f"{path}: categories[{position}] {problem}")
        if not categories:
            refuse(f"{path} lists no categories; add those its annotations name")
        return tuple(sorted(sound))

    def iterate(
        self, skip: Callable[[str, str], None] = _ignore, refuse: Refuse = stop
    ) -> Iterator[Annotation]:
        """Checks and gives one annotation after the other.

        Args:
            skip: told each flaw by its kind and the annotation that has it.
            refuse: told of each annotation that makes the file unusable.
        """
        image_positions = {image["id"]: position for position, image in enumerate(self.images)}
        labels = {category.id: label for label, category in enumerate(self.categories)}
        used_ids = set()
        for position, raw in enumerate(self.raw["annotations"]):
            problem = _annotation_problem(raw, labels)
            if problem is None and raw.get("id") in used_ids:
                problem = f"has id {raw['id']} a second time; make ids unique"
            if problem is not None:
                refuse(f"{self.path}: annotations[{position}] {problem}")
                continue
            name = f"annotations[{position}]"
            if raw.get("id") is not None:
                name = f"annotation {raw['id']}"
                used_ids.add(raw["id"])
            image = image_positions.get(raw["image_id"])
            if image is None:
                skip("an image that is not listed", name)
                continue
            box = raw.get("bbox")
            if not _is_box(box):
                skip("a box that is not four finite numbers", name)
                continue
            size = self.images[image]["height"], self.images[image]["width"]
            yield Annotation(
                raw=raw,
                name=name,
                image=image,
                label=labels[raw["category_id"]],
                box=box,
                segmentation=_usable_segmentation(raw.get("segmentation"), size, skip, name),
                is_crowd=bool(raw.get("iscrowd", 0)),
            )


NOT_AN_OBJECT = "is not a JSON object; export the annotations again as COCO"


def _image_problem(image: Any) -> str | None:
    """What is wrong with an entry of "images" and the mend; None if nothing."""
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
    """What is wrong with an entry of "categories" and the mend; None if nothing."""
    if not isinstance(category, dict):
        return NOT_AN_OBJECT
    if not _is_id(category.get("id")):
        return _id_problem(category, "id")
    if not isinstance(category.get("name"), str):
        return f"has name {category.get('name')!r}; give a text"
    return None


def _annotation_problem(annotation: Any, labels: dict[int, int]) -> str | None:
    """What of an annotation makes the file unusable and the mend; None if nothing."""
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


def _area(annotation: Annotation, size: tuple[int, int]) -> float:
    """Pixels of the mask, of the box where there is no mask."""
    rle = compressed_rle(annotation.segmentation, *size)
    return float(annotation.box[2] * annotation.box[3] if rle is None else coco_mask.area(rle))


def _unusable_files(
    root: Path, file_names: list[str], annotations: Path, refuse: Refuse
) -> set[int]:
    """Positions of files that are not in the image folder.

    They are found by listing folders, not by asking file by file.
    """
    if not os.path.isdir(root):
        refuse(f"{root}: no such image folder; set the folder {annotations} belongs to")
        return set(range(len(file_names)))
    real_root = os.path.realpath(root)
    by_folder: dict[PurePosixPath, list[tuple[int, str]]] = {}
    missing, outside = [], []
    for position, file_name in enumerate(file_names):
        path = PurePosixPath(file_name)
        if path.is_absolute() or ".." in path.parts or PureWindowsPath(file_name).anchor:
            outside.append(position)
        else:
            by_folder.setdefault(path.parent, []).append((position, path.name))

    for folder, files in by_folder.items():
        if not _is_inside(root / folder, real_root):
            outside += [position for position, _ in files]
            continue
        try:
            with os.scandir(root / folder) as entries:
                is_link = {entry.name: entry.is_symlink() for entry in entries}
        except OSError:
            is_link = {}
        for position, name in files:
            if name not in is_link:
                missing.append(position)
            elif is_link[name] and not _is_inside(root / folder / name, real_root):
                outside.append(position)
    for position in sorted(outside):
        refuse(
            f"{annotations} names the image file {file_names[position]!r}, which leads out of "
            f"{root}; keep images inside the folder and name them relative to it"
        )
    if missing:
        refuse(
            f"{len(missing)} of {len(file_names)} images that {annotations} lists are not in "
            f"{root} (first: {file_names[min(missing)]}); set the right image folder or complete it"
        )
    return {*missing, *outside}


def _is_inside(path: Path, real_root: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(real_root)
