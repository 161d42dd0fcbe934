"""Which ground truth a box is matched with, and which boxes are sampled for a loss.

Labels are int8: 1 = positive, 0 = negative, -1 = ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Int8, Int32, Key, PRNGKeyArray, UInt32

from jaxdet.ops import boxes as box_ops

TINY = float(jnp.finfo(jnp.float32).tiny)

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

    The quarter million anchors of an image need a few megabytes where their IoU matrix needs
    hundreds.
    """
    best_iou, matched, low_quality = jax.lax.platform_dependent(
        *(jnp.asarray(a) for a in (gt_boxes, gt_valid, boxes)),
        default=best_in_sequence,
        cuda=best_by_reductions,
        rocm=best_by_reductions,
    )
    if not allow_low_quality:
        low_quality = jnp.zeros_like(low_quality)
    return matched, _label(best_iou, low_quality, thresholds, labels)


Best = tuple[Float[Array, " boxes"], Int32[Array, " boxes"], Bool[Array, " boxes"]]
"""Of each box the highest IoU with ground truth, whose it is, and whether no box exceeds this one
in IoU with some ground truth."""


def best_in_sequence(
    gt_boxes: Float[Array, "objects 4"],
    gt_valid: Bool[Array, " objects"],
    boxes: Float[Array, "boxes 4"],
) -> Best:
    """One ground truth after the other: least work, many small steps."""

    def visit(carry, ground_truth):
        best, matched, low_quality = carry
        index, box, valid = ground_truth
        row = jnp.where(valid, box_ops.iou(box[None], boxes), NO_MATCH)
        # Compiled into each of its uses, the IoU may round differently in each and miss its
        # own maximum below.
        row = jax.lax.optimization_barrier(row)
        low_quality |= _is_best_of_its_row(row)[0]
        better = row[0] > best
        return (jnp.where(better, row[0], best), jnp.where(better, index, matched), low_quality), ()

    shape = boxes.shape[:1]
    start = (jnp.full(shape, NO_MATCH), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))
    indices = jnp.arange(gt_boxes.shape[0], dtype=jnp.int32)
    return jax.lax.scan(visit, start, (indices, gt_boxes, gt_valid))[0]


def best_by_reductions(
    gt_boxes: Float[Array, "objects 4"],
    gt_valid: Bool[Array, " objects"],
    boxes: Float[Array, "boxes 4"],
) -> Best:
    """The same in three reductions, each of which computes the IoU for itself: for GPUs, whose
    compiler then writes no IoU to memory."""
    areas = jax.lax.optimization_barrier((box_ops.area(gt_boxes), box_ops.area(boxes)))

    def overlaps(gt_boxes):
        iou = _iou_rounded_alike(gt_boxes, boxes, *areas)
        return jnp.where(gt_valid[:, None], iou, NO_MATCH)

    iou = overlaps(gt_boxes)
    index = jax.lax.broadcasted_iota(jnp.int32, iou.shape, 0)
    start = (jnp.float32(NO_MATCH), jnp.int32(0))
    best_iou, matched = jax.lax.reduce((iou, index), start, _better_match, (0,))
    # Behind a barrier these are other boxes to XLA, which else keeps the matrix for all uses.
    again = jax.lax.optimization_barrier(gt_boxes)
    best_of_row = jnp.max(overlaps(again), axis=1, keepdims=True)
    again, best_of_row = jax.lax.optimization_barrier((again, best_of_row))
    is_best = (overlaps(again) == best_of_row) & (best_of_row > 0)
    return best_iou, matched, jnp.any(is_best, axis=0)


def _iou_rounded_alike(
    a: Float[Array, "n 4"],
    b: Float[Array, "m 4"],
    area_a: Float[Array, " n"],
    area_b: Float[Array, " m"],
) -> Float[Array, "n m"]:
    """`boxes.iou`, which rounds the same wherever XLA compiles it into.

    A product that is added may be rounded or not, by what it is compiled with. Here none is added:
    the areas come from outside, and an intersection passes a minimum that never changes it.
    """
    top_left = jnp.maximum(a[:, None, :2], b[None, :, :2])
    overlap = jnp.maximum(jnp.minimum(a[:, None, 2:], b[None, :, 2:]) - top_left, 0.0)
    intersection = jnp.minimum(overlap[..., 0] * overlap[..., 1], area_b)
    return intersection / jnp.maximum(area_a[:, None] + area_b - intersection, TINY)


def _better_match(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Of two ground truths (IoU, index): the more overlapping, or else the earlier."""
    (iou, index), (other_iou, other_index) = first, second
    is_first = (iou > other_iou) | ((iou == other_iou) & (index < other_index))
    return jnp.where(is_first, iou, other_iou), jnp.where(is_first, index, other_index)


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
    is_positive, is_negative = labels == 1, labels == 0
    max_positives = int(num_samples * positive_fraction)
    num_positives = jnp.minimum(jnp.sum(is_positive), max_positives)
    positive, negative = _choose(
        jax.random.split(key),
        jnp.stack([is_positive, is_negative]),
        jnp.stack([num_positives, num_samples - num_positives]),
    )
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
    keys: Key[Array, " sets"], candidates: Bool[Array, "sets boxes"], counts: Int[Array, " sets"]
) -> Bool[Array, "sets boxes"]:
    """Marks `counts` of each set of candidates at random, or all of them where they are fewer.

    By a search and not by lax.top_k, for which XLA collects a batch spread over devices on each
    of them.
    """
    boxes = candidates.shape[1]
    bits = jax.vmap(lambda key: jax.random.bits(key, (boxes,)))(keys)
    priority = jnp.where(candidates, bits >> 1, jnp.uint32(2**32 - 1))
    cut = _cut(priority, counts)
    chosen = priority < cut
    # Of candidates that tie at the cut, the first ones fill what is missing.
    is_tied = candidates & (priority == cut)
    position = jnp.where(is_tied, jnp.arange(boxes, dtype=jnp.uint32), jnp.uint32(2**32 - 1))
    missing = counts - jnp.sum(chosen, axis=1)
    return chosen | (position < _cut(position, missing, boxes.bit_length()))


def _cut(
    values: UInt32[Array, "sets n"], counts: Int[Array, " sets"], bits: int = 32
) -> UInt32[Array, "sets 1"]:
    """Of each set the largest number that at most `counts` of the values are below.

    Only its last `bits` bits are searched for. On GPUs each pass over the values decides four bits,
    elsewhere one, which is less work.
    """
    one_bit, four_bits = (functools.partial(_search, step=step, bits=bits) for step in (1, 4))
    return jax.lax.platform_dependent(
        values, counts, default=one_bit, cuda=four_bits, rocm=four_bits
    )


def _search(
    values: UInt32[Array, "sets n"], counts: Int[Array, " sets"], *, step: int, bits: int
) -> UInt32[Array, "sets 1"]:
    digits = jnp.arange(1, 2**step, dtype=jnp.uint32)
    rounds = -(-bits // step)

    def decide(i, cut):
        shift = (step * (rounds - 1 - i)).astype(jnp.uint32)
        raised = cut + (digits << shift)
        below = jnp.sum(values[:, None] < raised[:, :, None], axis=-1)
        digit = jnp.sum(below <= counts[:, None], axis=1, keepdims=True, dtype=jnp.uint32)
        return cut + (digit << shift)

    start = jnp.zeros((len(counts), 1), jnp.uint32)
    # Unrolled where rounds are few: a loop starts kernels of its own for each.
    return jax.lax.fori_loop(0, rounds, decide, start, unroll=step > 1)
