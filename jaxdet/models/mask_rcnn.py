"""Mask R-CNN on a plain ViT: training losses and detections.

Everything has static shapes. Every padded axis comes with a validity flag, and nothing padded is
matched, sampled, normalised over, or scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8

from jaxdet.models.batching import in_chunks, in_microbatches, per_device, per_image
from jaxdet.models.box_stages import (
    BoxStage,
    box_stages,
    class_scores,
    counted_classes,
    stage_boxes,
    stage_losses,
)
from jaxdet.models.detections import Detections, select
from jaxdet.models.layers import scale_gradient
from jaxdet.models.roi_features import Features, PyramidRoIs
from jaxdet.models.roi_samples import Samples, rematch, sample_rois
from jaxdet.models.rpn import Proposals, propose
from jaxdet.models.settings import Settings
from jaxdet.ops import losses
from jaxdet.ops.anchors import pyramid_anchors
from jaxdet.ops.masks import mask_targets
from jaxdet.ops.matching import match_boxes, sample

Batch = dict[str, Array]


class MaskRCNN(nnx.Module):
    """A detector assembled from the parts passed in.

    Args:
        backbone: images [n, h, w, 3] -> token maps, the transformer's last one at the end.
        pyramid: token maps -> P2 ... P6, or a single map.
        box_features: what the box head sees of a RoI, see `jaxdet.models.roi_features`.
        rpn, box_head, mask_head: see their classes; without a mask head this is Faster R-CNN, and
            with an `nnx.List` of box heads a cascade of as many stages.
        roi_chunks: number of chunks in which an image's RoIs go through a box head without batch
            norm, see `in_chunks`.
        settings: everything that is not learned.
        image_counts: how many training images show each class, int [classes], for the federated
            loss; asked for where losses are computed. None for equally many.
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
        image_counts: Callable[[], np.ndarray] | None = None,
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
        self.image_counts = image_counts
        self.mesh = mesh

    def losses(
        self,
        batch: Batch,
        keys: Key[Array, " n"],
        microbatches: int = 1,
        *,
        drop_path: bool = True,
        weights: Float[Array, " n"] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Training losses of a batch, each the mean over images of Detectron2's loss of one image.

        Args:
            batch: images, boxes, labels, masks and valid as `jaxdet.data.loader` makes them.
            keys: one an image: all its randomness (drop path, sampling).
            microbatches: number of microbatches by which all that treats images independently
                is computed in turn, to need less memory. Batch statistics, and gradients through
                them, are still those of the whole batch.
            drop_path: whether blocks are dropped, as in training.
            weights: of each image's losses in their mean, which is still divided by n; None for 1.

        Returns:
            The losses by name, and counts to monitor.
        """
        drop_keys, rpn_keys, roi_keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys).T
        features = self._feature_stage(batch, drop_keys if drop_path else None, microbatches)
        rpn_losses, samples, counts = self._rpn_stage(
            features.pyramid, batch, rpn_keys, roi_keys, microbatches
        )
        box_losses = self._box_stage(features, samples, batch, roi_keys, microbatches)
        mask_losses = self._mask_stage(features, samples, batch, microbatches)
        losses = {**rpn_losses, **box_losses, **mask_losses}
        if weights is not None:
            losses = {name: weights * loss for name, loss in losses.items()}
        mean = partial(jax.tree.map, jnp.mean)
        return mean(losses), mean(counts)

    def detect(self, batch: Batch) -> Detections:
        """Detections of a batch of images: threshold, NMS per class, the best of all, masks."""
        return self._on_devices(MaskRCNN._detect, batch)

    def detect_boxes(self, batch: Batch) -> tuple[Detections, Features]:
        """Detections without masks, and the features that `masks_of` takes."""
        return self._on_devices(MaskRCNN._detect_boxes, batch)

    def masks_of(
        self, features: Features, found: Detections
    ) -> Float[Array, "n detections size size"]:
        """The masks of boxes that were found, as objects of their labels."""
        return self._on_devices(MaskRCNN._masks_of, features, found)

    def _on_devices(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """A method that treats images independently, by each device on its own images."""
        graph, state = nnx.split(self)

        # The state is passed, not closed over: what is indexed must be of the devices' own program.
        def run(arguments: tuple[Any, ...], state: nnx.State) -> Any:
            return method(nnx.merge(graph, state), *arguments)

        return per_device(run, self.mesh, shared=1)(arguments, state)

    def _detect(self, batch: Batch) -> Detections:
        found, features = self._detect_boxes(batch)
        if self.mask_head is None:
            return found
        return found._replace(masks=self._masks_of(features, found))

    def _masks_of(self, features: Features, found: Detections) -> Array:
        logits = self._segment(features, found.boxes, found.valid, found.labels, train=False)
        return jax.nn.sigmoid(logits)

    def _detect_boxes(self, batch: Batch) -> tuple[Detections, Features]:
        features = self.features(batch["image"], batch["image_hw"])
        objectness, deltas = self.rpn(features.pyramid)
        anchors = self.anchors(features.pyramid)
        proposals = self._propose(objectness, deltas, anchors, batch["image_hw"], train=False)
        boxes, scores = self._refine(features, proposals, batch["image_hw"])
        found = self._per_image(partial(select, self.settings))(boxes, scores, proposals.valid)
        return Detections(*found, None), features

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

    @property
    def box_stages(self) -> list[BoxStage]:
        """The stages of the box head, one unless it is a cascade."""
        return box_stages(self.settings, self.box_head)

    def _per_image(self, function):
        return per_image(function, self.mesh)

    def _project(self, images, image_hw, keys) -> tuple[list[Array], Array]:
        """All that comes before the first batch statistic, and the transformer's last map."""
        with jax.named_scope("backbone"):
            maps = self.backbone(self.normalise(images, image_hw), keys)
        with jax.named_scope("pyramid"):
            return self.pyramid.project(maps), maps[-1]

    def _feature_stage(self, batch: Batch, keys: Array | None, microbatches: int) -> Features:
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
            samples = self._per_image(partial(sample_rois, self.settings))(
                proposals, boxes, labels, valid, roi_keys
            )
            counts = {
                "foreground_rois": samples.foreground.sum(-1),
                "proposals": proposals.valid.sum(-1),
            }
            return rpn_losses, samples, counts

        inputs = (batch[name] for name in ("image_hw", "boxes", "labels", "valid"))
        return in_microbatches(stage, microbatches, pyramid, *inputs, rpn_keys, roi_keys)

    def _box_stage(
        self, features: Features, samples: Samples, batch: Batch, keys: Array, microbatches: int
    ) -> dict[str, Array]:
        """The losses of each stage of the box head on the sampled RoIs, per image."""
        found: dict[str, Array] = {}
        stages = self.box_stages
        for i, (stage, following) in enumerate(zip(stages, [*stages[1:], None], strict=True)):
            class_logits, box_deltas = self._classify(
                stage,
                features,
                samples.rois,
                samples.sampled,
                train=True,
                microbatches=microbatches,
            )
            found |= self._per_image(partial(stage_losses, self.settings, stage))(
                class_logits, box_deltas, samples, batch["boxes"], *self._counted(samples, keys, i)
            )
            if following is not None:
                samples = self._move(stage, following, samples, box_deltas, batch)
        return found

    def _counted(self, samples: Samples, keys: Array, stage: int) -> tuple[Array, ...]:
        """The classes that enter a stage's loss, per image; nothing where all do."""
        s = self.settings
        if not s.federated_classes:
            return ()
        counts = np.ones(s.num_classes) if self.image_counts is None else self.image_counts()
        weights = np.asarray(counts, np.float32) ** np.float32(s.federated_power)
        draw = partial(counted_classes, s, weights, stage=stage)
        return (self._per_image(draw)(samples, keys),)

    def _move(
        self, stage: BoxStage, following: BoxStage, samples: Samples, box_deltas, batch: Batch
    ) -> Samples:
        """The samples as the following stage of a cascade gets them; they carry no gradient."""
        rois = self._per_image(partial(stage_boxes, box_weights=stage.box_weights))(
            jax.lax.stop_gradient(box_deltas), samples.rois, batch["image_hw"]
        )
        options = {"threshold": following.threshold, "num_classes": self.settings.num_classes}
        objects = (batch[name] for name in ("boxes", "labels", "valid"))
        return self._per_image(partial(rematch, **options))(samples, rois[:, :, 0], *objects)

    def _mask_stage(
        self, features: Features, samples: Samples, batch: Batch, microbatches: int
    ) -> dict[str, Array]:
        """The mask head's loss on the foreground RoIs, per image; none without a mask head."""
        if self.mask_head is None:
            return {}
        max_foreground = int(self.settings.roi_batch * self.settings.roi_positive)
        positives = jax.tree.map(lambda a: a[:, :max_foreground], samples)
        mask_logits = self._segment(
            features,
            positives.rois,
            positives.foreground,
            positives.labels,
            train=True,
            microbatches=microbatches,
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
    def _mask_loss(self, mask_logits, positives: Samples, masks, outlined, boxes) -> Array:
        targets = mask_targets(
            masks, outlined, boxes, positives.rois, positives.matched, out=mask_logits.shape[1]
        )
        of_label = jnp.zeros_like(positives.labels)  # there are logits of the label alone
        return losses.mask_loss(mask_logits[..., None], of_label, targets, positives.foreground)

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

    @jax.named_scope("roi_align")
    def _pool(self, kind, size: int, features: Features, rois: Float[Array, "n rois 4"]) -> Any:
        """RoIs pooled by a kind of `jaxdet.models.roi_features`, image by image."""
        return self._per_image(partial(kind.pool, size=size))(features, rois)

    def _refine(
        self, features: Features, proposals: Proposals, image_hw
    ) -> tuple[Float[Array, "n rois boxes 4"], Float[Array, "n rois classes"]]:
        """The last stage's boxes, clipped, and the mean of all stages' scores."""
        rois, scores = proposals.boxes, []
        for stage in self.box_stages:
            class_logits, box_deltas = self._classify(
                stage, features, rois, proposals.valid, train=False
            )
            boxes = self._per_image(partial(stage_boxes, box_weights=stage.box_weights))(
                box_deltas, rois, image_hw
            )
            scores.append(class_scores(self.settings, class_logits))
            rois = boxes[:, :, 0]  # where there is another stage, there is one box for all classes
        return boxes, sum(scores[1:], scores[0]) / len(scores)

    def _classify(
        self,
        stage: BoxStage,
        features: Features,
        rois,
        valid,
        *,
        train: bool,
        microbatches: int = 1,
    ) -> tuple[Float[Array, "n rois classes_and_background"], Float[Array, "n rois class_deltas"]]:
        kind, size = self.box_features, self.settings.box_roi_size

        def describe(features: Features, rois: Array) -> Array:
            described = kind.combine(self._pool(kind, size, features, rois))
            return scale_gradient(described, stage.gradient)

        return self._in_head(
            stage.head, describe, features, rois, valid, train, microbatches, self.roi_chunks
        )

    def _segment(
        self, features: Features, rois, valid, labels, *, train: bool, microbatches: int = 1
    ) -> Float[Array, "n rois size size"]:
        """Logits of each RoI's mask, as an object of its label."""
        pool = partial(self._pool, PyramidRoIs(self.settings), self.settings.mask_roi_size)
        return self._in_head(
            self.mask_head, pool, features, rois, valid, train, microbatches, 1, labels=labels
        )[..., 0]

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
        **more: Array,
    ) -> Any:
        """A head's outputs for RoIs whose features `describe` computes, [n, rois, ...].

        A head with batch norm takes all RoIs of the batch at once; for another one, which treats
        RoIs independently, they stay in their microbatch and in their chunk throughout.

        Args:
            more: what else the head is given of each RoI, [n, rois].
        """

        def run(described: Array, valid: Array, more: dict[str, Array]) -> Any:
            with jax.named_scope("heads"):
                joined = jax.tree.map(_join_axes, {"valid": valid, **more})
                outputs = head(_join_axes(described), train=train, **joined)
            return jax.tree.map(lambda y: y.reshape(*valid.shape, *y.shape[1:]), outputs)

        if nnx.state(head, nnx.BatchStat):
            return run(in_microbatches(describe, microbatches, features, rois), valid, more)

        def run_images(features: Features, rois: Array, valid: Array, more: Any) -> Any:
            def run_chunk(rois, valid, more):
                return run(describe(features, rois), valid, more)

            return in_chunks(run_chunk, chunks, rois, valid, more)

        return in_microbatches(run_images, microbatches, features, rois, valid, more)


def _join_axes(x: Array) -> Array:
    """[n, rois, ...] as [n * rois, ...]."""
    return x.reshape(-1, *x.shape[2:])
