"""The multi-scale resize and crop of DETR, as imTED (arXiv 2205.09613) trains with it.

Images are resized so that the shorter side has one of a few lengths, at the most `long_side` for
the longer one. Half of the training images are first resized to a smaller size and cropped at
random. MMDetection resizes those twice; here the two are one step of the same geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxdet.data.transform import Transform

CROPPED_SHORT_SIDES = (400, 500, 600)
CROP_SIDES = (384, 600)
"""Smallest and largest side of a crop, sampled per axis, as far as the image is that large."""


@dataclass(frozen=True)
class Multiscale:
    """Settings of the augmentation.

    Attributes:
        image_size: side of the square canvas in pixels; at least `long_side`.
        short_sides: lengths in pixels that the shorter side may get; evaluation takes the largest.
        long_side: largest length of the longer side in pixels.
        flip: whether half of the images are mirrored.
    """

    image_size: int
    short_sides: Sequence[int]
    long_side: int
    flip: bool = True

    def sample(self, rng: np.random.Generator, height: int, width: int) -> Transform:
        """Samples flip, size and crop for one image of `height` x `width` pixels."""
        mirrored = bool(rng.uniform() < 0.5) and self.flip
        is_cropped = bool(rng.uniform() < 0.5)
        final = int(rng.choice(self.short_sides))
        if not is_cropped:
            return Transform((height, width), self._resized(height, width, final), mirrored, (0, 0))
        first_hw = self._resized(height, width, int(rng.choice(CROPPED_SHORT_SIDES)))
        low, high = CROP_SIDES
        crop_hw = [int(rng.integers(min(s, low), min(s, high), endpoint=True)) for s in first_hw]
        top, left = (
            int(rng.integers(0, side - crop, endpoint=True))
            for side, crop in zip(first_hw, crop_hw, strict=True)
        )
        shown_hw = self._resized(*crop_hw, final)
        scale_y, scale_x = (shown / crop for shown, crop in zip(shown_hw, crop_hw, strict=True))
        return Transform(
            (height, width),
            (first_hw[0] * scale_y, first_hw[1] * scale_x),
            mirrored,
            (left * scale_x, top * scale_y),
            shown_hw,
        )

    def image_hw(self, transform: Transform) -> tuple[int, int]:
        """Of a training image: MMDetection's padding does not belong to the image."""
        return transform.visible_hw(self.image_size)

    def fit(self, height: int, width: int) -> Transform:
        """For evaluation: the whole image at the largest size."""
        resized_hw = self._resized(height, width, max(self.short_sides))
        return Transform((height, width), resized_hw, False, (0, 0))

    def _resized(self, height: int, width: int, short_side: int) -> tuple[int, int]:
        ratio = min(short_side / min(height, width), self.long_side / max(height, width))
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
