"""Mask R-CNN on a plain ViT: training losses and detections.

Everything has static shapes. Every padded axis comes with a validity flag, and nothing padded is
matched, sampled, normalised over, or scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from jaxdet.models.batching import in_chunks, in_microbatches, per_device, per_image
from jaxdet.models.roi_features import Features, PyramidRoIs
from jaxdet.models.rpn import Proposals, propose
from jaxdet.models.settings import Settings
from jaxdet.ops import boxes as box_ops
from jaxdet.ops import losses
from jaxdet.ops.anchors import pyramid_anchors
from jaxdet.ops.masks import mask_targets
from jaxdet.ops.matching import match, match_boxes, sample, sample_indices
from jaxdet.ops.nms import nms, soft_nms

Batch = dict[str, Array]


class Detections(NamedTuple):
    """Detected objects of a batch, best first; boxes in pixels of the padded image, masks inside
    their box (None from a detector without a mask head)."""

    boxes: Float[Array, "n detections 4"]
    scores: Float[Array, "n detections"]
    labels: Int[Array, "n detections"]
    valid: Bool[Array, "n detections"]
    masks: Float[Array, "n detections size size"] | None


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
        backbone: images [n, h, w, 3] -> token maps, the transformer's last one at the end.
        pyramid: token maps -> P2 ... P6, or a single map.
        box_features: what the box head sees of a RoI, see `jaxdet.models.roi_features`.
        rpn, box_head, mask_head: see their classes; without a mask head this is Faster R-CNN.
        roi_chunks: number of chunks in which an image's RoIs go through a box head without batch
            norm, see `in_chunks`.
        settings: everything that is not learned.
        mesh: the devices that batches are sharded over, if they are.
    """

    def __init__(
        self,
        *,
        backbone: nnx.Module,
        pyramid: nnx.Module,
        rpn: nnx.Module,
        box_features: nnx.Module,
        box_head: nnx.Module,
        mask_head: nnx.Module | None,
        settings: Settings,
        roi_chunks: int = 1,
        mesh: Mesh | None = None,
    ):
        self.backbone = backbone
        self.pyramid = pyramid
        self.rpn = rpn
        self.box_features = box_features
        self.box_head = box_head
        self.mask_head = mask_head
        self.settings = settings
        self.roi_chunks = roi_chunks
        self.mesh = mesh

    def losses(
        self, batch: Batch, keys: Key[Array, " n"], microbatches: int = 1
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Training losses of a batch, each the mean over images of Detectron2's loss of one image.

        Args:
            batch: images, boxes, labels, masks and valid as `jaxdet.data.loader` makes them.
            keys: one an image: all its randomness (drop path, sampling).
            microbatches: number of microbatches by which all that treats images independently
                is computed in turn, to need less memory. Batch statistics, and gradients through
                them, are still those of the whole batch.

        Returns:
            The losses by name, and counts to monitor.
        """
        drop_keys, rpn_keys, roi_keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys).T
        features = self._feature_stage(batch, drop_keys, microbatches)
        rpn_losses, samples, counts = self._rpn_stage(
            features.pyramid, batch, rpn_keys, roi_keys, microbatches
        )
        box_losses = self._box_stage(features, samples, batch, microbatches)
        mask_losses = self._mask_stage(features, samples, batch, microbatches)
        mean = partial(jax.tree.map, jnp.mean)
        return mean({**rpn_losses, **box_losses, **mask_losses}), mean(counts)

    def detect(self, batch: Batch) -> Detections:
        """Detections of a batch of images: threshold, NMS per class, the best of all, masks."""
        graph, state = nnx.split(self)

        # The state is passed, not closed over: what is indexed must be of the devices' own program.
        def detect(batch: Batch, state: nnx.State) -> Detections:
            return nnx.merge(graph, state)._detect(batch)

        return per_device(detect, self.mesh, shared=1)(batch, state)

    def _detect(self, batch: Batch) -> Detections:
        features = self.features(batch["image"], batch["image_hw"])
        objectness, deltas = self.rpn(features.pyramid)
        anchors = self.anchors(features.pyramid)
        proposals = self._propose(objectness, deltas, anchors, batch["image_hw"], train=False)
        class_logits, box_deltas = self._classify(
            features, proposals.boxes, proposals.valid, train=False
        )
        boxes, scores, labels, valid = self._per_image(self._select)(
            proposals, class_logits, box_deltas, batch["image_hw"]
        )
        if self.mask_head is None:
            return Detections(boxes, scores, labels, valid, None)
        logits = self._segment(features, boxes, valid, train=False)
        of_label = jnp.take_along_axis(logits, labels[:, :, None, None, None], -1)[..., 0]
        return Detections(boxes, scores, labels, valid, jax.nn.sigmoid(of_label))

    def features(
        self, images: UInt8[Array, "n image_h image_w 3"], image_hw: Int[Array, "n 2"]
    ) -> Features:
        """Features of uint8 images; pixels outside `image_hw` count as the mean colour."""
        projected, encoded = self._project(images, image_hw, None)
        return Features(self.pyramid.merge(projected, train=False), encoded)

    def normalise(
        self, images: UInt8[Array, "n image_h image_w 3"], image_hw: Int[Array, "n 2"]
    ) -> Float[Array, "n image_h image_w 3"]:
        """uint8 RGB to zero mean and unit variance, zero outside each image's height and width."""
        mean, std = (jnp.asarray(v) for v in (self.settings.pixel_mean, self.settings.pixel_std))
        rows = jnp.arange(images.shape[1]) < image_hw[:, :1]
        columns = jnp.arange(images.shape[2]) < image_hw[:, 1:]
        inside = (rows[:, :, None] & columns[:, None, :])[..., None]
        return jnp.where(inside, (images.astype(jnp.float32) - mean) / std, 0.0)

    def anchors(
        self, pyramid: Sequence[Float[Array, "n _ _ channels"]]
    ) -> list[Float[np.ndarray, "anchors 4"]]:
        """Anchors of every level, in the order of (row, column, size, ratio)."""
        grids = [x.shape[1:3] for x in pyramid]
        s = self.settings
        return pyramid_anchors(grids, s.strides, s.level_anchor_sizes, s.aspect_ratios)

    def _per_image(self, function):
        return per_image(function, self.mesh)

    def _project(self, images, image_hw, keys) -> tuple[list[Array], Array]:
        """All that comes before the first batch statistic, and the transformer's last map."""
        with jax.named_scope("backbone"):
            maps = self.backbone(self.normalise(images, image_hw), keys)
        with jax.named_scope("pyramid"):
            return self.pyramid.project(maps), maps[-1]

    def _feature_stage(self, batch: Batch, keys: Array, microbatches: int) -> Features:
        projected, encoded = in_microbatches(
            self._project, microbatches, batch["image"], batch["image_hw"], keys
        )
        with jax.named_scope("pyramid"):
            pyramid = self.pyramid.merge(projected, train=True, microbatches=microbatches)
        return Features(pyramid, encoded)

    def _rpn_stage(
        self, pyramid, batch: Batch, rpn_keys: Array, roi_keys: Array, microbatches: int
    ) -> tuple[dict[str, Array], Samples, dict[str, Array]]:
        """The RPN's losses, the RoIs sampled from its proposals, and counts, per image."""

        def stage(pyramid, image_hw, boxes, labels, valid, rpn_keys, roi_keys):
            with jax.named_scope("rpn"):
                objectness, deltas = self.rpn(pyramid)
            anchors = self.anchors(pyramid)
            rpn_losses = self._per_image(partial(self._rpn_losses, np.concatenate(anchors)))(
                jnp.concatenate(objectness, 1), jnp.concatenate(deltas, 1), boxes, valid, rpn_keys
            )
            proposals = self._propose(objectness, deltas, anchors, image_hw, train=True)
            samples = self._per_image(self._sample)(proposals, boxes, labels, valid, roi_keys)
            counts = {
                "foreground_rois": samples.foreground.sum(-1),
                "proposals": proposals.valid.sum(-1),
            }
            return rpn_losses, samples, counts

        inputs = (batch[name] for name in ("image_hw", "boxes", "labels", "valid"))
        return in_microbatches(stage, microbatches, pyramid, *inputs, rpn_keys, roi_keys)

    def _box_stage(
        self, features: Features, samples: Samples, batch: Batch, microbatches: int
    ) -> dict[str, Array]:
        """The box head's losses on the sampled RoIs, per image."""
        class_logits, box_deltas = self._classify(
            features, samples.rois, samples.sampled, train=True, microbatches=microbatches
        )
        return self._per_image(self._box_losses)(class_logits, box_deltas, samples, batch["boxes"])

    def _mask_stage(
        self, features: Features, samples: Samples, batch: Batch, microbatches: int
    ) -> dict[str, Array]:
        """The mask head's loss on the foreground RoIs, per image; none without a mask head."""
        if self.mask_head is None:
            return {}
        max_foreground = int(self.settings.roi_batch * self.settings.roi_positive)
        positives = jax.tree.map(lambda a: a[:, :max_foreground], samples)
        mask_logits = self._segment(
            features, positives.rois, positives.foreground, train=True, microbatches=microbatches
        )
        loss = self._per_image(self._mask_loss)(
            mask_logits, positives, batch["masks"], batch["outlined"], batch["boxes"]
        )
        return {"loss_mask": loss}

    def _rpn_losses(self, anchors, objectness, deltas, boxes, valid, key) -> dict[str, Array]:
        s = self.settings
        with jax.named_scope("matching"):
            matched, labels = match_boxes(
                boxes, valid, anchors, s.rpn_thresholds, (0, -1, 1), allow_low_quality=True
            )
            labels = sample(key, labels, s.rpn_batch, s.rpn_positive)
        with jax.named_scope("rpn"):
            objectness_loss, box_loss = losses.rpn_losses(
                objectness, deltas, anchors, labels, boxes[matched], s.rpn_batch
            )
        return {"loss_rpn_objectness": objectness_loss, "loss_rpn_box": box_loss}

    @jax.named_scope("heads")
    def _box_losses(self, class_logits, box_deltas, samples: Samples, boxes) -> dict[str, Array]:
        labels, sampled, matched = samples.labels, samples.sampled, boxes[samples.matched]
        s = self.settings
        box_loss = losses.giou_box_loss if s.box_loss == "giou" else losses.box_loss
        return {
            "loss_class": losses.classification_loss(class_logits, labels, sampled),
            "loss_box": s.box_loss_weight
            * box_loss(box_deltas, labels, samples.rois, matched, sampled, s.box_weights),
        }

    @jax.named_scope("heads")
    def _mask_loss(self, mask_logits, positives: Samples, masks, outlined, boxes) -> Array:
        targets = mask_targets(
            masks, outlined, boxes, positives.rois, positives.matched, out=mask_logits.shape[1]
        )
        return losses.mask_loss(mask_logits, positives.labels, targets, positives.foreground)

    @jax.named_scope("proposals")
    def _propose(self, objectness, deltas, anchors, image_hw, *, train: bool) -> Proposals:
        s = self.settings
        one_image = partial(
            propose,
            anchors=anchors,
            pre_nms=s.train_pre_nms if train else s.test_pre_nms,
            post_nms=s.train_post_nms if train else s.test_post_nms,
            nms_threshold=s.rpn_nms_threshold,
        )
        return self._per_image(one_image)(*jax.lax.stop_gradient((objectness, deltas)), image_hw)

    @jax.named_scope("matching")
    def _sample(self, proposals: Proposals, boxes, labels, valid, key) -> Samples:
        """Proposals and ground truth of one image matched and sampled for the head losses."""
        s = self.settings
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

    @jax.named_scope("roi_align")
    def _pool(self, kind, size: int, features: Features, rois: Float[Array, "n rois 4"]) -> Any:
        """RoIs pooled by a kind of `jaxdet.models.roi_features`, image by image."""
        return self._per_image(partial(kind.pool, size=size))(features, rois)

    def _classify(
        self, features: Features, rois, valid, *, train: bool, microbatches: int = 1
    ) -> tuple[Float[Array, "n rois classes_and_background"], Float[Array, "n rois class_deltas"]]:
        kind, size = self.box_features, self.settings.box_roi_size

        def describe(features: Features, rois: Array) -> Array:
            return kind.combine(self._pool(kind, size, features, rois))

        return self._in_head(
            self.box_head, describe, features, rois, valid, train, microbatches, self.roi_chunks
        )

    def _segment(
        self, features: Features, rois, valid, *, train: bool, microbatches: int = 1
    ) -> Float[Array, "n rois size size classes"]:
        pool = partial(self._pool, PyramidRoIs(self.settings), self.settings.mask_roi_size)
        return self._in_head(self.mask_head, pool, features, rois, valid, train, microbatches, 1)

    def _in_head(
        self,
        head,
        describe,
        features: Features,
        rois,
        valid,
        train: bool,
        microbatches: int,
        chunks: int,
    ) -> Any:
        """A head's outputs for RoIs whose features `describe` computes, [n, rois, ...].

        A head with batch norm takes all RoIs of the batch at once; for another one, which treats
        RoIs independently, they stay in their microbatch and in their chunk throughout.
        """

        def run(described: Array, valid: Array) -> Any:
            with jax.named_scope("heads"):
                outputs = head(_join_axes(described), valid=_join_axes(valid), train=train)
            return jax.tree.map(lambda y: y.reshape(*valid.shape, *y.shape[1:]), outputs)

        if nnx.state(head, nnx.BatchStat):
            return run(in_microbatches(describe, microbatches, features, rois), valid)

        def run_images(features: Features, rois: Array, valid: Array) -> Any:
            def run_chunk(rois, valid):
                return run(describe(features, rois), valid)

            return in_chunks(run_chunk, chunks, rois, valid)

        return in_microbatches(run_images, microbatches, features, rois, valid)

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
        count = min(s.detections, ranked.size)
        if s.nms == "hard":
            keep = nms(boxes, ranked, ranked > -jnp.inf, s.nms_threshold, groups=labels)
            ranked, best = jax.lax.top_k(jnp.where(keep, ranked, -jnp.inf), count)
            valid = ranked > -jnp.inf
        else:
            best, ranked, valid = soft_nms(
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
        return boxes[best], jnp.where(valid, ranked, 0.0), labels[best], valid


def _join_axes(x: Array) -> Array:
    """[n, rois, ...] as [n * rois, ...]."""
    return x.reshape(-1, *x.shape[2:])
