"""Mask R-CNN on a plain ViT: the parts wired together, for training losses and for detections.

Everything has static shapes. Every padded axis comes with a validity flag, and nothing padded is
matched, sampled, normalised over, or scored.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxdet.models.rpn import Proposals, propose
from jaxdet.models.settings import Settings
from jaxdet.ops import boxes as box_ops
from jaxdet.ops import losses
from jaxdet.ops.anchors import pyramid_anchors
from jaxdet.ops.masks import mask_targets
from jaxdet.ops.matching import match, match_boxes, sample, sample_indices
from jaxdet.ops.nms import nms
from jaxdet.ops.roi_align import roi_align

Batch = dict[str, Array]


class Detections(NamedTuple):
    """Detected objects of a batch, best first; boxes in canvas pixels, masks inside their box."""

    boxes: Float[Array, "n detections 4"]
    scores: Float[Array, "n detections"]
    labels: Int[Array, "n detections"]
    valid: Bool[Array, "n detections"]
    masks: Float[Array, "n detections size size"]


class Samples(NamedTuple):
    """RoIs of one image chosen for the head losses, foreground first."""

    rois: Float[Array, "rois 4"]
    labels: Int[Array, " rois"]
    sampled: Bool[Array, " rois"]
    foreground: Bool[Array, " rois"]
    matched: Int[Array, " rois"]


class MaskRCNN(nnx.Module):
    """A detector assembled from the parts passed in.

    Args:
        backbone: images [n, s, s, 3] -> token maps.
        pyramid: token maps -> P2 ... P6.
        rpn, box_head, mask_head: see their classes.
        settings: everything that is not learned.
    """

    def __init__(
        self,
        *,
        backbone: nnx.Module,
        pyramid: nnx.Module,
        rpn: nnx.Module,
        box_head: nnx.Module,
        mask_head: nnx.Module,
        settings: Settings,
    ):
        self.backbone = backbone
        self.pyramid = pyramid
        self.rpn = rpn
        self.box_head = box_head
        self.mask_head = mask_head
        self.settings = settings

    def losses(self, batch: Batch, key: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Training losses of a batch, each the mean over images of Detectron2's loss of one image.

        Args:
            batch: images, boxes, labels, masks and valid as `jaxdet.data.loader` makes them.
            key: all randomness of the step (drop path, sampling).

        Returns:
            The five losses by name, and counts worth watching.
        """
        drop_key, rpn_key, roi_key = jax.random.split(key, 3)
        pyramid = self.features(batch["image"], batch["image_hw"], key=drop_key, train=True)
        objectness, deltas = self.rpn(pyramid)
        anchors = self.anchors(pyramid)

        n = batch["image"].shape[0]
        rpn_objectness, rpn_box = jax.vmap(self._rpn_losses, in_axes=(0, 0, None, 0, 0, 0))(
            jnp.concatenate(objectness, 1),
            jnp.concatenate(deltas, 1),
            np.concatenate(anchors),
            batch["boxes"],
            batch["valid"],
            jax.random.split(rpn_key, n),
        )

        proposals = self._propose(objectness, deltas, anchors, batch["image_hw"], train=True)
        samples = jax.vmap(self._sample)(
            proposals, batch["boxes"], batch["labels"], batch["valid"], jax.random.split(roi_key, n)
        )
        class_logits, box_deltas = self._classify(
            pyramid, samples.rois, samples.sampled, train=True
        )
        classification = jax.vmap(losses.classification_loss)(
            class_logits, samples.labels, samples.sampled
        )
        matched_boxes = jnp.take_along_axis(batch["boxes"], samples.matched[..., None], 1)
        box = jax.vmap(lambda *args: losses.box_loss(*args, self.settings.box_weights))(
            box_deltas, samples.labels, samples.rois, matched_boxes, samples.sampled
        )

        positives = jax.tree.map(lambda a: a[:, : self._max_foreground()], samples)
        mask_logits = self._segment(pyramid, positives.rois, positives.foreground, train=True)
        targets = jax.vmap(partial(mask_targets, out=mask_logits.shape[2]))(
            batch["masks"], batch["boxes"], positives.rois, positives.matched
        )
        mask = jax.vmap(losses.mask_loss)(
            mask_logits, positives.labels, targets, positives.foreground
        )

        per_image = {
            "loss_rpn_objectness": rpn_objectness,
            "loss_rpn_box": rpn_box,
            "loss_class": classification,
            "loss_box": box,
            "loss_mask": mask,
        }
        counts = {
            "foreground_rois": samples.foreground.sum(-1).mean(),
            "proposals": proposals.valid.sum(-1).mean(),
        }
        return {name: value.mean() for name, value in per_image.items()}, counts

    def detect(self, batch: Batch) -> Detections:
        """Detections of a batch of images: threshold, NMS per class, the best of all, masks."""
        pyramid = self.features(batch["image"], batch["image_hw"], key=None, train=False)
        objectness, deltas = self.rpn(pyramid)
        anchors = self.anchors(pyramid)
        proposals = self._propose(objectness, deltas, anchors, batch["image_hw"], train=False)
        class_logits, box_deltas = self._classify(
            pyramid, proposals.boxes, proposals.valid, train=False
        )
        boxes, scores, labels, valid = jax.vmap(self._select)(
            proposals, class_logits, box_deltas, batch["image_hw"]
        )
        logits = self._segment(pyramid, boxes, valid, train=False)
        of_label = jnp.take_along_axis(logits, labels[:, :, None, None, None], -1)[..., 0]
        return Detections(boxes, scores, labels, valid, jax.nn.sigmoid(of_label))

    def features(
        self, images: Array, image_hw: Array, *, key: Array | None, train: bool
    ) -> list[Float[Array, "n h w c"]]:
        """P2 ... P6 of uint8 images; pixels outside `image_hw` count as the mean colour."""
        return self.pyramid(self.backbone(self.normalise(images, image_hw), key=key), train=train)

    def normalise(self, images: Array, image_hw: Array) -> Float[Array, "n s s 3"]:
        """uint8 RGB to zero mean and unit variance, zero outside each image's height and width."""
        mean, std = (jnp.asarray(v) for v in (self.settings.pixel_mean, self.settings.pixel_std))
        rows = jnp.arange(images.shape[1]) < image_hw[:, :1]
        columns = jnp.arange(images.shape[2]) < image_hw[:, 1:]
        inside = (rows[:, :, None] & columns[:, None, :])[..., None]
        return jnp.where(inside, (images.astype(jnp.float32) - mean) / std, 0.0)

    def anchors(self, pyramid: list[Array]) -> list[np.ndarray]:
        """Anchors of every level, float32 [h * w * shapes, 4]."""
        grids = [x.shape[1:3] for x in pyramid]
        s = self.settings
        return pyramid_anchors(grids, s.strides, s.anchor_sizes, s.aspect_ratios)

    def _rpn_losses(self, objectness, deltas, anchors, boxes, valid, key):
        s = self.settings
        matched, labels = match_boxes(
            boxes, valid, anchors, s.rpn_thresholds, (0, -1, 1), allow_low_quality=True
        )
        labels = sample(key, labels, s.rpn_batch, s.rpn_positive)
        return losses.rpn_losses(objectness, deltas, anchors, labels, boxes[matched], s.rpn_batch)

    def _propose(self, objectness, deltas, anchors, image_hw, *, train: bool) -> Proposals:
        s = self.settings

        def one_image(objectness, deltas, image_hw):
            return propose(
                objectness,
                deltas,
                anchors,
                image_hw,
                pre_nms=s.train_pre_nms if train else s.test_pre_nms,
                post_nms=s.train_post_nms if train else s.test_post_nms,
                nms_threshold=s.rpn_nms_threshold,
            )

        return jax.vmap(one_image)(*jax.lax.stop_gradient((objectness, deltas)), image_hw)

    def _sample(self, proposals: Proposals, boxes, labels, valid, key) -> Samples:
        """Proposals and ground truth of one image matched and sampled for the head losses."""
        s = self.settings
        candidates = jnp.concatenate([proposals.boxes, boxes])
        usable = jnp.concatenate([proposals.valid, valid])
        matched, outcome = match(
            box_ops.iou(boxes, candidates),
            valid,
            (s.roi_threshold,),
            (0, 1),
            allow_low_quality=False,
        )
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

    def _max_foreground(self) -> int:
        return int(self.settings.roi_batch * self.settings.roi_positive)

    def _pool(self, pyramid: list[Array], rois: Float[Array, "n rois 4"], size: int) -> Array:
        """RoI features [n * rois, size, size, c] from P2 ... P5."""
        s = self.settings

        def one_image(maps, rois):
            return roi_align(
                maps,
                rois,
                strides=s.strides[:4],
                output_size=size,
                sampling_ratio=s.sampling_ratio,
                canonical_size=s.canonical_size,
            )

        features = jax.vmap(one_image)(pyramid[:4], rois)
        return features.reshape(-1, *features.shape[2:])

    def _classify(self, pyramid, rois, valid, *, train: bool) -> tuple[Array, Array]:
        n, count = valid.shape
        features = self._pool(pyramid, rois, self.settings.box_roi_size)
        logits, deltas = self.box_head(features, valid=valid.reshape(-1), train=train)
        return logits.reshape(n, count, -1), deltas.reshape(n, count, -1)

    def _segment(self, pyramid, rois, valid, *, train: bool) -> Array:
        n, count = valid.shape
        features = self._pool(pyramid, rois, self.settings.mask_roi_size)
        logits = self.mask_head(features, valid=valid.reshape(-1), train=train)
        return logits.reshape(n, count, *logits.shape[1:])

    def _select(self, proposals: Proposals, class_logits, box_deltas, image_hw):
        """Final boxes of one image from every (proposal, class) pair above the score threshold."""
        s = self.settings
        scores = jax.nn.softmax(class_logits)[:, :-1]
        boxes = box_ops.decode(
            box_deltas.reshape(-1, s.num_classes, 4), proposals.boxes[:, None], s.box_weights
        )
        boxes = box_ops.clip(boxes, image_hw)
        eligible = proposals.valid[:, None] & (scores > s.score_threshold)
        eligible &= jnp.isfinite(boxes).all(-1)

        ranked = jnp.where(eligible, scores, -jnp.inf).reshape(-1)
        ranked, pair = jax.lax.top_k(ranked, min(s.max_candidates, ranked.size))
        boxes = boxes.reshape(-1, 4)[pair]
        labels = pair % s.num_classes
        keep = nms(boxes, ranked, ranked > -jnp.inf, s.nms_threshold, groups=labels)
        ranked, best = jax.lax.top_k(
            jnp.where(keep, ranked, -jnp.inf), min(s.detections, ranked.size)
        )
        valid = ranked > -jnp.inf
        return boxes[best], jnp.where(valid, ranked, 0.0), labels[best], valid
