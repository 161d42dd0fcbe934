"""Tables of relative-position bias from one grid of tokens to another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from checkpoints_convert.conversion_plan import ConversionPlan, Options, TensorReader
from checkpoints_convert.tensors import Tensor, mean
from jaxdet.config.mask_rcnn import quarter_ends
from jaxdet.errors import UserError

SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
BLOCK_TABLE = "blocks.{}.attn.relative_position_bias_table"
"""BEiT's names: pre-trained, one table for all blocks; fine-tuned, one in each."""

CLASS_TOKEN_ROWS = 3
"""Rows at the end of BEiT's tables: class token to patch, patch to class token, to itself."""


def plan_relative_position(
    plan: ConversionPlan, reader: TensorReader, options: Options, depth: int
) -> int | None:
    """Plans the relative positions of whichever kind a file has, if any.

    Returns:
        The heads its tables have, where these say.
    """
    if "blocks.0.attn.rel_pos_h" in reader:
        for i in range(depth):
            for ours, theirs in (("height", "rel_pos_h"), ("width", "rel_pos_w")):
                tensor = reader.expect_any(f"blocks.{i}.attn.{theirs}", 2)
                plan.arrays[f"backbone.blocks.{i}.attn.rel_pos.{ours}"] = tensor
        return None
    tables = {
        kind: reader.expect_any(f"rel_pos_{kind}.table", 2)
        for kind in ("window", "global")
        if f"rel_pos_{kind}.table" in reader
    }
    if not tables:
        tables = _beit_tables(plan, reader, options, depth)
    for kind, table in tables.items():
        plan.arrays[f"backbone.rel_pos_{kind}.table"] = table
    return next((table.shape[1] for table in tables.values()), None)


def _beit_tables(
    plan: ConversionPlan, reader: TensorReader, options: Options, depth: int
) -> dict[str, Tensor]:
    """BEiT's tables by kind of block, resized to the detector's windows and global grid."""
    if SHARED_TABLE in reader:
        table = reader.expect_any(SHARED_TABLE, 2)
        tables = {"window": table, "global": table}
    elif BLOCK_TABLE.format(0) in reader:
        shape = reader.shape(BLOCK_TABLE.format(0), 2)
        tables = _means_by_kind([reader.expect(BLOCK_TABLE.format(i), shape) for i in range(depth)])
        plan.notes.append(
            "every block of the file has a table of its own: the windowed blocks' shared table is "
            "the mean of theirs, the global blocks' the mean of theirs"
        )
    else:
        return {}
    try:
        side = table_side(tables["global"].shape[0])
    except ValueError as error:
        raise UserError(f"{error}; the file is damaged or not BEiT's") from error
    plan.notes.append(
        f"relative positions resized from a grid of {(side + 1) // 2} to {options.window} for the "
        f"windows and {options.global_grid} for the global blocks ({options.rel_pos_resize})"
    )
    grids = {"window": options.window, "global": options.global_grid}
    plan.size |= {"window": options.window, "global_grid": options.global_grid}
    return {
        kind: resize_table(table, grids[kind], options.rel_pos_resize)
        for kind, table in tables.items()
    }


def _means_by_kind(tables: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of tables one a block: the mean over the blocks that attend within windows, and globally."""
    ends = quarter_ends(len(tables))
    windowed = [table for i, table in enumerate(tables) if i not in ends]
    means = {"window": mean(windowed)} if windowed else {}
    return means | {"global": mean([tables[i] for i in ends])}


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
