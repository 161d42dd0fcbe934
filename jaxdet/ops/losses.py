"""The losses of Faster and Mask R-CNN, for one image each, in float32.

Each divides by counts of its own image alone, as Detectron2 does with one image per device: the
mean over a batch then does not depend on how the batch is spread over devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxdet.ops.boxes import BoxWeights, decode, encode, giou

RPN_BOX_WEIGHTS: BoxWeights = (1.0, 1.0, 1.0, 1.0)


def rpn_losses(
    objectness: Float[ArrayLike, " anchors"],
    deltas: Float[ArrayLike, "anchors 4"],
    anchors: Float[ArrayLike, "anchors 4"],
    labels: Int[ArrayLike, " anchors"],
    matched_gt_boxes: Float[ArrayLike, "anchors 4"],
    batch_size_per_image: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Objectness and box loss of the region proposal network (Ren et al., 2015, equation 1).

    Args:
        objectness: logits.
        deltas: predicted box deltas.
        anchors: the boxes the deltas start from.
        labels: 1, 0 or -1 (not sampled).
        matched_gt_boxes: used only where the label is 1.
        batch_size_per_image: number of anchors to sample; divides both losses, also when fewer
            were there to sample.

    Returns:
        Binary cross-entropy over sampled anchors, L1 of the deltas over positive anchors.
    """
    is_positive = labels == 1
    classification = _binary_cross_entropy(objectness, is_positive)
    regression = _box_l1(deltas, anchors, matched_gt_boxes, is_positive, RPN_BOX_WEIGHTS)
    return (
        jnp.sum(classification, where=labels >= 0) / batch_size_per_image,
        regression / batch_size_per_image,
    )


def classification_loss(
    logits: Float[ArrayLike, "rois classes_and_background"],
    labels: Int[ArrayLike, " rois"],
    sampled: Bool[ArrayLike, " rois"],
) -> Float[Array, ""]:
    """Cross-entropy, mean over the sampled RoIs; 0 without any."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    losses = -_of_class(log_probabilities, labels)
    return jnp.sum(losses, where=sampled) / _at_least_one(sampled)


def sigmoid_classification_loss(
    logits: Float[ArrayLike, "rois classes_and_background"],
    labels: Int[ArrayLike, " rois"],
    sampled: Bool[ArrayLike, " rois"],
    counted: Bool[ArrayLike, " classes"] | None = None,
) -> Float[Array, ""]:
    """Binary cross-entropy of each class, summed over classes, mean over the sampled RoIs.

    The background, the last of `logits`, has no loss: an RoI of it is one of no class.

    Args:
        counted: the classes that have a loss, see `federated_classes`; None for all.
    """
    num_classes = logits.shape[1] - 1
    is_class = jnp.arange(num_classes) == jnp.asarray(labels)[:, None]
    losses = _binary_cross_entropy(logits[:, :-1], is_class)
    where = jnp.asarray(sampled)[:, None]
    if counted is not None:
        where &= jnp.asarray(counted)
    return jnp.sum(losses, where=where) / _at_least_one(sampled)


def federated_classes(
    key: Key[Array, ""],
    labels: Int[ArrayLike, " rois"],
    sampled: Bool[ArrayLike, " rois"],
    weights: Float[ArrayLike, " classes"],
    asked: int,
) -> Bool[Array, " classes"]:
    """The classes that enter an image's loss (Zhou et al., arXiv 2103.07461, section 3).

    Those of its sampled RoIs, and others drawn by weight and without replacement until there are
    `asked`. As in Detectron2, the background counts as one of them where an RoI is background.
    """
    weights = jnp.asarray(weights)
    num_classes = weights.shape[0]
    is_label = jnp.arange(num_classes + 1) == jnp.asarray(labels)[:, None]
    present = jnp.any(is_label & jnp.asarray(sampled)[:, None], axis=0)
    # The greatest of log weights with Gumbel noise are such a draw (arXiv 1903.06059).
    noisy = jnp.log(weights) + jax.random.gumbel(key, (num_classes,))
    noisy = jnp.where(present[:-1], -jnp.inf, noisy)
    best, drawn = jax.lax.top_k(noisy, min(asked, num_classes))
    is_drawn = (jnp.arange(drawn.size) < asked - jnp.sum(present)) & (best > -jnp.inf)
    return present[:-1].at[drawn].max(is_drawn)


def box_loss(
    deltas: Float[ArrayLike, "rois class_deltas"],
    labels: Int[ArrayLike, " rois"],
    rois: Float[ArrayLike, "rois 4"],
    matched_gt_boxes: Float[ArrayLike, "rois 4"],
    sampled: Bool[ArrayLike, " rois"],
    weights: BoxWeights,
) -> Float[Array, ""]:
    """L1 of the deltas of the true class over foreground RoIs, divided by the sampled RoIs.

    Labels from the number of classes up are background. The division by all sampled RoIs and not
    by the foreground ones follows Fast R-CNN (Girshick, 2015) and Detectron2.
    """
    of_class, is_foreground = _foreground_deltas(deltas, labels, sampled)
    total = _box_l1(of_class, rois, matched_gt_boxes, is_foreground, weights)
    return total / _at_least_one(sampled)


def giou_box_loss(
    deltas: Float[ArrayLike, "rois class_deltas"],
    labels: Int[ArrayLike, " rois"],
    rois: Float[ArrayLike, "rois 4"],
    matched_gt_boxes: Float[ArrayLike, "rois 4"],
    sampled: Bool[ArrayLike, " rois"],
    weights: BoxWeights,
) -> Float[Array, ""]:
    """1 - GIoU of the true class's decoded box over foreground RoIs, divided by the sampled RoIs.

    As `box_loss` otherwise. MMDetection's GIoULoss with `reg_decoded_bbox`, as imTED trains
    (arXiv 2205.09613).
    """
    of_class, is_foreground = _foreground_deltas(deltas, labels, sampled)
    # Padding decodes to nonsense: none may reach the sum or its gradient.
    of_class = jnp.where(is_foreground[:, None], of_class, 0.0)
    losses = 1.0 - giou(decode(of_class, rois, weights), matched_gt_boxes)
    return jnp.sum(losses, where=is_foreground) / _at_least_one(sampled)


def mask_loss(
    logits: Float[ArrayLike, "rois height width classes"],
    labels: Int[ArrayLike, " rois"],
    targets: Float[ArrayLike, "rois height width"] | Bool[ArrayLike, "rois height width"],
    foreground: Bool[ArrayLike, " rois"],
) -> Float[Array, ""]:
    """Binary cross-entropy of the true class's mask (Mask R-CNN, He et al., 2017, section 3).

    The mean over all pixels of the foreground RoIs; 0 without any.
    """
    losses = _binary_cross_entropy(_of_class(logits, labels), targets)
    per_roi = jnp.mean(losses, axis=(1, 2))
    return jnp.sum(per_roi, where=foreground) / _at_least_one(foreground)


def _binary_cross_entropy(
    logits: Float[ArrayLike, "*shape"], targets: Shaped[ArrayLike, "*shape"]
) -> Float[Array, "*shape"]:
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(logits) - logits * targets


def _box_l1(
    deltas: Float[ArrayLike, "boxes 4"],
    source: Float[ArrayLike, "boxes 4"],
    target: Float[ArrayLike, "boxes 4"],
    where: Bool[ArrayLike, " boxes"],
    weights: BoxWeights,
) -> Float[Array, ""]:
    # The targets of padding are not finite: none may reach the sum or its gradient.
    targets = jnp.where(where[:, None], encode(source, target, weights), 0.0)
    return jnp.sum(jnp.abs(deltas.astype(jnp.float32) - targets), where=where[:, None])


def _foreground_deltas(
    deltas: Float[ArrayLike, "rois class_deltas"],
    labels: Int[ArrayLike, " rois"],
    sampled: Bool[ArrayLike, " rois"],
) -> tuple[Float[Array, "rois 4"], Bool[Array, " rois"]]:
    """Each RoI's deltas of its class, and which RoIs are sampled and have one."""
    deltas = jnp.asarray(deltas).reshape(deltas.shape[0], -1, 4)
    is_foreground = jnp.asarray(sampled) & (labels < deltas.shape[1])
    return _of_class(jnp.moveaxis(deltas, 1, -1), labels), is_foreground


def _of_class(
    values: Float[ArrayLike, "rois ... classes"], labels: Int[ArrayLike, " rois"]
) -> Float[Array, "rois ..."]:
    """Each RoI's entry of its class, 0 for labels beyond the last class.

    A masked sum rather than a gather: it fuses, and so does its gradient.
    """
    labels = labels.reshape(-1, *[1] * (values.ndim - 1))
    is_class = jnp.arange(values.shape[-1]) == labels
    return jnp.sum(values, axis=-1, where=is_class)


def _at_least_one(counted: Bool[ArrayLike, " n"]) -> Float[Array, ""]:
    return jnp.maximum(jnp.sum(counted), 1).astype(jnp.float32)
