"""The region proposal network: dense objectness and box deltas, and the proposals they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxdet.models.layers import conv, normal
from jaxdet.ops import boxes as box_ops
from jaxdet.ops.losses import RPN_BOX_WEIGHTS
from jaxdet.ops.nms import nms


class RPNHead(nnx.Module):
    """Hidden 3 x 3 convolutions shared by all levels, then objectness and deltas per anchor."""

    def __init__(
        self, channels: int, *, num_anchors: int, num_convs: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        options = {"kernel_init": normal(0.01), "dtype": dtype, "rngs": rngs}
        self.convs = nnx.List([conv(channels, channels, 3, **options) for _ in range(num_convs)])
        self.objectness = conv(channels, num_anchors, 1, **options)
        self.deltas = conv(channels, num_anchors * 4, 1, **options)

    def __call__(
        self, pyramid: Sequence[Float[Array, "n _ _ c"]]
    ) -> tuple[list[Float[Array, "n _"]], list[Float[Array, "n _ 4"]]]:
        """Objectness logits and box deltas per level, anchors in (row, column, shape) order."""
        objectness, deltas = [], []
        for x in pyramid:
            for hidden in self.convs:
                x = jax.nn.relu(hidden(x))
            n = x.shape[0]
            objectness.append(self.objectness(x).reshape(n, -1).astype(jnp.float32))
            deltas.append(self.deltas(x).reshape(n, -1, 4).astype(jnp.float32))
        return objectness, deltas


class Proposals(NamedTuple):
    """Candidate boxes of one image, best first, in pixels of the padded image."""

    boxes: Float[Array, "proposals 4"]
    scores: Float[Array, " proposals"]
    valid: Bool[Array, " proposals"]


def propose(
    objectness: Sequence[Float[Array, " _"]],
    deltas: Sequence[Float[Array, "_ 4"]],
    image_hw: Int[Array, "2"],
    *,
    anchors: Sequence[Float[ArrayLike, "_ 4"]],
    pre_nms: int,
    post_nms: int,
    nms_threshold: float,
) -> Proposals:
    """The best boxes of one image: top `pre_nms` and NMS per level, then the top `post_nms` of all.

    Detectron2's `find_top_rpn_proposals`: boxes are clipped to the image and empty ones dropped
    before NMS. Levels are padded to one length, so that NMS is one batched call.
    """
    longest = min(pre_nms, max(o.shape[0] for o in objectness))
    level_boxes, level_scores = [], []
    for level_objectness, level_deltas, level_anchors in zip(
        objectness, deltas, anchors, strict=True
    ):
        count = min(pre_nms, level_objectness.shape[0])
        scores, index = jax.lax.top_k(level_objectness, count)
        boxes = box_ops.decode(
            level_deltas[index], jnp.asarray(level_anchors)[index], RPN_BOX_WEIGHTS
        )
        boxes = box_ops.clip(boxes, image_hw)
        usable = box_ops.is_nonempty(boxes) & jnp.isfinite(scores)  # a NaN box counts as empty
        scores = jnp.where(usable, scores, -jnp.inf)
        level_boxes.append(jnp.pad(boxes, ((0, longest - count), (0, 0))))
        level_scores.append(jnp.pad(scores, (0, longest - count), constant_values=-jnp.inf))
    boxes, scores = jnp.stack(level_boxes), jnp.stack(level_scores)
    keep = jax.vmap(lambda b, s: nms(b, s, s > -jnp.inf, nms_threshold))(boxes, scores)
    scores = jnp.where(keep, scores, -jnp.inf).reshape(-1)
    count = min(post_nms, scores.shape[0])
    scores, index = jax.lax.top_k(scores, count)
    return Proposals(boxes.reshape(-1, 4)[index], scores, scores > -jnp.inf)
