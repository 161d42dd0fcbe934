"""What every dataset offers: images with their objects, one index at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from jaxdet.data.doubts import Doubt

Polygons = list[np.ndarray]
"""One object's outline: arrays of float64 [points, 2] (x, y) in image pixels."""

RLE = dict[str, Any]
"""COCO's run-length mask as pycocotools takes it: {"size": [h, w], "counts": bytes}."""


class Category(NamedTuple):
    """A class as the annotation file names it; its position in a dataset is the model's label."""

    id: int
    name: str


def category_difference(train: Sequence[Category], val: Sequence[Category]) -> str | None:
    """One sentence of which categories two sets do not share; None where they list the same."""
    if [*train] == [*val]:
        return None
    both = {*train} & {*val}
    only = (
        f"only the {split} file has "
        + ", ".join(f"{name!r} (id {number})" for number, name in listed[:3])
        + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
        for split, categories in (("training", train), ("validation", val))
        if (listed := [category for category in categories if category not in both])
    )
    return (
        "the training and validation annotations list different categories; give both files the "
        f"same list of ids and names: {'; '.join(only)}"
    )


class LazyImage(Protocol):
    """An image that knows its size and is decoded when asked.

    Attributes:
        hw: height and width in pixels.
    """

    hw: tuple[int, int]

    def pixels(self) -> np.ndarray:
        """The whole image, uint8 [height, width, 3], RGB; do not write to it.

        Raises:
            UserError: the image cannot be read, or has another size than `hw`.
        """
        ...

    def decode(self, shrink: int) -> tuple[Image.Image, int]:
        """The whole image for Pillow, RGB; smaller where its format makes that cheap.

        Args:
            shrink: the smallest size of use is 1 / shrink; 1, 2, 4 or 8.

        Returns:
            The image and its shrink factor, 1 to `shrink`; sides are rounded up, so that the last
            pixels may reach beyond the image.

        Raises:
            UserError: as `pixels`.
        """
        ...


@dataclass(frozen=True)
class Example:
    """One image and its objects, crowd regions left out.

    Attributes:
        lazy_image: the image, not decoded yet.
        image_id: the id the annotation file gives the image.
        boxes: float32 [objects, 4], (x1, y1, x2, y2) in pixels of the image.
        labels: int32 [objects], positions in the dataset's categories.
        masks: one per object, polygons or run-length encoded.
    """

    lazy_image: LazyImage
    image_id: int
    boxes: np.ndarray
    labels: np.ndarray
    masks: Sequence[Polygons | RLE]

    @property
    def image(self) -> np.ndarray:
        """The whole image, uint8 [height, width, 3], RGB; decoded anew at each call.

        Raises:
            UserError: it cannot be read.
        """
        return self.lazy_image.pixels()


class DetectionDataset(Protocol):
    """Random access to examples; the same index always gives the same example."""

    categories: tuple[Category, ...]
    image_ids: Sequence[int]

    @property
    def annotations_sha256(self) -> str | None:
        """SHA-256 of the annotation file; None where there is none, or it is not known."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def has_objects(self, index: int) -> bool:
        """Whether the image has at least one object to train on (crowd regions do not count)."""
        ...

    def labels(self, index: int) -> np.ndarray:
        """Of the image's objects, int32 [objects], as in its example; reads no image."""
        ...

    def is_background(self, index: int) -> bool:
        """Whether the image has no annotation at all, not even one that is not trained on."""
        ...

    def doubts(self) -> Sequence[Doubt]:
        """What the annotations say that cannot be meant."""
        ...

    def summary(self) -> str:
        """One line for the log: what there is, and what was left out."""
        ...

    def ground_truth(self) -> dict[str, Any]:
        """The annotations in COCO's JSON layout, crowd regions included, for evaluation."""
        ...
