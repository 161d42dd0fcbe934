"""The box head of imTED: MAE's decoder reads a RoI's 49 features as it read an image's patches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdet.models.block import plain_blocks
from jaxdet.models.layers import LayerNorm, torch_default, torch_default_bias
from jaxdet.models.position import resize_embedding, sincos_embedding


class DecoderHead(nnx.Module):
    """Norm, linear embedding, transformer blocks among a RoI's positions, mean, norm, two outputs.

    arXiv 2205.09613 section 3.2, and its code for what the text leaves open: `norm` is MAE's final
    norm of the encoder, `embed` and `blocks` are the decoder's, `box_norm` is new (the decoder's
    own final norm is not used). There is no class token and no drop path.

    Args:
        inputs: channels of the RoI features.
        width, depth, heads: size of the decoder.
        pretrain_grid: side of the grid the decoder's position embedding is stored at. It is sines
            and cosines, is not trained, and is resized to the RoI's bins: positions are relative
            to the box.
        resize_offset: see `resize_embedding`.
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
        pretrain_grid: int,
        resize_offset: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm = LayerNorm(inputs, dtype=dtype, rngs=rngs)
        self.embed = nnx.Linear(
            inputs, width, kernel_init=nnx.initializers.glorot_uniform(), dtype=dtype, rngs=rngs
        )
        self.pos_embed = nnx.Param(jnp.asarray(sincos_embedding(pretrain_grid, width)))
        self.blocks = plain_blocks(width, depth, heads, dtype=dtype, rngs=rngs)
        self.box_norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        output = {"kernel_init": torch_default, "bias_init": torch_default_bias(width)}
        output |= {"dtype": dtype, "rngs": rngs}
        self.logits = nnx.Linear(width, num_classes + 1, **output)
        self.deltas = nnx.Linear(width, num_classes * 4, **output)
        self.resize_offset = resize_offset

    def __call__(
        self,
        x: Float[Array, "rois size size inputs"],
        *,
        valid: Bool[Array, " rois"],
        train: bool,
    ) -> tuple[Float[Array, "rois classes_and_background"], Float[Array, "rois class_deltas"]]:
        """Logits (background last) and deltas in float32; every RoI is treated by itself."""
        position = resize_embedding(self.pos_embed[...], x.shape[1:3], self.resize_offset)
        x = self.embed(self.norm(x))
        x += jax.lax.stop_gradient(position).astype(x.dtype)
        for block in self.blocks:
            x = block(x)
        x = self.box_norm(x.mean((1, 2), dtype=jnp.float32))
        return self.logits(x).astype(jnp.float32), self.deltas(x).astype(jnp.float32)
