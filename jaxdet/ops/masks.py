"""Masks resampled from one box to another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, UInt8


def mask_targets(
    gt_masks: UInt8[ArrayLike, "objects crop crop"],
    gt_boxes: Float[ArrayLike, "objects 4"],
    roi_boxes: Float[ArrayLike, "rois 4"],
    matched: Int[ArrayLike, " rois"],
    out: int = 28,
) -> Bool[Array, "rois out out"]:
    """Targets of the mask head: each RoI's view of the object it is matched with.

    The ground truth comes as crops to its boxes (Mask R-CNN's mini-masks). Bilinear between the
    centers of their pixels, zero outside the box, and thresholded at .5.

    Args:
        gt_masks: 0/1, each object's mask inside its box.
        gt_boxes: the boxes the masks were cropped to, in pixels.
        roi_boxes: the boxes to see the masks in, in pixels.
        matched: each RoI's object.
        out: side of the targets.
    """

    def weights(roi_start, roi_end, gt_start, gt_end):
        centers = (jnp.arange(out) + 0.5) / out
        positions = roi_start[:, None] + centers * (roi_end - roi_start)[:, None]
        scale = crop / jnp.maximum(gt_end - gt_start, 1e-6)
        positions = (positions - gt_start[:, None]) * scale[:, None] - 0.5
        return jnp.maximum(1.0 - jnp.abs(positions[..., None] - jnp.arange(crop)), 0.0)

    crop = gt_masks.shape[-1]
    objects = gt_boxes[matched]
    vertical = weights(roi_boxes[:, 1], roi_boxes[:, 3], objects[:, 1], objects[:, 3])
    horizontal = weights(roi_boxes[:, 0], roi_boxes[:, 2], objects[:, 0], objects[:, 2])
    masks = jnp.einsum(
        "rph,rhw,rqw->rpq",
        vertical,
        gt_masks[matched].astype(jnp.float32),
        horizontal,
        precision=jax.lax.Precision.HIGHEST,
    )
    return masks >= 0.5
