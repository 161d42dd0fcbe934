"""The mask head: RoI features to one mask per class."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdet.models.layers import Upsample2x, c2_msra, conv, head_convs, normal


class MaskHead(nnx.Module):
    """3 x 3 convolutions with batch or layer norm, a 2 x 2 transposed one, one logit per class.

    Detectron2's MaskRCNNConvUpsampleHead with normalised convolutions.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        num_convs: int,
        conv_dim: int,
        norm: str,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.convs = head_convs(channels, conv_dim, num_convs, norm=norm, dtype=dtype, rngs=rngs)
        last = conv_dim if num_convs else channels
        self.upsample = Upsample2x(last, conv_dim, kernel_init=c2_msra, dtype=dtype, rngs=rngs)
        self.logits = conv(
            conv_dim, num_classes, 1, kernel_init=normal(0.001), dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        x: Float[Array, "rois size size c"],
        *,
        valid: Bool[Array, " rois"],
        train: bool,
    ) -> Float[Array, "rois 2*size 2*size classes"]:
        """Mask logits in float32; `valid` RoIs enter batch statistics."""
        for layer in self.convs:
            x = layer(x, train=train, valid=valid)
        x = jax.nn.relu(self.upsample(x))
        return self.logits(x).astype(jnp.float32)
