"""Position information: an absolute embedding and biases by relative position."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxdet.models.layers import normal


def absolute_embedding(
    kind: str, *, stored_grid: int, model_grid: int, width: int, rngs: nnx.Rngs
) -> nnx.Param | None:
    """The initial absolute position embedding, [grid, grid, width], or None for none.

    Args:
        kind: "pretrained" and "random" are normal with standard deviation .02 (the former is then
            replaced), "zero" is zero, "sincos" is MAE's table, "none" is none at all.
        stored_grid: side it is stored at, all but "sincos".
        model_grid: side of the detector's map of tokens, which "sincos" is made for.
    """
    shape = (stored_grid, stored_grid, width)
    if kind == "none":
        return None
    if kind == "sincos":
        return nnx.Param(jnp.asarray(sincos_embedding(model_grid, width)))
    return nnx.Param(jnp.zeros(shape) if kind == "zero" else normal(0.02)(rngs.params(), shape))


def sincos_embedding(grid: int, width: int) -> Float[np.ndarray, "grid grid width"]:
    """MAE's fixed embedding (arXiv 2111.06377): a quarter each of sines and cosines of the column,
    then of the row, with wavelengths from 2 pi to 10000 x 2 pi."""
    frequencies = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    angles = np.arange(grid)[:, None] * frequencies
    axis = np.concatenate([np.sin(angles), np.cos(angles)], -1)
    columns = np.broadcast_to(axis[None, :], (grid, grid, width // 2))
    rows = np.broadcast_to(axis[:, None], (grid, grid, width // 2))
    return np.concatenate([columns, rows], -1).astype(np.float32)


def resize_embedding(
    embedding: Float[Array, "h w c"],
    grid: tuple[int, int],
    offset: float = 0.0,
    rule: str = "bicubic",
) -> Float[Array, "grid_h grid_w c"]:
    """Resizes an absolute position embedding as PyTorch does, with align_corners=False.

    Args:
        rule: "bicubic" is PyTorch's plain one (MAE, DINOv2, Hugging Face's ViTs); "antialias" is
            its antialiased one, which has another kernel and smooths where it shrinks (timm);
            "radio" is bilinear, to a square of the longer side that is then cropped (C-RADIO).
        offset: bicubic: the scale is (grid + offset) / stored grid. imTED's code, like DINO's, asks
            PyTorch for an offset of .1 to be safe from rounding; PyTorch then also takes its
            samples at that scale, a little closer together.
    """
    shape = (*grid, embedding.shape[-1])
    if embedding.shape == shape:
        return embedding
    if rule == "antialias":
        return jax.image.resize(embedding, shape, jax.image.ResizeMethod.CUBIC)
    if rule == "radio":
        square = (max(grid), max(grid), shape[-1])
        method = jax.image.ResizeMethod.LINEAR
        resized = jax.image.resize(embedding, square, method, antialias=False)
        return resized[: grid[0], : grid[1]]
    scale = (jnp.asarray(grid) + offset) / jnp.asarray(embedding.shape[:2])
    method = jax.image.ResizeMethod.CUBIC_PYTORCH
    return jax.image.scale_and_translate(
        embedding, shape, (0, 1), scale, jnp.zeros(2), method, antialias=False
    )


class RelativePositionBias(nnx.Module):
    """A learned bias for each pair of offsets (dy, dx) and head, on a fixed grid of tokens.

    One instance may serve many blocks, as in arXiv 2111.11429, where all windowed blocks share one
    table and all global blocks another.

    Args:
        prefix: tokens before the map's, whose pairs have no bias.

    Attributes:
        table: float32 [(2 h - 1) * (2 w - 1), heads], starts at zero. The row
            (dy + h - 1) * (2 w - 1) + dx + w - 1 is for keys that lie (-dy, -dx) from the query.
    """

    def __init__(self, grid: tuple[int, int], heads: int, prefix: int = 0):
        height, width = grid
        self.table = nnx.Param(jnp.zeros(((2 * height - 1) * (2 * width - 1), heads)))
        self.grid = grid
        self.prefix = prefix

    @jax.named_scope("attention")
    def __call__(self) -> Float[Array, "heads tokens tokens"]:
        """The bias of every (query, key) pair, tokens in row-major order."""
        height, width = self.grid
        table = self.table[...].reshape(2 * height - 1, 2 * width - 1, -1).transpose(2, 0, 1)
        bias = by_offset(by_offset(table, height, axis=1), width, axis=3)
        bias = bias.transpose(0, 1, 3, 2, 4)
        return _before(bias.reshape(-1, height * width, height * width), self.prefix, 1, 2)


class DecomposedRelativePosition(nnx.Module):
    """A bias that depends on the query: its product with a learned vector per row offset and one
    per column offset (MViTv2, arXiv 2112.01526, as ViTDet uses it).

    Args:
        prefix: tokens before the map's, whose pairs have no bias.

    Attributes:
        height, width: float32 [2 h - 1, channels] and [2 w - 1, channels], start at zero.
    """

    def __init__(self, grid: tuple[int, int], channels: int, prefix: int = 0):
        rows, columns = grid
        self.height = nnx.Param(jnp.zeros((2 * rows - 1, channels)))
        self.width = nnx.Param(jnp.zeros((2 * columns - 1, channels)))
        self.grid = grid
        self.prefix = prefix

    def resized(self, grid: tuple[int, int]) -> DecomposedRelativePosition:
        """The same for another map, its vectors interpolated linearly as in Detectron2's ViTDet."""
        if grid == self.grid:
            return self
        other = DecomposedRelativePosition(grid, self.height.shape[1], self.prefix)
        other.height = nnx.Param(resize_linear(self.height[...], 2 * grid[0] - 1))
        other.width = nnx.Param(resize_linear(self.width[...], 2 * grid[1] - 1))
        return other

    def __call__(
        self, query: Float[Array, "n tokens heads channels"]
    ) -> Float[Array, "n heads tokens tokens"]:
        """The bias of every (query, key) pair, from queries before they are scaled."""
        n, tokens, heads, _ = query[:, self.prefix :].shape
        by_row, by_column = self._products(query[:, self.prefix :], "nhyx")
        bias = by_row[..., :, None] + by_column[..., None, :]
        return _before(bias.reshape(n, heads, tokens, tokens), self.prefix, 2, 3)

    def extend(
        self,
        query: Float[Array, "n tokens heads channels"],
        key: Float[Array, "n tokens heads channels"],
    ) -> tuple[
        Float[Array, "n tokens heads extended"],
        Float[Array, "n tokens heads extended"],
    ]:
        """Queries and keys whose product is that of the scaled ones plus the bias.

        A query also gets its bias for each row and each column of keys; a key also says, by ones
        among zeros, which row and column is its own.
        """
        rows, columns = self.grid
        n, tokens, heads, channels = query.shape
        scaled = query * np.asarray(1 / np.sqrt(channels), query.dtype)
        biases = (
            _before(x.reshape(n, rows * columns, heads, -1), self.prefix, 1)
            for x in self._products(query[:, self.prefix :], "nyxh")
        )
        own = np.concatenate(
            [np.repeat(np.eye(rows), columns, 0), np.tile(np.eye(columns), (rows, 1))], -1
        )
        own = np.pad(own, ((self.prefix, 0), (0, 0)))
        own = jnp.broadcast_to(
            jnp.asarray(own, key.dtype)[:, None], (n, tokens, heads, rows + columns)
        )
        return jnp.concatenate([scaled, *biases], -1), jnp.concatenate([key, own], -1)

    def _products(self, query: Array, axes: str) -> tuple[Array, Array]:
        """Every query's bias for each row and for each column of keys, on the last axis.

        Args:
            axes: order of the first four: n, y and x of the query, h for the head.
        """
        rows, columns = self.grid
        q = query.reshape(query.shape[0], rows, columns, *query.shape[2:])
        of_rows = self.height[...].astype(q.dtype)[offsets(rows)]
        of_columns = self.width[...].astype(q.dtype)[offsets(columns)]
        by_row = jnp.einsum(f"nyxhc,yrc->{axes}r", q, of_rows)
        by_column = jnp.einsum(f"nyxhc,xsc->{axes}s", q, of_columns)
        return by_row, by_column


def _before(x: Array, count: int, *axes: int) -> Array:
    """So many zeros before what is on each of some axes."""
    if count == 0:
        return x
    return jnp.pad(x, [(count if axis in axes else 0, 0) for axis in range(x.ndim)])


def resize_linear(
    x: Float[Array | np.ndarray, "length channels"], length: int
) -> Float[Array | np.ndarray, "new_length channels"]:
    """Rows interpolated linearly, without smoothing, as torch's `interpolate` does; NumPy's stay
    NumPy's."""
    old = x.shape[0]
    place = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
    below = np.minimum(place.astype(int), old - 1)
    weight = (place - below).astype(np.float32)[:, None]
    return x[below] * (1 - weight) + x[np.minimum(below + 1, old - 1)] * weight


def by_offset(x: Float[Array, "..."], length: int, *, axis: int) -> Float[Array, "..."]:
    """`x` at every offset query - key: an axis of 2 length - 1 becomes two, of queries and of keys.

    It is `x` taken at `offsets`, without an index: rows that are one longer than their distance
    shift against each other. So the gradient is a sum of rows, where an index has a scatter, and
    that is slow on accelerators.
    """
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    x = jnp.broadcast_to(jnp.expand_dims(x, axis), (*before, length, 2 * length - 1, *after))
    x = x.reshape(*before, length * (2 * length - 1), *after)
    x = jnp.pad(x, [(0, length if i == axis else 0) for i in range(x.ndim)])
    x = x.reshape(*before, length, 2 * length, *after)
    return jnp.flip(jax.lax.slice_in_dim(x, 0, length, axis=axis + 1), axis + 1)


def offsets(length: int) -> np.ndarray:
    """int [length, length]: position of the offset query - key in an axis of a bias table."""
    index = np.arange(length)
    return index[:, None] - index[None, :] + length - 1
