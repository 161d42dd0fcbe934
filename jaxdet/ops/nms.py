"""Greedy non-maximum suppression, hard and soft, with static shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from jaxdet.ops import boxes as box_ops

RULES = 4
"""Applications of the rule of suppression between two looks at whether it still changes anything,
for each of which the host waits for a GPU."""


def nms(
    boxes: Float[ArrayLike, "n 4"],
    scores: Float[ArrayLike, " n"],
    valid: Bool[ArrayLike, " n"],
    iou_threshold: float,
    groups: Int[ArrayLike, " n"] | None = None,
) -> Bool[Array, " n"]:
    """Marks the boxes that greedy non-maximum suppression keeps, as torchvision's nms does.

    Boxes are visited from the highest score down (equal scores: the earlier first); each drops
    the later ones of its own group whose IoU with it is above the threshold.

    Args:
        boxes: in any order.
        scores: higher is better.
        valid: False for padding, which is neither kept nor suppresses anything.
        iou_threshold: overlap above which the lower-scored box goes.
        groups: boxes of different groups (classes, levels) do not suppress each other; all boxes
            are one group if None.

    Returns:
        Whether to keep each box, in the order of the input.
    """
    boxes, valid = jnp.asarray(boxes), jnp.asarray(valid)
    order = jnp.argsort(scores, descending=True, stable=True)
    sorted_boxes = boxes[order]
    rank = jnp.arange(order.shape[0])
    overlaps = (box_ops.iou(sorted_boxes, sorted_boxes) > iou_threshold) & (
        rank[:, None] < rank[None]
    )
    if groups is not None:
        overlaps &= groups[order][:, None] == groups[order][None]
    keep = jax.lax.platform_dependent(
        overlaps, valid[order], cpu=suppress_in_sequence, default=suppress_to_fixed_point
    )
    return jnp.zeros_like(valid).at[order].set(keep)


def suppress_in_sequence(
    overlaps: Bool[Array, "n n"], valid: Bool[Array, " n"]
) -> Bool[Array, " n"]:
    """Greedy suppression, one box after the other: least work, n small steps.

    `overlaps[i, j]` says that box i, if kept, drops box j; only entries i < j are true.
    """

    def visit(i, keep):
        return keep & ~(overlaps[i] & keep[i])

    return jax.lax.fori_loop(0, valid.shape[0], visit, valid)


def suppress_to_fixed_point(
    overlaps: Bool[Array, "n n"], valid: Bool[Array, " n"]
) -> Bool[Array, " n"]:
    """The same result in few large steps, for accelerators.

    A box is kept if no kept box before it overlaps it. Applying that rule to all boxes at once
    decides at least one more box in score order each time, in practice nearly all of them within
    ten rounds, and the only assignment it leaves unchanged is the greedy one.
    """

    droppers = overlaps.T  # of each box in its row, which are read as they lie in memory

    def has_changed(state):
        return state[1]

    def apply_rule(state):
        keep, _ = state
        for _ in range(RULES):
            last, keep = keep, valid & ~jnp.any(droppers & keep, axis=1)
        return keep, jnp.any(keep != last)

    return jax.lax.while_loop(has_changed, apply_rule, (valid, jnp.any(valid)))[0]


def soft_nms(
    boxes: Float[ArrayLike, "n 4"],
    scores: Float[ArrayLike, " n"],
    valid: Bool[ArrayLike, " n"],
    *,
    count: int,
    method: str,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    groups: Int[ArrayLike, " n"] | None = None,
) -> tuple[Int[Array, " count"], Float[Array, " count"], Bool[Array, " count"]]:
    """The best boxes by soft non-maximum suppression (Bodla et al., arXiv 1704.04503).

    The box of highest score (equal scores: the earlier) is picked, the scores of its own group fall
    by their IoU with it, and so on.

    Args:
        boxes, valid, groups: as `nms` takes them.
        scores: not negative.
        count: how many boxes are picked. Scores only fall, so these are the best of all.
        method: "linear", a factor of 1 - IoU where that is above `iou_threshold`, or "gaussian", a
            factor of exp(-IoU ** 2 / sigma) everywhere.
        min_score: boxes whose score has fallen to this are gone.

    Returns:
        Position, fallen score and validity of each picked box, best first.
    """

    boxes = jnp.where(valid[:, None], boxes, 0.0)  # no padding that is not finite in an overlap

    def pick(left, _):
        best = jnp.argmax(left)
        overlap = box_ops.iou(boxes[best][None], boxes)[0]
        if groups is not None:
            overlap = jnp.where(groups == jnp.asarray(groups)[best], overlap, 0.0)
        if method == "linear":
            factor = jnp.where(overlap > iou_threshold, 1 - overlap, 1.0)
        else:
            factor = jnp.exp(-jnp.square(overlap) / sigma)
        return (left * factor).at[best].set(0.0), (best, left[best])

    _, (index, picked) = jax.lax.scan(pick, jnp.where(valid, scores, 0.0), length=count)
    return index, picked, picked > min_score
