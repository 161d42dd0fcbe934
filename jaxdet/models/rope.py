"""Rotary positions (arXiv 2104.09864): queries and keys turned by where their token is on the map.

The channels of a head are pairs; each pair turns by an angle that grows along one axis of the map,
half of the pairs along each. With p = channels / 4 pairs an axis, pair i has

- "dinov3" (arXiv 2508.10104): the angle 2 pi c / base^(i / p), c the patch's centre from -1 at one
  edge of the image to 1 at the other; first the pairs of y, then of x; pair i is the channels i and
  i + 2 p.
- "eva02" (arXiv 2303.11331): c / base^(i / p), c the patch's index from 0, scaled to a map of
  `reference_grid` patches; first y, then x; pair i is the channels 2 i and 2 i + 1.
- "pe" (Perception Encoder, arXiv 2504.13181): the same, c from 1, and first x, then y.

So a map of another size than in pre-training stretches the positions and has no new ones. A patch
has the position it has in the image, also in a window; class token and registers do not turn, nor
does what windows are padded with.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdet.models.settings import VitSettings
from jaxdet.models.windows import partition_windows


class Rotation(NamedTuple):
    """Cosines and sines of the angles of each token, for all windows of an image; float32."""

    cos: Float[Array, "windows tokens pairs"]
    sin: Float[Array, "windows tokens pairs"]


def rotation(
    settings: VitSettings, grid: tuple[int, int], window: int | None, prefix: int
) -> Rotation | None:
    """The rotation that a block needs; None where the settings have none.

    Args:
        grid: rows and columns of the map of tokens.
        window: side of the block's windows; None for a global block.
        prefix: tokens before the patches that take part in the block.
    """
    if settings.rope == "none":
        return None
    rows, columns = _axis_angles(settings, grid)
    if settings.rope == "pe":
        parts = [_along(columns, grid, 1), _along(rows, grid, 0)]
    else:
        parts = [_along(rows, grid, 0), _along(columns, grid, 1)]
    angles = jnp.concatenate(parts, -1)
    if window is None:
        angles = angles.reshape(1, -1, angles.shape[-1])
    else:
        angles = partition_windows(angles[None], window)
    angles = jnp.pad(angles, ((0, 0), (prefix, 0), (0, 0)))
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(
    x: Float[Array, "n tokens heads channels"], rotation: Rotation, rule: str
) -> Float[Array, "n tokens heads channels"]:
    """Queries or keys, turned in float32.

    Args:
        x: the windows of each image one after the other on the first axis.
        rule: as in the settings; says which channels are pairs.
    """
    windows, tokens, pairs = rotation.cos.shape
    split = x.astype(jnp.float32).reshape(
        (-1, windows, tokens, x.shape[2]) + ((2, pairs) if rule == "dinov3" else (pairs, 2))
    )
    axis = -2 if rule == "dinov3" else -1
    first, second = jnp.moveaxis(split, axis, 0)
    cos, sin = rotation.cos[:, :, None], rotation.sin[:, :, None]
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis)
    return turned.reshape(x.shape).astype(x.dtype)


def _axis_angles(
    settings: VitSettings, grid: tuple[int, int]
) -> tuple[Float[np.ndarray, "rows pairs"], Float[np.ndarray, "columns pairs"]]:
    """The angles by row and by column."""
    count = settings.width // settings.heads // 4
    wavelengths = settings.rope_base ** (np.arange(count) / count)
    found = []
    for side in grid:
        if settings.rope == "dinov3":
            coordinates = 2 * np.pi * (2 * (np.arange(side) + 0.5) / side - 1)
        else:
            first = 1 if settings.rope == "pe" else 0
            coordinates = (np.arange(side) + first) / side * settings.rope_grid
        found.append((coordinates[:, None] / wavelengths).astype(np.float32))
    return found[0], found[1]


def _along(
    angles: Float[np.ndarray, "side pairs"], grid: tuple[int, int], axis: int
) -> Float[Array, "rows columns pairs"]:
    return jnp.broadcast_to(jnp.expand_dims(angles, 1 - axis), (*grid, angles.shape[-1]))
