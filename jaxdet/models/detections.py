"""From the box head's boxes and scores to the detections of an image."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxdet.models.settings import Settings
from jaxdet.ops.nms import nms, soft_nms


class Detections(NamedTuple):
    """Detected objects of a batch, best first; boxes in pixels of the padded image, masks inside
    their box (None from a detector without a mask head)."""

    boxes: Float[Array, "n detections 4"]
    scores: Float[Array, "n detections"]
    labels: Int[Array, "n detections"]
    valid: Bool[Array, "n detections"]
    masks: Float[Array, "n detections size size"] | None


Selected = tuple[
    Float[Array, "detections 4"],
    Float[Array, " detections"],
    Int[Array, " detections"],
    Bool[Array, " detections"],
]
"""Box, score, label and validity of each detection of an image, best first."""


def select(
    settings: Settings,
    boxes: Float[Array, "rois boxes 4"],
    scores: Float[Array, "rois classes"],
    valid: Bool[Array, " rois"],
) -> Selected:
    """Final boxes of one image from every (RoI, class) pair above the score threshold.

    Args:
        boxes: of each RoI one a class, or one for all classes.
        valid: which RoIs are no padding.
    """
    s = settings
    eligible = valid[:, None] & (scores > s.score_threshold) & jnp.isfinite(boxes).all(-1)
    ranked = jnp.where(eligible, scores, -jnp.inf).reshape(-1)
    ranked, pair = jax.lax.top_k(ranked, min(s.max_candidates, ranked.size))
    labels = pair % scores.shape[1]
    boxes = boxes.reshape(-1, 4)[pair // (scores.shape[1] // boxes.shape[1])]
    return suppress(s, boxes, ranked, labels)


def suppress(
    settings: Settings,
    boxes: Float[Array, "candidates 4"],
    ranked: Float[Array, " candidates"],
    labels: Int[Array, " candidates"],
) -> Selected:
    """What NMS per class leaves of the candidates of one image, see `select`.

    Args:
        ranked: their scores, -inf for those that are none.
    """
    s = settings
    count = min(s.detections, ranked.size)
    if s.nms == "hard":
        keep = nms(boxes, ranked, ranked > -jnp.inf, s.nms_threshold, groups=labels)
        ranked, best = jax.lax.top_k(jnp.where(keep, ranked, -jnp.inf), count)
        is_found = ranked > -jnp.inf
    else:
        best, ranked, is_found = soft_nms(
            boxes,
            ranked,
            ranked > -jnp.inf,
            count=count,
            method=s.nms.removeprefix("soft_"),
            iou_threshold=s.nms_threshold,
            sigma=s.nms_sigma,
            min_score=s.nms_min_score,
            groups=labels,
        )
    return boxes[best], jnp.where(is_found, ranked, 0.0), labels[best], is_found
