"""Test-time augmentation: an image at several sizes, each also mirrored, and the results merged.

As Detectron2's GeneralizedRCNNWithTTA: the boxes of all views of an image go through one more NMS,
the mask of each that is left is the mean of its masks in all views.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Num, UInt8

from jaxdet import parallel
from jaxdet.models.batching import per_image
from jaxdet.models.build import StatelessModel, Tree
from jaxdet.models.detections import Detections, suppress
from jaxdet.models.roi_features import Features
from jaxdet.models.settings import Settings

Boxes = Float[Array, "n boxes 4"]
Sides = Int[Array, "n 2"]


class View(NamedTuple):
    """A batch of images as detection sees it: padded, and the sides that each has."""

    image: UInt8[Array, "n size size 3"]
    image_hw: Sides


class Augmented:
    """A detector with test-time augmentation; its programs are compiled once for each size.

    Args:
        flip: whether each view is seen mirrored too.
    """

    def __init__(self, stateless: StatelessModel, mesh: Mesh, *, flip: bool):
        split = parallel.batch_sharding(mesh)

        def detect(params: Tree, stats: Tree, view: View, original_hw: Sides, is_flipped: Array):
            image = jnp.where(is_flipped, mirrored(*view), view.image)
            inputs = {"image": image, "image_hw": view.image_hw}
            found, features = stateless.bind(params, stats).detect_boxes(inputs)
            boxes = to_original(found.boxes, view.image_hw, original_hw, is_flipped)
            return found._replace(boxes=boxes), features

        def segment(
            params: Tree,
            stats: Tree,
            features: Features,
            found: Detections,
            image_hw: Sides,
            original_hw: Sides,
            is_flipped: Array,
        ) -> Array:
            boxes = to_view(found.boxes, image_hw, original_hw, is_flipped)
            model = stateless.bind(params, stats)
            masks = model.masks_of(features, found._replace(boxes=boxes))
            return jnp.where(is_flipped, masks[..., ::-1], masks)

        def merge(params: Tree, stats: Tree, found: list[Detections], original_hw: Sides):
            settings = stateless.bind(params, stats).settings
            return merged(settings, found, original_hw, mesh)

        self._detect = jax.jit(detect, out_shardings=split)
        self._segment = jax.jit(segment, out_shardings=split)
        self._merge = jax.jit(merge, out_shardings=split)
        self._flips = (False, True) if flip else (False,)
        self._has_masks = "mask_head" in stateless.abstract[0]

    def __call__(
        self, params: Tree, stats: Tree, views: Sequence[View], original_hw: Sides
    ) -> Detections:
        """Detections in pixels of the original images, all views of which are given."""
        seen, found = [], []
        for view in views:
            for is_flipped in self._flips:
                boxes, features = self._detect(params, stats, view, original_hw, is_flipped)
                found.append(boxes)
                seen.append((features, view.image_hw, is_flipped))
        final = self._merge(params, stats, found, original_hw)
        if not self._has_masks:
            return final
        masks = [
            self._segment(params, stats, features, final, image_hw, original_hw, is_flipped)
            for features, image_hw, is_flipped in seen
        ]
        return final._replace(masks=sum(masks[1:], masks[0]) / len(masks))


def mirrored(
    image: UInt8[Array, "n size size 3"], image_hw: Sides
) -> UInt8[Array, "n size size 3"]:
    """Images mirrored left to right, still at the left of their padding."""

    def mirror(image: Array, width: Array) -> Array:
        return jnp.roll(image[:, ::-1], width - image.shape[1], axis=1)

    return jax.vmap(mirror)(image, image_hw[:, 1])


def to_original(
    boxes: Boxes, image_hw: Sides, original_hw: Sides, is_flipped: Bool[Array, ""] | bool
) -> Boxes:
    """Boxes of a view, in pixels of the original images."""
    unflipped = jnp.where(is_flipped, _flipped(boxes, image_hw), boxes)
    return unflipped * _scale(original_hw, image_hw)


def to_view(
    boxes: Boxes, image_hw: Sides, original_hw: Sides, is_flipped: Bool[Array, ""] | bool
) -> Boxes:
    """Boxes of the original images, in pixels of a view."""
    scaled = boxes * _scale(image_hw, original_hw)
    return jnp.where(is_flipped, _flipped(scaled, image_hw), scaled)


def merged(
    settings: Settings, found: Sequence[Detections], original_hw: Sides, mesh: Mesh | None = None
) -> Detections:
    """The detections of all views after one more NMS, clipped to the original images; no masks."""
    boxes, scores, labels, valid = (
        jnp.concatenate([getattr(each, name) for each in found], axis=1)
        for name in ("boxes", "scores", "labels", "valid")
    )
    limits = jnp.tile(original_hw[:, ::-1], 2).astype(boxes.dtype)
    boxes = jnp.clip(boxes, 0, limits[:, None])
    ranked = jnp.where(valid, scores, -jnp.inf)
    of_image = partial(suppress, settings)
    return Detections(*per_image(of_image, mesh)(boxes, ranked, labels), None)


def _scale(to_hw: Num[Array, "n 2"], from_hw: Num[Array, "n 2"]) -> Float[Array, "n 1 4"]:
    return jnp.tile((to_hw / from_hw)[:, None, ::-1], 2)


def _flipped(boxes: Boxes, image_hw: Sides) -> Boxes:
    width = image_hw[:, None, 1]
    return jnp.stack(
        [width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], axis=-1
    )
