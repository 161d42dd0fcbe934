"""What a well-formed data set says that cannot be meant, with the likely cause.

Detectors train on such sets without a complaint, and score as badly as if the data were hard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

EXAMPLES = 3
MOST = 0.5
"""Share of the boxes from which on a fault is one of the file and no longer of single boxes."""


SAME_IMAGES = (
    "the same images train and validate: AP on training images is not accuracy; keep some images "
    "for validation"
)


class Doubt(NamedTuple):
    """A finding about a whole file.

    Attributes:
        what: count and claim, such as "16 of 32 boxes disagree with their masks".
        fix: the likely cause, and what to do.
        examples: up to three places.
        is_error: whether training on it, or scoring by it, is pointless.
    """

    what: str
    fix: str = ""
    examples: tuple[str, ...] = ()
    is_error: bool = False

    def __str__(self) -> str:
        examples = f" (first: {', '.join(self.examples)})" if self.examples else ""
        return f"{self.what}{examples}" + (f"; {self.fix}" if self.fix else "")


NameOf = Callable[[int], str]
"""What an object is called in a message, by its position."""


def box_doubts(
    boxes: np.ndarray, extents: np.ndarray, hw: np.ndarray, name_of: NameOf
) -> list[Doubt]:
    """Doubts about boxes.

    Args:
        boxes: [objects, 4], (x1, y1, x2, y2) in pixels of the image.
        extents: [objects, 4], of the masks; the boxes themselves where there is no mask.
        hw: [objects, 2], height and width of each object's image.
    """
    if not len(boxes):
        return []
    boxes, extents = boxes.astype(np.float64), extents.astype(np.float64)
    frames = np.tile(hw[:, ::-1], 2).astype(np.float64)
    is_fraction = (np.abs(boxes).max(axis=1) <= 1.001) & (hw.min(axis=1) > 2)
    if np.mean(is_fraction) > MOST:
        fix = "multiply x and width by the image's width, y and height by its height"
        return [_about(is_fraction, "boxes are fractions of the image", fix, name_of)]
    doubts = []
    apart = np.abs(boxes - extents).max(axis=1)
    disagrees = (_iou(boxes, extents) < 0.5) & (apart > 2)
    if disagrees.any():
        cause = _cause(boxes[disagrees], extents[disagrees], frames[disagrees])
        claim = "boxes disagree with their masks"
        doubts.append(_about(disagrees, claim, cause, name_of))
    slack = np.maximum(2, 0.01 * frames)
    is_outside = ((boxes < -slack) | (boxes > frames + slack)).any(axis=1)
    if is_outside.any() and not (disagrees.any() and disagrees.sum() >= is_outside.sum()):
        fix = _outside_cause(boxes, frames, is_outside)
        doubts.append(_about(is_outside, "boxes reach out of their image", fix, name_of))
    is_tiny = np.min(boxes[:, 2:] - boxes[:, :2], axis=1) < 1
    if is_tiny.any():
        fix = "remove them, or give coordinates in pixels"
        doubts.append(_about(is_tiny, "boxes are under a pixel wide or high", fix, name_of))
    return doubts


def _about(is_one: np.ndarray, claim: str, fix: str, name_of: NameOf) -> Doubt:
    where = np.flatnonzero(is_one)
    examples = tuple(name_of(int(position)) for position in where[:EXAMPLES])
    what = f"{len(where)} of {len(is_one)} {claim}"
    return Doubt(what, fix, examples, len(where) > MOST * len(is_one))


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of boxes [objects, 4] pair by pair; boxes turned inside out have none."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = [np.prod(np.maximum(box[:, 2:] - box[:, :2], 0), axis=1) for box in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)


def _readings(boxes: np.ndarray, frames: np.ndarray) -> Sequence[tuple[str, np.ndarray]]:
    """What the four numbers of a box may have meant, as corners, and the fix for each."""
    corner, size = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    swapped = corner[:, ::-1]
    return (
        (
            "their third and fourth number look like the right and bottom corner: write "
            "(x, y, width, height)",
            np.hstack([corner, size]),
        ),
        (
            "their first two numbers look like the centre: write the left and top side",
            np.hstack([corner - size / 2, corner + size / 2]),
        ),
        (
            "x and y look swapped: write (x, y, width, height)",
            np.hstack([swapped, swapped + size[:, ::-1]]),
        ),
        (
            "they look like (top, left, bottom, right): write (x, y, width, height)",
            np.hstack([swapped, size[:, ::-1]]),
        ),
        (
            "they look like fractions of the image: multiply by its width and height",
            boxes * frames,
        ),
        (
            "they look mirrored: x counts from the left",
            np.stack([frames[:, 0] - boxes[:, 2], boxes[:, 1], frames[:, 0] - boxes[:, 0],
                      boxes[:, 3]], axis=1),
        ),
    )  # fmt: skip


def _cause(boxes: np.ndarray, extents: np.ndarray, frames: np.ndarray) -> str:
    """Why boxes disagree with their masks, where one reason explains most of them."""
    found = [(fix, _iou(read, extents) > 0.9) for fix, read in _readings(boxes, frames)]
    found.append(
        ("the masks look like fractions of the image: multiply x by its width, y by its height",
         _iou(boxes, extents * frames) > 0.9)
    )  # fmt: skip
    sizes, mask_sizes = boxes[:, 2:] - boxes[:, :2], extents[:, 2:] - extents[:, :2]
    factors = np.median(mask_sizes / np.maximum(sizes, 1e-9), axis=0)
    found.append(
        (f"boxes and masks look like those of images of different size (factors {factors[0]:.3g} "
         f"and {factors[1]:.3g}): scale one of them",
         _iou(boxes * np.tile(factors, 2), extents) > 0.9)
    )  # fmt: skip
    fix, explained = max(found, key=lambda reason: reason[1].sum())
    if explained.mean() >= MOST:
        return fix
    return "correct one of the two; training takes the mask, evaluation both"


def _outside_cause(boxes: np.ndarray, frames: np.ndarray, is_outside: np.ndarray) -> str:
    if is_outside.mean() < 0.05:
        return "correct or cut them"
    names = ("corners", "swapped")
    readings = _readings(boxes, frames)
    for name, (fix, read) in zip(names, (readings[0], readings[2]), strict=True):
        fits = (read >= -1) & (read <= frames + 1)
        is_box = np.all(read[:, 2:] > read[:, :2], axis=1)
        if np.mean(fits.all(axis=1) & is_box) > 0.98:
            return fix if name == "corners" else fix.replace("look", "may be")
    factor = np.max(boxes / frames)
    return (
        f"they reach up to {factor:.3g} times the image's size: the coordinates look like those of "
        "an image of another size; scale them, or give the images they were made on"
    )
