"""The box head: RoI features to class logits and box deltas, of each class or of all alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdet.models.layers import c2_xavier, head_convs, normal


class BoxHead(nnx.Module):
    """3 x 3 convolutions with batch or layer norm, one fully connected layer, two linear outputs.

    With four convolutions the "4conv1fc" head of arXiv 2111.11429 (batch norm) and 2203.16527
    (layer norm), initialised as Detectron2 does.

    Args:
        boxes: how many boxes it predicts for an RoI: one a class, or one for all.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        boxes: int,
        roi_size: int,
        num_convs: int,
        conv_dim: int,
        norm: str,
        fc_dim: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.convs = head_convs(channels, conv_dim, num_convs, norm=norm, dtype=dtype, rngs=rngs)
        last = conv_dim if num_convs else channels
        self.fc = nnx.Linear(
            last * roi_size * roi_size, fc_dim, kernel_init=c2_xavier, dtype=dtype, rngs=rngs
        )
        self.logits = nnx.Linear(
            fc_dim, num_classes + 1, kernel_init=normal(0.01), dtype=dtype, rngs=rngs
        )
        self.deltas = nnx.Linear(
            fc_dim, boxes * 4, kernel_init=normal(0.001), dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "rois size size c"],
        *,
        valid: Bool[Array, " rois"],
        train: bool,
    ) -> tuple[Float[Array, "rois classes_and_background"], Float[Array, "rois class_deltas"]]:
        """Logits (background last) and deltas in float32; `valid` RoIs enter batch statistics."""
        for layer in self.convs:
            x = layer(x, train=train, valid=valid)
        x = jax.nn.relu(self.fc(x.reshape(x.shape[0], -1)))
        return self.logits(x).astype(jnp.float32), self.deltas(x).astype(jnp.float32)
