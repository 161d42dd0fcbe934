"""Which RoIs of an image the heads are trained on, and what of."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdet.models.rpn import Proposals
from jaxdet.models.settings import Settings
from jaxdet.ops import boxes as box_ops
from jaxdet.ops.matching import match, sample_indices


class Samples(NamedTuple):
    """RoIs of one image chosen for the head losses, foreground first."""

    rois: Float[Array, "*n rois 4"]
    labels: Int[Array, "*n rois"]
    sampled: Bool[Array, "*n rois"]
    foreground: Bool[Array, "*n rois"]
    matched: Int[Array, "*n rois"]


@jax.named_scope("matching")
def sample_rois(
    settings: Settings,
    proposals: Proposals,
    boxes: Float[Array, "objects 4"],
    labels: Int[Array, " objects"],
    valid: Bool[Array, " objects"],
    key: PRNGKeyArray,
) -> Samples:
    """Proposals and ground truth of one image matched and sampled for the head losses."""
    s = settings
    candidates = jnp.concatenate([proposals.boxes, boxes])
    usable = jnp.concatenate([proposals.valid, valid])
    overlaps = box_ops.iou(boxes, candidates)
    matched, outcome = match(overlaps, valid, (s.roi_threshold,), (0, 1))
    outcome = jnp.where(usable, outcome, -1)
    index, sampled, foreground = sample_indices(key, outcome, s.roi_batch, s.roi_positive)
    matched = matched[index]
    return Samples(
        rois=candidates[index],
        labels=jnp.where(foreground, labels[matched], s.num_classes),
        sampled=sampled,
        foreground=foreground,
        matched=matched,
    )


@jax.named_scope("matching")
def rematch(
    samples: Samples,
    rois: Float[Array, "rois 4"],
    boxes: Float[Array, "objects 4"],
    labels: Int[Array, " objects"],
    valid: Bool[Array, " objects"],
    *,
    threshold: float,
    num_classes: int,
) -> Samples:
    """The sampled RoIs of one image where a stage of a cascade has moved them to.

    All stay, in their order, but those that have become empty, and nothing is sampled again
    (Detectron2's CascadeROIHeads).

    Args:
        rois: clipped to the image.
        threshold: IoU with an object from which on an RoI is foreground.
    """
    sampled = samples.sampled & box_ops.is_nonempty(rois)
    rois = jnp.where(sampled[:, None], rois, 0.0)  # none that is not finite goes into a head
    matched, outcome = match(box_ops.iou(boxes, rois), valid, (threshold,), (0, 1))
    foreground = sampled & (outcome == 1)
    return Samples(
        rois=rois,
        labels=jnp.where(foreground, labels[matched], num_classes),
        sampled=sampled,
        foreground=foreground,
        matched=matched,
    )
