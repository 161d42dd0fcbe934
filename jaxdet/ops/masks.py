"""Targets of the mask head: each RoI's view of the object that it is matched with."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from jaxdet.mask_format import max_points

STEPS = 5
"""COCO's rasteriser rounds corners to fifths of a pixel."""

MOST_SAMPLES = 8
"""Of a bin along an axis, where Detectron2 takes as many as it has pixels."""


def mask_targets(
    gt_masks: UInt8[ArrayLike, "objects size size"],
    outlined: Bool[ArrayLike, " objects"],
    gt_boxes: Float[ArrayLike, "objects 4"],
    roi_boxes: Float[ArrayLike, "rois 4"],
    matched: Int[ArrayLike, " rois"],
    out: int = 28,
) -> Bool[Array, "rois out out"]:
    """The objects' masks in the RoIs, as Detectron2's `crop_and_resize` has them.

    Args:
        gt_masks: outlines or coverage, see `jaxdet.mask_format`.
        outlined: whether it is outlines.
        gt_boxes: the objects' boxes, in pixels.
        roi_boxes: the boxes to see the masks in, in pixels.
        matched: each RoI's object.
        out: side of the targets.
    """
    masks = jnp.asarray(gt_masks)[matched]
    points = max_points(masks.shape[-1])
    data = masks.reshape(len(masks), -1)[:, : points * 8].reshape(len(masks), points, 2, 4)
    return jnp.where(
        jnp.asarray(outlined)[matched][:, None, None],
        rasterise(jax.lax.bitcast_convert_type(data, jnp.float32), roi_boxes, out),
        average(masks, jnp.asarray(gt_boxes)[matched], roi_boxes, out) >= 0.5,
    )


def rasterise(
    outlines: Float[ArrayLike, "rois points 2"], rois: Float[ArrayLike, "rois 4"], out: int
) -> Bool[Array, "rois out out"]:
    """Outlines on a grid over each RoI, pixel for pixel as pycocotools' `frPyObjects` and `merge`.

    Its rule: corners are rounded to fifths of a pixel, edges are traced in these steps, and where
    one passes between the steps 5c + 2 and 5c + 3 of column c, all pixels of the column from there
    on down change sides. Of several polygons the union counts.
    """
    origin, sides = rois[:, None, :2], rois[:, None, 2:] - rois[:, None, :2]
    scaled = (outlines - origin) * (out / jnp.maximum(sides, 0.1))
    x, y = jnp.moveaxis(jnp.trunc(STEPS * scaled + 0.5).astype(jnp.int32), -1, 0)
    is_point = outlines[..., 0] >= 0
    # Each polygon has a bit of its own (of 32), in which its edges cancel in pairs.
    polygon = jnp.cumsum(~is_point, axis=1)[:, :-1] % 32
    is_edge = is_point[:, :-1] & is_point[:, 1:]
    bits = jnp.where(is_edge, jnp.left_shift(jnp.uint32(1), polygon.astype(jnp.uint32)), 0)

    steps = STEPS * jnp.arange(out) + STEPS // 2
    crosses, lowest = _crossings(
        *(a[:, None] for a in (x[:, :-1], y[:, :-1], x[:, 1:], y[:, 1:])), steps[:, None]
    )
    bits = jnp.where(crosses, bits[:, None], 0)
    parity = jax.lax.platform_dependent(
        lowest, bits, steps, default=parity_at_once, cpu=parity_in_sequence
    )
    return parity != 0


def parity_at_once(
    lowest: Int[Array, "rois columns edges"],
    bits: UInt32[Array, "rois columns edges"],
    steps: Int[Array, " rows"],
) -> UInt32[Array, "rois rows columns"]:
    """Of each pixel the bits that edges at or above it change, by one reduction over the edges."""
    # Else the compiler works them out again for each row.
    lowest, bits = jax.lax.optimization_barrier((lowest, bits))
    changed = jnp.where(lowest[:, None] <= steps[:, None, None], bits[:, None], 0)
    return jax.lax.reduce(changed, jnp.uint32(0), jax.lax.bitwise_xor, (3,))


def parity_in_sequence(
    lowest: Int[Array, "rois columns edges"],
    bits: UInt32[Array, "rois columns edges"],
    steps: Int[Array, " rows"],
) -> UInt32[Array, "rois rows columns"]:
    """The same, one edge after the other and none that is not there: for CPUs, whose compiler
    vectorises over pixels."""
    edges = jnp.arange(1, bits.shape[-1] + 1)
    used = jnp.max(jnp.where(jnp.any(bits != 0, axis=(0, 1)), edges, 0))
    lowest, bits = jnp.moveaxis(lowest, -1, 0), jnp.moveaxis(bits, -1, 0)

    def visit(i: Array, parity: Array) -> Array:
        return parity ^ jnp.where(lowest[i][:, None] <= steps[:, None], bits[i][:, None], 0)

    start = jnp.zeros((bits.shape[1], len(steps), bits.shape[2]), jnp.uint32)
    return jax.lax.fori_loop(0, used, visit, start)


def _crossings(x1: Array, y1: Array, x2: Array, y2: Array, step: Array) -> tuple[Array, Array]:
    """Whether edges between whole numbers pass from `step` to the next, and the lesser y there."""
    swap = x1 > x2
    left, right = jnp.where(swap, x2, x1), jnp.where(swap, x1, x2)
    start, end = jnp.where(swap, y2, y1), jnp.where(swap, y1, y2)
    dx, dy, falls = jnp.maximum(right - left, 1), jnp.abs(end - start), end < start
    twice = 2 * (step - left) + 1  # to the middle between the steps
    # Flat edges have a point for each x, steep ones one for each y; halves are rounded up.
    numerator = jnp.where(
        dx >= dy,
        jnp.where(falls, (twice + 1) * dy + dx - 1, (twice - 1) * dy + dx),
        twice * dy + 2 * dx - 1,
    )
    # Rounded down, exactly for numerators to 4e6. TPUs' compiler takes minutes for whole numbers'.
    moved = jnp.floor((numerator + 0.5) / (2 * dx)).astype(jnp.int32)
    lowest = jnp.where(falls, start - moved, start + moved - jnp.where(dx >= dy, 0, 1))
    return (left <= step) & (right > step), lowest


def average(
    coverage: UInt8[ArrayLike, "rois size size"],
    boxes: Float[ArrayLike, "rois 4"],
    rois: Float[ArrayLike, "rois 4"],
    out: int,
) -> Float[Array, "rois out out"]:
    """The mean of coverage in each bin of a RoI, from 0 to 1; RoIAlign's of the mask's pixels.

    Args:
        coverage: grids over the whole pixels that the boxes touch.
    """

    def weights(start: Array, end: Array, first: Array, last: Array) -> Array:
        bins = ((end - start) / out)[:, None, None, None]
        count = jnp.clip(jnp.ceil(bins), 1, MOST_SAMPLES)
        sample = jnp.arange(MOST_SAMPLES)
        offset = jnp.arange(out)[:, None, None] + (sample[:, None] + 0.5) / count
        position = start[:, None, None, None] + bins * offset
        origin = jnp.floor(first)
        cell = jnp.maximum((jnp.ceil(last) - origin) / size, 1)[:, None, None, None]
        centre = origin[:, None, None, None] + cell * (jnp.arange(size) + 0.5)
        # Bilinear between the centres of pixels, all those of a cell together.
        near = jnp.clip((cell + 1) / 2 - jnp.abs(position - centre), 0, 1)
        return jnp.where(sample[:, None] < count, near, 0).sum(2) / count[:, :, 0]

    size = coverage.shape[-1]
    vertical = weights(rois[:, 1], rois[:, 3], boxes[:, 1], boxes[:, 3])
    horizontal = weights(rois[:, 0], rois[:, 2], boxes[:, 0], boxes[:, 2])
    return jnp.einsum(
        "rph,rhw,rqw->rpq",
        vertical,
        coverage.astype(jnp.float32) / 255,
        horizontal,
        precision=jax.lax.Precision.HIGHEST,
    )
