"""Axis-aligned boxes: geometry and the regression code.

Boxes are float32 (x1, y1, x2, y2) in pixels; a box covers the continuous area from its first to
its second corner, so a width is x2 - x1 without a "+ 1".
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Num

BoxWeights = tuple[float, float, float, float]

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Cap on predicted log width and height changes, so that exp() of them stays sane."""


def area(
    boxes: Float[ArrayLike, "*batch 4"],
) -> Float[Array, "*batch"] | Float[np.ndarray, "*batch"]:
    """Areas in square pixels; computed by NumPy, and so when tracing, for NumPy's arrays."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[ArrayLike, "n 4"], b: Float[ArrayLike, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every box of `a` with every box of `b`; 0 where they are apart."""
    top_left = jnp.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = jnp.maximum(bottom_right - top_left, 0.0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = area(a)[:, None] + area(b)[None] - intersection
    apart = intersection <= 0
    return jnp.where(apart, 0.0, intersection / jnp.where(apart, 1.0, union))


def giou(
    a: Float[ArrayLike, "*batch 4"], b: Float[ArrayLike, "*batch 4"]
) -> Float[Array, "*batch"]:
    """Generalised IoU of boxes pair by pair (Rezatofighi et al., 2019), in -1 ... 1.

    The IoU less the share of the smallest enclosing box that neither covers. Areas count as at
    least 1e-6 square pixels where they divide, as in MMDetection.
    """
    overlap = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    intersection = jnp.prod(jnp.maximum(overlap, 0.0), -1)
    union = jnp.maximum(area(a) + area(b) - intersection, 1e-6)
    sides = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    enclosing = jnp.maximum(jnp.prod(jnp.maximum(sides, 0.0), -1), 1e-6)
    return intersection / union - (enclosing - union) / enclosing


def clip(boxes: Float[ArrayLike, "*batch 4"], hw: Num[ArrayLike, " 2"]) -> Float[Array, "*batch 4"]:
    """Boxes clipped to an image of `hw` = (height, width) pixels."""
    boxes, height, width = jnp.asarray(boxes), hw[0], hw[1]
    return jnp.clip(boxes, 0.0, jnp.stack([width, height, width, height]).astype(boxes.dtype))


def is_nonempty(boxes: Float[ArrayLike, "*batch 4"]) -> Bool[Array, "*batch"]:
    """Whether boxes have both width and height above zero."""
    boxes = jnp.asarray(boxes)
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def _centers_and_sizes(
    boxes: Float[ArrayLike, "*batch 4"],
) -> tuple[Float[Array, "*batch 2"], Float[Array, "*batch 2"]]:
    boxes = jnp.asarray(boxes, jnp.float32)
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sizes, sizes


def encode(
    source: Float[ArrayLike, "*batch 4"], target: Float[ArrayLike, "*batch 4"], weights: BoxWeights
) -> Float[Array, "*batch 4"]:
    """Regression targets (dx, dy, dw, dh) that move `source` boxes onto `target` boxes.

    The code of R-CNN (Girshick et al., 2014, appendix C) as Detectron2's Box2BoxTransform writes
    it: center shifts in units of the source size, log size ratios, each times its weight.
    Entries are not finite where a box is empty; callers mask those out.
    """
    source_center, source_size = _centers_and_sizes(source)
    target_center, target_size = _centers_and_sizes(target)
    shift = (target_center - source_center) / source_size
    growth = jnp.log(target_size / source_size)
    return jnp.concatenate([shift, growth], -1) * jnp.asarray(weights, jnp.float32)


def decode(
    deltas: Float[ArrayLike, "*batch 4"], boxes: Float[ArrayLike, "*#batch 4"], weights: BoxWeights
) -> Float[Array, "*batch 4"]:
    """Boxes moved by predicted deltas: the inverse of `encode`, in float32.

    Leading axes broadcast: class-specific deltas [R, K, 4] go with boxes [R, 1, 4]. Log size
    changes are capped at log(1000 / 16) as in Detectron2.
    """
    center, size = _centers_and_sizes(boxes)
    deltas = jnp.asarray(deltas, jnp.float32) / jnp.asarray(weights, jnp.float32)
    new_center = deltas[..., :2] * size + center
    new_size = jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * size
    return jnp.concatenate([new_center - 0.5 * new_size, new_center + 0.5 * new_size], -1)
