"""The stages of a box head: one, or those of a cascade, each of which starts from the boxes of the
one before it (Cascade R-CNN, arXiv 1712.00726, as Detectron2's CascadeROIHeads has it)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxdet.models.roi_samples import Samples
from jaxdet.models.settings import Settings
from jaxdet.ops import boxes as box_ops
from jaxdet.ops import losses


class BoxStage(NamedTuple):
    """A stage of a box head.

    Attributes:
        suffix: of the names of its losses.
        threshold: IoU with an object from which on an RoI is foreground.
        box_weights: factors on its deltas.
        gradient: what the gradient with respect to the RoIs' features is multiplied with.
    """

    head: nnx.Module
    suffix: str
    threshold: float
    box_weights: box_ops.BoxWeights
    gradient: float


def box_stages(settings: Settings, head: nnx.Module) -> list[BoxStage]:
    """The stages of a box head: the only one, or one for each head of a cascade's list."""
    s = settings
    if not isinstance(head, nnx.List):
        return [BoxStage(head, "", s.roi_threshold, s.box_weights, 1.0)]
    thresholds = (s.roi_threshold, *s.cascade_thresholds)
    factors = (1.0, *s.cascade_factors)
    return [
        BoxStage(
            each,
            f"_stage{i}",
            thresholds[i],
            tuple(factors[i] * weight for weight in s.box_weights),
            1 / len(head),
        )
        for i, each in enumerate(head)
    ]


@jax.named_scope("heads")
def stage_losses(
    settings: Settings,
    stage: BoxStage,
    class_logits: Float[Array, "rois classes_and_background"],
    box_deltas: Float[Array, "rois class_deltas"],
    samples: Samples,
    boxes: Float[Array, "objects 4"],
    counted: Bool[Array, " classes"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """A stage's losses on the sampled RoIs of one image.

    Args:
        counted: the classes that have a loss, see `counted_classes`; None for all.
    """
    s = settings
    box_loss = losses.giou_box_loss if s.box_loss == "giou" else losses.box_loss
    # One box for all classes: they are one class.
    kinds = jnp.where(samples.foreground, 0, 1) if s.class_agnostic_boxes else samples.labels
    regression = box_loss(
        box_deltas, kinds, samples.rois, boxes[samples.matched], samples.sampled, stage.box_weights
    )
    given = class_logits, samples.labels, samples.sampled
    if s.class_loss == "softmax":
        classification = losses.classification_loss(*given)
    else:
        classification = losses.sigmoid_classification_loss(*given, counted)
    return {
        f"loss_class{stage.suffix}": classification,
        f"loss_box{stage.suffix}": s.box_loss_weight * regression,
    }


def counted_classes(
    settings: Settings,
    weights: Float[np.ndarray, " classes"],
    samples: Samples,
    key: PRNGKeyArray,
    *,
    stage: int,
) -> Bool[Array, " classes"]:
    """The classes that enter a stage's loss of one image, see `losses.federated_classes`.

    Args:
        weights: by which those are drawn that the image does not show.
        key: the image's; each stage draws anew from it.
    """
    return losses.federated_classes(
        jax.random.fold_in(key, stage),
        samples.labels,
        samples.sampled,
        weights,
        settings.federated_classes,
    )


def class_scores(
    settings: Settings, class_logits: Float[Array, "*rois classes_and_background"]
) -> Float[Array, "*rois classes"]:
    """How sure a stage is of each class, background apart."""
    if settings.class_loss == "sigmoid":
        return jax.nn.sigmoid(class_logits[..., :-1])
    return jax.nn.softmax(class_logits)[..., :-1]


def stage_boxes(
    box_deltas: Float[Array, "rois class_deltas"],
    rois: Float[Array, "rois 4"],
    image_hw: Int[Array, "2"],
    *,
    box_weights: box_ops.BoxWeights,
) -> Float[Array, "rois boxes 4"]:
    """A stage's boxes of one image, one a class or one for all, clipped to the image."""
    deltas = box_deltas.reshape(box_deltas.shape[0], -1, 4)
    return box_ops.clip(box_ops.decode(deltas, rois[:, None], box_weights), image_hw)
