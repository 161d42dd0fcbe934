"""Which ground truth a box is matched with, and which boxes are sampled for a loss.

Labels are int8: 1 = positive, 0 = negative, -1 = ignored.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Int8, Int32, PRNGKeyArray, UInt32

from jaxdet.ops import boxes as box_ops

NO_MATCH = -1.0
"""Stands for the IoU with padded ground truth: below that of any real pair."""


def match(
    iou: Float[ArrayLike, "objects boxes"],
    gt_valid: Bool[ArrayLike, " objects"],
    thresholds: Sequence[float],
    labels: Sequence[int],
    allow_low_quality: bool = False,
) -> tuple[Int32[Array, " boxes"], Int8[Array, " boxes"]]:
    """Assigns every box the ground truth it overlaps most, as Detectron2's Matcher does.

    An RPN's rule, IoUs from .7 positive and below .3 negative, on three objects and five anchors::

        iou = [[0.85, 0.40, 0.10, 0.05, 0.00],   object 0
               [0.20, 0.50, 0.25, 0.00, 0.00],   object 1
               [0.00, 0.00, 0.00, 0.00, 0.00]]   object 2, which no anchor touches
        match(iou, valid, thresholds=(0.3, 0.7), labels=(0, -1, 1), allow_low_quality=True)
        matched = [0, 1, 1, 0, 0]
        labels = [1, 1, 0, 0, 0]

    The best IoU of each anchor, .85 .50 .25 .05 0, alone would label them 1 -1 0 0 0. But anchor 1
    is the best that object 1 has, and so it becomes positive. Were its IoU with object 0 .60 and
    not .40, it would still, and be matched with object 0. An IoU of 0 is nobody's best.

    Args:
        iou: overlap of every ground-truth box with every box.
        gt_valid: False for padded ground truth, which is never matched.
        thresholds: ascending IoUs that split the boxes into len(thresholds) + 1 ranges; a box on a
            threshold belongs to the upper range.
        labels: label of the boxes in each range.
        allow_low_quality: also label positive every box that no other box exceeds in IoU with some
            ground truth, ties included (Faster R-CNN, section 3.1.2, rule i). The matched
            index stays the most overlapping ground truth.

    Returns:
        Index of the matched ground truth (meaningful only where there is any) and label per box.
        Without valid ground truth all boxes fall into the lowest range.
    """
    iou = jnp.where(gt_valid[:, None], iou, NO_MATCH)
    matched = jnp.argmax(iou, axis=0).astype(jnp.int32)
    low_quality = jnp.zeros(iou.shape[1], bool)
    if allow_low_quality:
        low_quality = jnp.any(_is_best_of_its_row(iou), axis=0)
    return matched, _label(jnp.max(iou, axis=0), low_quality, thresholds, labels)


def match_boxes(
    gt_boxes: Float[ArrayLike, "objects 4"],
    gt_valid: Bool[ArrayLike, " objects"],
    boxes: Float[ArrayLike, "boxes 4"],
    thresholds: Sequence[float],
    labels: Sequence[int],
    allow_low_quality: bool = False,
) -> tuple[Int32[Array, " boxes"], Int8[Array, " boxes"]]:
    """`match` on the IoU of two sets of boxes, in memory proportional to the boxes alone.

    Goes through the ground truth one by one, so that the quarter million anchors of an image
    need a few megabytes where their IoU matrix needs hundreds.
    """

    def visit(carry, ground_truth):
        best, matched, low_quality = carry
        index, box, valid = ground_truth
        row = jnp.where(valid, box_ops.iou(box[None], boxes), NO_MATCH)
        # Compiled into each of its uses, the IoU may round differently in each and miss its
        # own maximum below.
        row = jax.lax.optimization_barrier(row)
        if allow_low_quality:
            low_quality |= _is_best_of_its_row(row)[0]
        better = row[0] > best
        return (jnp.where(better, row[0], best), jnp.where(better, index, matched), low_quality), ()

    shape = boxes.shape[:1]
    start = (jnp.full(shape, NO_MATCH), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))
    indices = jnp.arange(gt_boxes.shape[0], dtype=jnp.int32)
    (best, matched, low_quality), _ = jax.lax.scan(visit, start, (indices, gt_boxes, gt_valid))
    return matched, _label(best, low_quality, thresholds, labels)


def _is_best_of_its_row(iou: Float[Array, "objects boxes"]) -> Bool[Array, "objects boxes"]:
    best = jnp.max(iou, axis=1, keepdims=True)
    return (iou == best) & (best > 0)


def _label(
    best_iou: Float[Array, " boxes"],
    low_quality: Bool[Array, " boxes"],
    thresholds: Sequence[float],
    labels: Sequence[int],
) -> Int8[Array, " boxes"]:
    result = jnp.full(best_iou.shape, labels[0], jnp.int8)
    for threshold, label in zip(thresholds, labels[1:], strict=True):
        result = jnp.where(best_iou >= threshold, jnp.int8(label), result)
    return jnp.where(low_quality, jnp.int8(1), result)


def sample(
    key: PRNGKeyArray,
    labels: Int[ArrayLike, " boxes"],
    num_samples: int,
    positive_fraction: float,
) -> Int8[Array, " boxes"]:
    """`labels` with all but a random sample set to -1, uniform and without replacement.

    Takes at most int(num_samples * positive_fraction) positives and fills up with negatives
    (Fast R-CNN, section 2.3; Detectron2's subsample_labels). Boxes labelled -1 are never taken.
    """
    labels = jnp.asarray(labels)
    positive_key, negative_key = jax.random.split(key)
    positive = _choose(positive_key, labels == 1, int(num_samples * positive_fraction))
    negative = _choose(negative_key, labels == 0, num_samples - jnp.sum(positive))
    return jnp.where(positive, 1, jnp.where(negative, 0, -1)).astype(jnp.int8)


def sample_indices(
    key: PRNGKeyArray,
    labels: Int[ArrayLike, " boxes"],
    num_samples: int,
    positive_fraction: float,
) -> tuple[Int32[Array, " samples"], Bool[Array, " samples"], Bool[Array, " samples"]]:
    """The sample that `sample` takes, as the indices of `num_samples` boxes.

    Returns:
        Of each entry the index of its box (0 in unused ones), whether it is used, and whether its
        box is positive. Positives come first, then negatives, then unused entries.
    """
    labels = sample(key, labels, num_samples, positive_fraction)
    num_positives = jnp.sum(labels == 1)
    num_sampled = jnp.sum(labels >= 0)
    order = jnp.argsort(labels, descending=True, stable=True)[:num_samples].astype(jnp.int32)
    order = jnp.pad(order, (0, num_samples - order.shape[0]))
    entry = jnp.arange(num_samples)
    is_sampled = entry < num_sampled
    return jnp.where(is_sampled, order, 0), is_sampled, entry < num_positives


def _choose(
    key: PRNGKeyArray, candidates: Bool[Array, " boxes"], count: int | Int[Array, ""]
) -> Bool[Array, " boxes"]:
    """Marks `count` of the candidates at random, or all of them where they are fewer.

    By bisection and not by lax.top_k, for which XLA collects a batch spread over devices on each
    of them.
    """
    last = jnp.uint32(2**32 - 1)
    priority = jnp.where(candidates, jax.random.bits(key, candidates.shape) >> 1, last)
    cut = _cut(priority, count)
    chosen = priority < cut
    # Of candidates that tie at the cut, the first ones fill what is missing.
    is_tied = candidates & (priority == cut)
    position = jnp.where(is_tied, jnp.arange(candidates.shape[0], dtype=jnp.uint32), last)
    return chosen | (position < _cut(position, count - jnp.sum(chosen)))


def _cut(values: UInt32[Array, " n"], count: int | Int[Array, ""]) -> UInt32[Array, ""]:
    """The largest number that at most `count` of the values are below."""

    def try_bit(i, cut):
        raised = cut | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(jnp.sum(values < raised) <= count, raised, cut)

    return jax.lax.fori_loop(0, 32, try_bit, jnp.uint32(0))
