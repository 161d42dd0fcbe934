"""Class token and registers: tokens of no place in the image, before its patches in one row."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdet.models.windows import merge_windows, partition_windows


def join_prefix(
    prefix: Float[Array, "n prefix c"], patches: Float[Array, "n rows columns c"]
) -> Float[Array, "n 1 tokens c"]:
    """All tokens in one row."""
    n, _, _, c = patches.shape
    return jnp.concatenate([prefix[:, None], patches.reshape(n, 1, -1, c)], axis=2)


def split_prefix(
    x: Float[Array, "n 1 tokens c"], count: int, grid: tuple[int, int]
) -> tuple[Float[Array, "n prefix c"], Float[Array, "n rows columns c"]]:
    """Undoes `join_prefix`.

    Args:
        count: how many tokens are before the patches.
        grid: rows and columns of the patches.
    """
    return x[:, 0, :count], x[:, :, count:].reshape(x.shape[0], *grid, x.shape[-1])


def partition_with_prefix(
    x: Float[Array, "n 1 tokens c"], window: int, count: int, grid: tuple[int, int]
) -> Float[Array, "windows in_window c"]:
    """`partition_windows` of the patches, a copy of the other tokens before those of each window.

    Args:
        count, grid: see `split_prefix`.
    """
    prefix, patches = split_prefix(x, count, grid)
    windows = partition_windows(patches, window)
    copies = jnp.repeat(prefix, windows.shape[0] // x.shape[0], axis=0)
    return jnp.concatenate([copies, windows], axis=1)


def merge_with_prefix(
    windows: Float[Array, "windows in_window c"], window: int, count: int, grid: tuple[int, int]
) -> Float[Array, "n 1 tokens c"]:
    """Undoes `partition_with_prefix`; of an image's copies the mean is taken, in float32."""
    patches = merge_windows(windows[:, count:], window, grid)
    copies = windows[:, :count].reshape(patches.shape[0], -1, count, windows.shape[-1])
    return join_prefix(copies.mean(1, dtype=jnp.float32).astype(windows.dtype), patches)
