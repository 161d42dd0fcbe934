"""A map of tokens as square windows, and back."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def partition_windows(
    x: Float[Array, "n h w c"], window: int, shift: int = 0
) -> Float[Array, "windows tokens c"]:
    """Cuts a map into square windows, zero-padding bottom and right to a multiple of `window`.

    The padding takes part in attention, as in Detectron2's ViTDet: its tokens are not masked.

    Args:
        shift: rows and columns by which the windows lie further up and left. What they reach
            beyond the map is padding too: none of them joins opposite sides of the map.
    """
    n, h, w, c = x.shape
    bottom, right = (-(side + shift) % window for side in (h, w))
    x = jnp.pad(x, ((0, 0), (shift, bottom), (shift, right), (0, 0)))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(n, rows, window, columns, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n * rows * columns, window * window, c)


def merge_windows(
    windows: Float[Array, "windows tokens c"],
    window: int,
    grid: tuple[int, int],
    shift: int = 0,
) -> Float[Array, "n h w c"]:
    """Undoes `partition_windows`, cutting the padding off."""
    height, width = grid
    rows, columns = -(-(height + shift) // window), -(-(width + shift) // window)
    x = windows.reshape(-1, rows, columns, window, window, windows.shape[-1])
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * window, columns * window, x.shape[-1])
    return x[:, shift : shift + height, shift : shift + width]
