"""The mask head: RoI features to one mask per class, or to that of one class."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

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
        labels: Int[Array, " rois"] | None = None,
    ) -> Float[Array, "rois 2*size 2*size classes"]:
        """Mask logits in float32; `valid` RoIs enter batch statistics.

        Args:
            labels: of each RoI the only class whose logits are computed, since those of thousands
                take a thousand times the work and memory; None for all.
        """
        for layer in self.convs:
            x = layer(x, train=train, valid=valid)
        x = jax.nn.relu(self.upsample(x))
        if labels is None:
            return self.logits(x).astype(jnp.float32)
        return self._logits_of(x, labels).astype(jnp.float32)[..., None]

    def _logits_of(
        self, x: Float[Array, "rois height width c"], labels: Int[Array, " rois"]
    ) -> Float[Array, "rois height width"]:
        """The logits of each RoI's label; 0 for labels beyond the last class."""
        kernel, bias = self.logits.kernel[...], self.logits.bias[...]
        # A product with ones and zeros and not a lookup: its gradient is no scatter.
        is_class = jax.nn.one_hot(labels, bias.size, dtype=kernel.dtype)
        exact = {"precision": jax.lax.Precision.HIGHEST}
        weight = jnp.dot(is_class, kernel[0, 0].T, **exact).astype(x.dtype)
        offset = jnp.dot(is_class, bias, **exact).astype(x.dtype)
        return jnp.einsum("rhwc,rc->rhw", x, weight) + offset[:, None, None]
