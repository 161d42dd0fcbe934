"""Tables of relative-position bias from one grid of tokens to another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from checkpoints_convert.tensors import Tensor

CLASS_TOKEN_ROWS = 3
"""Rows at the end of BEiT's tables: class token to patch, patch to class token, to itself."""


def resize_table(table: Tensor, grid: int, kind: str) -> Tensor:
    """A table for a square grid of so many tokens a side, without the rows of a class token.

    Args:
        table: [rows, heads], (2 side - 1)^2 rows with or without BEiT's three of the class token.
        grid: side of the new grid.
        kind: "bicubic" is PyTorch's on the map of offsets (align_corners=False), as MIMDet's
            reproduction of arXiv 2111.11429 does; "geometric" is BEiT's, where the old offsets lie
            further apart the further out they are, so that near ones keep their values.
    """
    side = table_side(table.shape[0])
    new_side = 2 * grid - 1
    heads = table.shape[1]

    def values(rows: Float[np.ndarray, "rows heads"]) -> Float[np.ndarray, "new_rows heads"]:
        offsets = rows[: side * side].reshape(side, side, heads)
        if new_side == side:
            resized = offsets
        elif kind == "bicubic":
            resized = resize_bicubic(offsets, (new_side, new_side))
        else:
            resized = _resize_geometric(offsets, new_side)
        return resized.reshape(-1, heads)

    return table.map((new_side * new_side, heads), values)


def table_side(rows: int) -> int:
    """Offsets along one axis of a table of so many rows, those of a class token apart.

    Raises:
        ValueError: no square of an odd side, with or without the class token's rows, has so many.
    """
    for extra in (CLASS_TOKEN_ROWS, 0):
        side = round(max(rows - extra, 0) ** 0.5)
        if side % 2 and side * side == rows - extra:
            return side
    raise ValueError(f"{rows} rows are no table of relative positions")


def resize_bicubic(
    maps: Float[np.ndarray, "h w c"], size: tuple[int, int]
) -> Float[np.ndarray, "h2 w2 c"]:
    """PyTorch's bicubic interpolation with align_corners=False."""
    import torch

    planes = torch.from_numpy(np.ascontiguousarray(maps.transpose(2, 0, 1)))[None]
    resized = torch.nn.functional.interpolate(
        planes, size=size, mode="bicubic", align_corners=False
    )
    return resized[0].numpy().transpose(1, 2, 0)


def _resize_geometric(
    offsets: Float[np.ndarray, "side side heads"], new_side: int
) -> Float[np.ndarray, "new new heads"]:
    """BEiT's: distances 1, 1 + q, 1 + q + q^2, ... up to the new reach, then a cubic spline."""
    from scipy.interpolate import RectBivariateSpline

    half, new_half = offsets.shape[0] // 2, new_side // 2
    low, high = 1.0, 2.0
    while high - low > 1e-7:
        ratio = (low + high) / 2
        if (ratio ** np.arange(half)).sum() > new_half:
            high = ratio
        else:
            low = ratio
    reach = np.cumsum(low ** np.arange(half))
    old = np.concatenate([-reach[::-1], [0], reach])
    new = np.arange(-new_half, new_half + 1)
    planes = [
        RectBivariateSpline(old, old, offsets[:, :, head])(new, new)
        for head in range(offsets.shape[2])
    ]
    return np.stack(planes, -1).astype(np.float32)
