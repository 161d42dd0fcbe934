"""Large-scale jitter (Ghiasi et al., "Simple Copy-Paste", 2012.07177), scales 0.1 to 2.0.

The geometry is that of Detectron2's RandomFlip, ResizeScale and FixedSizeCrop in this order: a
scale is sampled, the image is resized to fit into a square of that multiple of the canvas, a
canvas-sized window is cut at a random place where the result is larger, and padded at the right and
the bottom where it is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxdet.data.transform import Transform


@dataclass(frozen=True)
class LargeScaleJitter:
    """Settings of the augmentation.

    Attributes:
        image_size: side of the square canvas in pixels.
        scale_range: smallest and largest scale, 1 being the image that just fits the canvas.
        flip: whether half of the images are mirrored.
    """

    image_size: int
    scale_range: tuple[float, float] = (0.1, 2.0)
    flip: bool = True

    def sample(self, rng: np.random.Generator, height: int, width: int) -> Transform:
        """Samples flip, scale and crop for one image of `height` x `width` pixels.

        One number places the crop along both axes, as in Detectron2's FixedSizeCrop.

        Args:
            rng: the example's own generator; always gives three numbers.
        """
        mirrored = bool(rng.uniform() < 0.5) and self.flip
        scale = self.image_size * rng.uniform(*self.scale_range)
        ratio = min(scale / height, scale / width)
        resized_hw = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        position = rng.uniform()
        y, x = (round(max(0, side - self.image_size) * position) for side in resized_hw)
        return Transform((height, width), resized_hw, mirrored, (x, y))

    def image_hw(self, _transform: Transform) -> tuple[int, int]:
        """Of a training image: Detectron2's padding has a colour and belongs to the image."""
        return self.image_size, self.image_size

    def fit(self, height: int, width: int) -> Transform:
        """For evaluation: the image at the top left, its longer side as long as the canvas.

        Sizes are rounded as by Detectron2's ResizeShortestEdge.
        """
        ratio = self.image_size / max(height, width)
        resized_hw = (max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5)))
        return Transform((height, width), resized_hw, False, (0, 0))
