"""What the mask head learns from masks given as run-length codes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pycocotools import mask as coco_mask

from jaxdet.data.dataset import Example
from jaxdet.data.transform import Transform
from jaxdet.data.transform_objects import transform_objects
from jaxdet.models.mask_head import MaskHead
from jaxdet.ops.losses import mask_loss
from jaxdet.ops.masks import mask_targets

HW, CANVAS, SCALE = (300, 400), 512, 1.28
ROIS, CHANNELS = 24, 8


def blots(random: np.random.Generator) -> list[np.ndarray]:
    """Objects of 12 to 280 pixels with smooth, frayed and holed outlines."""
    y, x = np.mgrid[: HW[0], : HW[1]]
    masks = []
    for side in np.geomspace(12, 280, ROIS):
        centre = random.uniform(side / 2, np.array(HW) - side / 2)
        angle = np.arctan2(y - centre[0], x - centre[1])
        waves = sum(
            random.normal(0, 0.25 / k) * np.cos(k * angle + random.uniform(0, 6))
            for k in range(1, 12)
        )
        distance = np.hypot(y - centre[0], x - centre[1])
        hole = np.hypot(y - centre[0], x - centre[1] - side / 8) < side / 10
        masks.append((distance < side / 2 * (0.8 + waves)) & ~hole)
    return masks


def align(image: np.ndarray, box: np.ndarray, out: int = 28) -> np.ndarray:
    """Detectron2's ROIAlign of an image [height, width], aligned, samples by the box's size."""

    def weights(start: float, end: float, length: int) -> np.ndarray:
        size = (end - start) / out
        count = max(1, int(np.ceil(size)))
        at = start + size * (np.arange(out)[:, None] + (np.arange(count) + 0.5) / count) - 0.5
        near = 1 - np.abs(np.clip(at, 0, length - 1)[..., None] - np.arange(length))
        return np.where(((at > -1) & (at < length))[..., None], np.maximum(near, 0), 0).mean(1)

    rows, columns = weights(box[1], box[3], image.shape[0]), weights(box[0], box[2], image.shape[1])
    return rows @ image @ columns.T


def resized(mask: np.ndarray) -> np.ndarray:
    """On the canvas, by the nearest pixel, as Detectron2 resizes masks."""
    rows, columns = (((np.arange(round(SCALE * n)) + 0.5) / SCALE).astype(int) for n in HW)
    canvas = np.zeros((CANVAS, CANVAS))
    canvas[: len(rows), : len(columns)] = mask[rows][:, columns]
    return canvas


def test_gradients_from_run_length_codes_are_those_from_exact_targets():
    """Detectron2's: the whole mask by ROIAlign to 28 x 28, at least one half; within 2 %."""
    random = np.random.default_rng(0)
    masks = blots(random)
    codes = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    example = Example(lambda: None, 1, np.zeros((ROIS, 4)), np.arange(ROIS), codes)
    resized_hw = tuple(round(SCALE * n) for n in HW)
    objects = transform_objects(
        example,
        Transform(image_hw=HW, resized_hw=resized_hw, offset=(0, 0), flip=False),
        CANVAS,
        112,
    )
    sides = np.tile(objects.boxes[:, 2:] - objects.boxes[:, :2], 2)
    rois = (objects.boxes + random.normal(0, 0.06, (ROIS, 4)) * sides).astype(np.float32)
    found = jax.jit(mask_targets)(*objects[2:], objects.boxes, rois, np.arange(ROIS))
    pixels = [resized(mask) for mask in masks]
    exact = np.stack([align(p, roi) for p, roi in zip(pixels, rois, strict=True)]) >= 0.5
    both = (found & exact).sum((1, 2)) / (found | exact).sum((1, 2))
    assert both.min() > 0.99
    assert both.mean() > 0.995

    # What a backbone might see: the object, its surroundings and noise, mixed.
    seen = np.stack([align(p, roi, 14) for p, roi in zip(pixels, rois, strict=True)])
    mixed = seen[..., None] * random.normal(size=CHANNELS) + random.normal(
        0, 0.5, (ROIS, 14, 14, CHANNELS)
    )
    features, labels = jnp.asarray(mixed, jnp.float32), jnp.zeros(ROIS, int)
    head = MaskHead(
        CHANNELS, 1, num_convs=2, conv_dim=16, norm="layer", dtype=jnp.float32, rngs=nnx.Rngs(0)
    )

    graph, params, rest = nnx.split(head, nnx.Param, ...)

    def loss(params, targets):
        logits = nnx.merge(graph, params, rest)(features, valid=jnp.ones(ROIS, bool), train=True)
        return mask_loss(logits, labels, targets, jnp.ones(ROIS, bool))

    gradient = jax.jit(jax.grad(loss))
    ours, theirs = (
        jax.tree.leaves_with_path(gradient(params, jnp.asarray(targets)))
        for targets in (found, exact)
    )
    for (path, one), (_, other) in zip(ours, theirs, strict=True):
        assert 0 < jnp.linalg.norm(one - other) < 0.02 * jnp.linalg.norm(other), path
