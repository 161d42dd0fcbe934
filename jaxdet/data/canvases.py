"""What images are padded to in evaluation: the square of training, or rectangles of a few sizes.

A batch has one shape, so images that are padded to rectangles come in the order of these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from jaxdet.data.dataset import DetectionDataset
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.multiscale import Multiscale

Augmentation = LargeScaleJitter | Multiscale
"""How an image gets onto the canvas: sampled in training, fitted in evaluation."""

Canvas = tuple[int, int]
"""Height and width in pixels."""


class Row(NamedTuple):
    """A row of an evaluation batch.

    Attributes:
        index: of the image in its dataset; None for a row without one, which fills the batch.
        canvas: what the image is padded to; the same in all rows of a batch.
    """

    index: int | None
    canvas: Canvas


def canvas_of(augmentation: Augmentation, image_hw: tuple[int, int], multiple: int) -> Canvas:
    """What an image is padded to: the smallest rectangle whose sides are multiples.

    Args:
        image_hw: height and width of the image before it is resized.
        multiple: in pixels; 0 for the square of the augmentation, beyond which nothing reaches.
    """
    side = augmentation.image_size
    if not multiple:
        return side, side
    height, width = (
        min(side, -(-length // multiple) * multiple)
        for length in augmentation.fit(*image_hw).resized_hw
    )
    return height, width


def rows_of(
    dataset: DetectionDataset,
    augmentations: Sequence[Augmentation],
    batch_size: int,
    multiple: int = 0,
) -> list[list[Row]]:
    """The rows of all batches, for each of the augmentations that every image is seen by.

    Every image comes once, those of the largest canvases first and else in the dataset's order, and
    row r has the same image for all augmentations.

    Args:
        batch_size: images of all hosts together.
        multiple: see `canvas_of`.
    """
    groups: dict[tuple[Canvas, ...], list[int | None]] = defaultdict(list)
    for index in range(len(dataset)):
        # Only where it is asked for: a dataset may paint the image to know its size.
        image_hw = dataset[index].lazy_image.hw if multiple else (1, 1)
        groups[tuple(canvas_of(each, image_hw, multiple) for each in augmentations)].append(index)
    rows: list[list[Row]] = [[] for _ in augmentations]
    for canvases, indices in sorted(groups.items(), reverse=True):
        filled = [*indices, *[None] * (-len(indices) % batch_size)]
        for rows_of_one, canvas in zip(rows, canvases, strict=True):
            rows_of_one += [Row(index, canvas) for index in filled]
    return rows
