"""Masks between the frames of their boxes and of the image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8


def mask_targets(
    gt_masks: UInt8[Array, "objects crop crop"],
    gt_boxes: Float[Array, "objects 4"],
    roi_boxes: Float[Array, "rois 4"],
    matched: Int[Array, " rois"],
    out: int = 28,
) -> Bool[Array, "rois out out"]:
    """What the mask head shall predict: each RoI's view of the object it is matched with.

    The ground truth comes as crops to its boxes (Mask R-CNN's mini-masks). Bilinear between the
    centers of their pixels, zero outside the box, and true from .5 up.

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


def paste(
    mask: Float[np.ndarray, "side side"],
    box: Float[np.ndarray, " 4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> Bool[np.ndarray, "height width"]:
    """A predicted mask, resampled from its box into an image of height x width pixels.

    Bilinear at pixel centers, zero outside the box, true from `threshold` up: Detectron2's
    paste_masks_in_image. Runs on the host and touches only the box's part of the image.
    """

    def weights(start, end, size, length):
        first = max(int(np.floor(start)) - 1, 0)
        last = max(min(int(np.ceil(end)) + 1, length), first)
        pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
        positions = (pixels - start) / (end - start) * size - 0.5
        distance = np.abs(positions[:, None] - np.arange(size, dtype=np.float32))
        return slice(first, last), np.maximum(1 - distance, 0).astype(np.float32)

    image = np.zeros((height, width), bool)
    x1, y1, x2, y2 = np.asarray(box, np.float32)
    if not (x2 > x1 and y2 > y1):
        return image
    rows, vertical = weights(y1, y2, mask.shape[0], height)
    columns, horizontal = weights(x1, x2, mask.shape[1], width)
    image[rows, columns] = vertical @ np.asarray(mask, np.float32) @ horizontal.T >= threshold
    return image
