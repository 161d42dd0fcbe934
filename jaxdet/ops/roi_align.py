"""RoIAlign over a feature pyramid: static shapes, exact for both sampling rules, small in memory.

A bin's value is a weighted sum of cells of one map, and the weights are products of a vertical and
a horizontal one. All levels lie one after the other in one table; a loop over slots adds up, for
all bins at once, the slot's cell times its weight, and never holds more than the result and one
such term. The number of slots follows from the sizes of the maps and from the rule that spreads
boxes over levels: large boxes go to coarse maps, so on all levels but the coarsest a box's area in
cells is bounded, and with it the number of samples in a bin, however elongated the box.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Int32

OVERHANG = 1.25
"""How long a box on the coarsest level may be, relative to the map."""

AREA_SLACK = 1.0001
"""Room for float32 rounding where a box is assigned its level."""

UNROLL = 4
"""Slots per step of the forward loop, which reads and writes the result once a step."""

GPU_UNROLL = 24
"""The same on GPUs, where every step has its price and a longer one is compiled quickly enough."""


class _Sampling(NamedTuple):
    """What a compiled call is specialised on."""

    output_size: int
    sampling_ratio: int
    num_slots: int
    num_cells: int


class _Regions(NamedTuple):
    """Boxes in the cells of their level; the last axis is (y, x)."""

    start: Float[Array, "rois 2"]
    length: Float[Array, "rois 2"]
    map_size: Int[Array, "rois 2"]
    map_offset: Int[Array, " rois"]


def roi_align(
    features: Sequence[Float[ArrayLike, "_ _ channels"]],
    boxes: Float[ArrayLike, "rois 4"],
    *,
    strides: Sequence[int | float],
    output_size: int,
    sampling_ratio: int,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Float[Array, "rois output_size output_size channels"]:
    """Pools every box to output_size x output_size bins on the pyramid level that fits its size.

    Mask R-CNN's RoIAlign (He et al., 2017) with the half-pixel shift of Detectron2's ROIAlignV2
    (torchvision: aligned=True), and FPN's choice of the level (see `assign_levels`). Samples
    outside a map take the value at its border. Differentiable with respect to the features alone;
    sums, also those of the gradient, are in float32, the result in the dtype of the features.

    Args:
        features: one map per level, from fine to coarse.
        boxes: in pixels of the image, not longer on any side than the image (on the coarsest
            level a quarter longer). Longer ones come out wrong with adaptive sampling.
        strides: pixels a cell covers, one per level, each twice that before it.
        output_size: bins per side.
        sampling_ratio: samples per bin and axis; 0 chooses for each box as many as its bins are
            long in cells, rounded up.
        canonical_size: side of a box, in pixels, that goes to canonical_level.
        canonical_level: log2 of the stride of the level for boxes of canonical_size.
    """
    sizes = np.array([f.shape[:2] for f in features])
    offsets = np.cumsum(sizes.prod(1)) - sizes.prod(1)
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    levels = assign_levels(boxes, strides, canonical_size, canonical_level)
    scale = 1 / jnp.asarray(strides, jnp.float32)[levels][:, None]
    regions = _Regions(
        start=boxes[:, 1::-1] * scale - 0.5,
        length=(boxes[:, :1:-1] - boxes[:, 1::-1]) * scale,
        map_size=jnp.asarray(sizes, jnp.int32)[levels],
        map_offset=jnp.asarray(offsets, jnp.int32)[levels],
    )
    if sampling_ratio:
        num_slots = (2 * sampling_ratio) ** 2
    else:
        bounds = [*_level_bounds(strides, canonical_size, canonical_level), math.inf]
        longest = sizes.astype(float)
        longest[-1] *= OVERHANG
        num_slots = max(
            _max_adaptive_slots(height, width, (bound / stride) ** 2, output_size)
            for (height, width), stride, bound in zip(longest, strides, bounds, strict=True)
        )
    table = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    sampling = _Sampling(output_size, sampling_ratio, num_slots, table.shape[0])
    return _pool(sampling, table, regions)


def assign_levels(
    boxes: Float[ArrayLike, "*batch 4"],
    strides: Sequence[int | float],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int32[Array, "*batch"]:
    """The pyramid level of each box, as an index into `strides` (FPN, Lin et al., equation 1).

    A box of area canonical_size ** 2 goes to the level of stride 2 ** canonical_level, one of
    half the side one level down; boxes beyond the ends stay on the first and last level.
    """
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    bounds = jnp.asarray(_level_bounds(strides, canonical_size, canonical_level), jnp.float32)
    side = jnp.sqrt(jnp.maximum(width * height, 0.0))
    return jnp.sum(side[..., None] >= bounds, axis=-1, dtype=jnp.int32)


def _level_bounds(
    strides: Sequence[int | float], canonical_size: float, canonical_level: int
) -> list[float]:
    """Where each level but the last ends: the square root of area, in pixels."""
    return [2 * stride * canonical_size / 2**canonical_level for stride in strides[:-1]]


def _max_adaptive_slots(height: float, width: float, area: float, output_size: int) -> int:
    """The most cells a bin averages of boxes up to height x width and below `area`, all in cells.

    With n samples in a bin along an axis, at most a cell apart, at most n + 1 cells take part.
    """

    def samples(length):
        return max(math.ceil(length / output_size), 1)

    most = 0
    for rows in range(1, samples(height) + 1):
        longer_than = (rows - 1) * output_size
        narrower_than = area * AREA_SLACK / longer_than if rows > 1 else math.inf
        most = max(most, (rows + 1) * (samples(min(width, narrower_than)) + 1))
    return most


def _axis_slot(
    sampling: _Sampling, start: Array, length: Array, samples: Array, slot: Array
) -> tuple[Float[Array, "rois bins"], Float[Array, "rois bins"]]:
    """Of every bin along one axis, the slot's cell and its weight; bins sum to 1 over the slots."""
    start, length, samples, slot = (v[:, None] for v in (start, length, samples, slot))
    bin_length = length / sampling.output_size
    step = bin_length / jnp.maximum(samples, 1)
    first = start + bin_length * jnp.arange(sampling.output_size) + 0.5 * step
    if sampling.sampling_ratio:
        # Samples may be far apart: slots 2i and 2i + 1 are the cells around sample i.
        position = first + step * (slot // 2)
        cell = jnp.floor(position) + slot % 2
        weight = 1 - jnp.abs(position - cell)
    else:
        # Samples are at most a cell apart: slots are consecutive cells. Three or more samples are
        # over two thirds apart, so that no more than three are within a cell's reach.
        cell = jnp.floor(first) + slot
        reached = jnp.maximum(jnp.ceil((cell - 1 - first) / jnp.maximum(step, 1e-6)), 0)
        weight = jnp.zeros_like(cell)
        for nth in (reached, reached + 1, reached + 2):
            share = jnp.maximum(1 - jnp.abs(first + nth * step - cell), 0)
            weight += jnp.where(nth < samples, share, 0)
    return cell, weight / jnp.maximum(samples, 1)


def _slot_terms(
    sampling: _Sampling, regions: _Regions, slot: Int[Array, ""]
) -> tuple[Int[Array, "rois bins bins"], Float[Array, "rois bins bins"]]:
    """Of every bin, the row of the table that holds the slot's cell, and its weight."""
    if sampling.sampling_ratio:
        samples = jnp.full(regions.length.shape, sampling.sampling_ratio)
        columns = 2 * samples[:, 1]
    else:
        samples = jnp.ceil(regions.length / sampling.output_size).astype(jnp.int32)
        columns = jnp.maximum(samples[:, 1], 0) + 1
    y, weight_y = _axis_slot(
        sampling, regions.start[:, 0], regions.length[:, 0], samples[:, 0], slot // columns
    )
    x, weight_x = _axis_slot(
        sampling, regions.start[:, 1], regions.length[:, 1], samples[:, 1], slot % columns
    )
    height, width = regions.map_size[:, :1], regions.map_size[:, 1:]
    y = jnp.clip(y.astype(jnp.int32), 0, height - 1)
    x = jnp.clip(x.astype(jnp.int32), 0, width - 1)
    cell = (regions.map_offset[:, None] + y * width)[:, :, None] + x[:, None]
    return cell, weight_y[:, :, None] * weight_x[:, None]


# Left to itself, the gradient would be summed up one whole table per slot.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(
    sampling: _Sampling, table: Float[Array, "cells channels"], regions: _Regions
) -> Float[Array, "rois bins bins channels"]:
    return _by_platform(pool_in_sequence, pool_listed, sampling, table, regions)


def _pool_forward(sampling, table, regions):
    return _pool(sampling, table, regions), regions


def _pool_backward(sampling, regions, gradient):
    return _by_platform(scatter_in_sequence, scatter_at_once, sampling, gradient, regions), None


_pool.defvjp(_pool_forward, _pool_backward)


def _by_platform(
    anywhere: Callable[..., Array], on_gpus: Callable[..., Array], sampling: _Sampling, *arrays: Any
) -> Array:
    anywhere, on_gpus = (functools.partial(form, sampling) for form in (anywhere, on_gpus))
    return jax.lax.platform_dependent(*arrays, default=anywhere, cuda=on_gpus, rocm=on_gpus)


def pool_in_sequence(
    sampling: _Sampling, table: Float[Array, "cells channels"], regions: _Regions
) -> Float[Array, "rois bins bins channels"]:
    """The sum over slots, a few at a time."""
    terms = functools.partial(_slot_terms, sampling, regions)
    return _pool_slots(table, terms, jnp.arange(sampling.num_slots), UNROLL)


def pool_listed(
    sampling: _Sampling, table: Float[Array, "cells channels"], regions: _Regions
) -> Float[Array, "rois bins bins channels"]:
    """The same with all cells and weights computed before, for GPUs: in few and larger steps."""
    return _pool_slots(table, lambda terms: terms, _all_slots(sampling, regions), GPU_UNROLL)


def _pool_slots(
    table: Float[Array, "cells channels"],
    terms: Callable[[Any], tuple[Array, Array]],
    slots: Any,
    unroll: int,
) -> Float[Array, "rois bins bins channels"]:
    def add_slot(total, slot):
        cell, weight = terms(slot)
        values = table.at[cell].get(mode="promise_in_bounds")
        return total + weight[..., None] * values.astype(jnp.float32), None

    bins = jax.eval_shape(terms, jax.tree.map(lambda a: a[0], slots))[0].shape
    total = jnp.zeros((*bins, table.shape[1]), jnp.float32)
    return jax.lax.scan(add_slot, total, slots, unroll=unroll)[0].astype(table.dtype)


def scatter_in_sequence(
    sampling: _Sampling, gradient: Float[Array, "rois bins bins channels"], regions: _Regions
) -> Float[Array, "cells channels"]:
    """The gradient of the table, slot by slot."""

    def add_slot(total, slot):
        cell, weight = _used_cells(sampling, *_slot_terms(sampling, regions, slot))
        return total.at[cell].add(weight[..., None] * gradient, mode="drop"), None

    total = jnp.zeros((sampling.num_cells, gradient.shape[-1]), jnp.float32)
    total, _ = jax.lax.scan(add_slot, total, jnp.arange(sampling.num_slots))
    return total.astype(gradient.dtype)


def scatter_at_once(
    sampling: _Sampling, gradient: Float[Array, "rois bins bins channels"], regions: _Regions
) -> Float[Array, "cells channels"]:
    """The same in one scatter, for GPUs, whose compiler computes the terms where it adds them."""
    cell, weight = _used_cells(sampling, *_all_slots(sampling, regions))
    total = jnp.zeros((sampling.num_cells, gradient.shape[-1]), jnp.float32)
    return total.at[cell].add(weight[..., None] * gradient, mode="drop").astype(gradient.dtype)


def _all_slots(
    sampling: _Sampling, regions: _Regions
) -> tuple[Int[Array, "slots rois bins bins"], Float[Array, "slots rois bins bins"]]:
    slots = jnp.arange(sampling.num_slots)
    return jax.vmap(functools.partial(_slot_terms, sampling, regions))(slots)


def _used_cells(sampling: _Sampling, cell: Array, weight: Array) -> tuple[Array, Array]:
    """Rows past the end are dropped: no work for slots that a box has no use for."""
    return jnp.where(weight > 0, cell, sampling.num_cells), weight
