"""The reference boxes a region proposal network classifies and refines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def pyramid_anchors(
    grid_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int | float],
    sizes: Sequence[float | Sequence[float]],
    aspect_ratios: Sequence[float],
) -> list[Float[np.ndarray, "anchors 4"]]:
    """Anchors of every pyramid level, in pixels (Faster R-CNN, Ren et al., 2015; FPN, Lin et al.).

    Order and placement are Detectron2's: rows, then columns, then sizes, then aspect ratios, with
    the anchors of a location centered on the top left corner of its cell (offset 0).

    Args:
        grid_sizes: (height, width) of each level in cells.
        strides: pixels a cell covers, one per level.
        sizes: square root of the anchors' area in pixels; of each level one or several.
        aspect_ratios: height / width of the anchors at each location.

    Returns:
        One float32 array [height * width * sizes of the level * len(aspect_ratios), 4] per level.
    """
    levels = []
    for (height, width), stride, size in zip(grid_sizes, strides, sizes, strict=True):
        ratios = np.asarray(aspect_ratios, np.float64)
        anchor_width = np.sqrt(np.reshape(size, (-1, 1)) ** 2 / ratios)
        half = np.stack([anchor_width, ratios * anchor_width], -1).reshape(-1, 2) / 2
        shapes = np.concatenate([-half, half], -1).astype(np.float32)
        y, x = np.mgrid[:height, :width].astype(np.float32) * stride
        locations = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        levels.append((locations + shapes).reshape(-1, 4))
    return levels
