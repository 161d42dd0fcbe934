"""COCO folders as data sets: an annotation file, read and checked once, and the images it lists."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from jaxdet.data.coco_annotations import (
    MASK_FLAWS,
    Annotation,
    AnnotationFile,
    OnError,
    fail,
    grouping_category,
    read_ground_truth,
)
from jaxdet.data.coco_doubts import file_doubts
from jaxdet.data.coco_files import find_files
from jaxdet.data.dataset import RLE, Example, Polygons
from jaxdet.data.doubts import EXAMPLES, Doubt, box_doubts
from jaxdet.data.findings import Findings
from jaxdet.data.image import EncodedImage
from jaxdet.errors import UserError
from jaxdet.files import file_sha256


class CocoDataset:
    """Images and objects of a COCO instances file; a `DetectionDataset`.

    Any categories will do: ids may have holes; labels are positions in the order of ids. Objects
    without a usable segmentation are not trained on, crowd regions neither.

    Args:
        annotations: the JSON file.
        images: folder that the file names in it are relative to; None to use the annotations only.
        on_error: called with everything that makes the set unusable; by default the first is
            raised. Where it returns, the entry concerned is left out.
        masks: whether objects need a usable mask to be trained on; where they do not, one without
            counts as filling its box.
        orientation: "stored" or "exif", see `EncodedImage`.
        keep_ground_truth: whether `ground_truth` is made now, of this reading of the file, and
            not at its first call. It takes much more memory than the rest.

    Attributes:
        unusable: positions of images whose file is missing or outside the folder; empty unless
            `on_error` returns.

    Raises:
        UserError: the file or folder is missing, the file is not a COCO instances file, ids are
            used twice, a category is not listed, or image files are missing or not inside the
            folder; from indexing, an image that cannot be read or is not of the size listed.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path | None,
        on_error: OnError = fail,
        *,
        masks: bool = True,
        orientation: str = "stored",
        keep_ground_truth: bool = False,
    ):
        file = AnnotationFile.read(Path(annotations), on_error)
        self._annotations_path = file.path
        self._images_path = Path(images) if images is not None else None
        self._file_names = file.file_names()
        self._sizes = np.array([file.size(i) for i in range(len(file.images))], np.int32)
        self.categories = file.categories
        self.image_ids = tuple(image["id"] for image in file.images)
        self.unusable: set[int] = set()
        self._respelled: list[tuple[str, str]] = []
        self._masks, self._orientation = masks, orientation
        if self._images_path is not None:
            self._find_files(file, on_error)
        self._group = grouping_category(file.listed)
        self._annotated = file.annotated_images()
        self.report = Findings(images=len(file.images))
        found: Iterable[Annotation] = file.annotations(self._skip, on_error, self.report.repair)
        self._ground_truth: dict[str, Any] | None = None
        if keep_ground_truth:
            found = list(found)
            self._ground_truth = file.ground_truth(found)
        self._index_objects(found)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes make batches; they need no ground truth.
        return self.__dict__ | {"_ground_truth": None}

    def _skip(self, flaw: str, annotation: str) -> None:
        if self._masks or flaw not in MASK_FLAWS:
            self.report.skip(flaw, annotation)

    def _find_files(self, file: AnnotationFile, on_error: OnError) -> None:
        files = find_files(self._images_path, self._file_names, file.path, on_error)
        self._respelled = [(self._file_names[i], files.names[i]) for i in files.respelled]
        self._file_names, self.unusable = files.names, files.unusable

    def _index_objects(self, annotations: Iterable[Annotation]) -> None:
        """Stores all objects in a few flat arrays: lists of lists would take gigabytes."""
        report = self.report
        images, labels, boxes = array("q"), array("i"), array("f")
        coordinates, polygon_ends, object_ends = array("f"), array("q"), array("q")
        self._rles: dict[int, RLE] = {}
        for annotation in annotations:
            report.annotations += 1
            report.crowds += annotation.is_crowd
            report.box_only += annotation.is_box_only and self._masks
            if not self._masks and annotation.is_box_only:
                annotation = annotation.filling_its_box()
            if not annotation.is_trainable:
                continue
            if isinstance(annotation.segmentation, dict):
                self._rles[len(images)] = annotation.segmentation
            else:
                for polygon in annotation.segmentation:
                    coordinates.extend(polygon)
                    polygon_ends.append(len(coordinates) // 2)
            object_ends.append(len(polygon_ends))
            images.append(annotation.image)
            labels.append(annotation.label)
            boxes.extend(annotation.corners)

        self._labels = np.array(labels, np.int32)
        self._boxes = np.array(boxes, np.float32).reshape(-1, 4)
        self._points = np.array(coordinates, np.float32).reshape(-1, 2)
        self._polygon_bounds = np.concatenate([[0], polygon_ends]).astype(np.int64)
        self._object_bounds = np.concatenate([[0], object_ends]).astype(np.int64)
        image_of_object = np.array(images, np.int64)
        self._image_of_object = image_of_object
        self._by_image = np.argsort(image_of_object, kind="stable")
        counts = np.bincount(image_of_object, minlength=len(self))
        self._image_bounds = np.concatenate([[0], np.cumsum(counts)])
        report.objects = len(image_of_object)
        report.images_with_objects = int(np.count_nonzero(counts))
        report.most_objects = int(counts.max(initial=0))

    @cached_property
    def annotations_sha256(self) -> str:
        """SHA-256 of the annotation file."""
        try:
            return file_sha256(self._annotations_path)
        except OSError as error:
            raise UserError(
                f"{self._annotations_path} cannot be read any more ({error.strerror}); put it back"
            ) from error

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
            lazy_image=EncodedImage(
                hw, path, str(path), str(self._annotations_path), self._orientation
            ),
            image_id=self.image_ids[index],
            boxes=self._boxes[objects],
            labels=self._labels[objects],
            masks=[self._mask(number) for number in objects.tolist()],
        )

    def file(self, index: int) -> tuple[Path, tuple[int, int]]:
        """An image's path, and the height and width that the annotations list."""
        return self._images_path / self._file_names[index], tuple(self._sizes[index].tolist())

    def has_objects(self, index: int) -> bool:
        """Whether the image has an object with a usable segmentation that is not a crowd."""
        return len(self._objects(index)) > 0

    def labels(self, index: int) -> np.ndarray:
        """Of the image's objects, int32 [objects]."""
        return self._labels[self._objects(index)]

    def is_background(self, index: int) -> bool:
        """Whether the image has no annotation at all, not even one that is not trained on."""
        return not self._annotated[index]

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
        """The annotation file's content as pycocotools takes it; made at most once and kept.

        See `AnnotationFile.ground_truth` for what is filled in. Annotations of images that are not
        listed or with a box that is not four finite numbers are left out.
        """
        if self._ground_truth is None:
            self._ground_truth = read_ground_truth(self._annotations_path)
        return self._ground_truth

    def summary(self) -> str:
        """One line for the log: what there is, and what was skipped."""
        return f"{self._annotations_path}: {self.findings()}"

    def findings(self) -> str:
        """The summary without the file's name."""
        report = self.report
        skipped = ", ".join(
            f"{len(names)} with {flaw} (first: {names[0]})"
            for flaw, names in report.skipped.items()
        )
        repaired = "".join(
            f"; {len(names)} with {repair} (first: {names[0]})"
            for repair, names in report.repaired.items()
        )
        return (
            f"{report.images} images, {report.images_with_objects} of "
            f"them with objects; {report.objects} objects of {len(self.categories)} classes, "
            f"at most {report.most_objects} in an image, {report.crowds} crowd regions; "
            f"skipped: {skipped or 'nothing'}{repaired}"
        )

    def doubts(self) -> list[Doubt]:
        """What the set says that cannot be meant, see `jaxdet.data.doubts`."""
        hw = self._sizes[self._image_of_object]
        about_boxes = box_doubts(self._boxes, self._extents(), hw, self._object_name)
        counts = np.bincount(self._labels, minlength=len(self.categories))
        about_file = file_doubts(
            self.report,
            [self.categories[label].name for label in np.flatnonzero(counts == 0)],
            [self._file_names[i] for i in np.flatnonzero(~self._annotated)],
            self._respelled,
            None if self._group is None else self._group["name"],
        )
        return about_file + about_boxes + self._repeated_objects()

    def _repeated_objects(self) -> list[Doubt]:
        """Objects of one box and class that an image lists again."""
        rows = np.column_stack([self._image_of_object, self._labels, self._boxes.astype(float)])
        _, first = np.unique(rows, axis=0, return_index=True)
        again = np.setdiff1d(np.arange(len(rows)), first)
        if not len(again):
            return []
        claim = f"{len(again)} of {len(rows)} objects are listed again, with the same box and class"
        fix = "remove them: detectors find each object once, and the other counts as missed"
        examples = tuple(map(self._object_name, again[:EXAMPLES].tolist()))
        return [Doubt(claim, fix, examples)]

    def _extents(self) -> np.ndarray:
        """Of each object's mask, float32 [objects, 4], (x1, y1, x2, y2)."""
        extents = self._boxes.copy()
        outlined = np.flatnonzero(np.diff(self._object_bounds))
        if len(outlined):
            starts = self._polygon_bounds[self._object_bounds[outlined]]
            for reduce, half in ((np.minimum, slice(2)), (np.maximum, slice(2, 4))):
                extents[outlined, half] = reduce.reduceat(self._points, starts)
        if self._rles:
            xywh = coco_mask.toBbox([*self._rles.values()])
            extents[[*self._rles]] = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
        return extents

    def _object_name(self, number: int) -> str:
        x1, y1, x2, y2 = self._boxes[number].tolist()
        box = ", ".join(f"{value:g}" for value in (x1, y1, x2 - x1, y2 - y1))
        return f"[{box}] in {self._file_names[self._image_of_object[number]]}"
