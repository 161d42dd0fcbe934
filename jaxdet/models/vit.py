"""The plain Vision Transformer with windowed and global blocks, as a detection backbone.

Defined by arXiv 2111.11429 section 2: all blocks attend inside non-overlapping windows of the
pre-training grid's size, except a few that attend globally; in the recipe the last block of each
quarter does, and the pyramid is made from the outputs of these four. There is no final norm, and no
class token unless asked for (imTED, arXiv 2205.09613, keeps it).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from jaxdet.models.block import Block
from jaxdet.models.layers import (
    LayerNorm,
    kept_branches,
    normal,
    torch_default,
    torch_default_bias,
)
from jaxdet.models.position import RelativePositionBias, absolute_embedding, resize_embedding
from jaxdet.models.settings import VitSettings


class ViT(nnx.Module):
    """Images to the token maps that a detector is made from."""

    def __init__(self, settings: VitSettings, *, dtype: DTypeLike, rngs: nnx.Rngs):
        s = settings
        pixels = 3 * s.patch * s.patch
        # BEiT's code leaves the patch projection at PyTorch's default.
        self.patch_embed = nnx.Linear(
            pixels,
            s.width,
            kernel_init=torch_default,
            bias_init=torch_default_bias(pixels),
            dtype=dtype,
            rngs=rngs,
        )
        self.pos_embed = absolute_embedding(
            s.absolute_position,
            stored_grid=s.pretrain_grid,
            model_grid=s.grid,
            width=s.width,
            rngs=rngs,
        )
        self.class_token, self.class_pos_embed = _class_token(s, rngs)
        self.norm_pre = LayerNorm(s.width, dtype=dtype, rngs=rngs) if s.pre_norm else None
        self.blocks = _blocks(s, dtype=dtype, rngs=rngs)
        self.rel_pos_window, self.rel_pos_global = _shared_biases(s)
        self.settings = settings
        self.patch = s.patch
        self.dtype = dtype

    def __call__(
        self, images: Float[Array, "n image_h image_w 3"], keys: Key[Array, " n"] | None = None
    ) -> list[Float[Array, "n rows columns width"]]:
        """Token maps after each of the blocks `out_indices`.

        Args:
            images: normalised pixels.
            keys: one per image, the randomness of drop path in training; None in evaluation.
        """
        x = self.embed(images)
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        window_bias = self.rel_pos_window() if self.rel_pos_window is not None else None
        global_bias = self.rel_pos_global() if self.rel_pos_global is not None else None
        kept = [None] * len(self.blocks)
        if keys is not None:
            kept = kept_branches(keys, [block.drop_path for block in self.blocks])
        maps = []
        for i, block in enumerate(self.blocks):
            bias = global_bias if block.window is None else window_bias
            if bias is not None:
                # Here and not inside, where the float32 one would be kept; and in each block, so
                # that gradients are added up in float32.
                bias = bias.astype(self.dtype)
            x = self._run(block, x, bias, kept[i])
            if i in self.settings.out_indices:
                maps.append(self._without_class_token(x, grid))
        return maps

    def embed(self, images: Float[Array, "n image_h image_w 3"]) -> Float[Array, "n h w width"]:
        """What goes into the first block: a map of tokens, or one row behind a class token."""
        x = self.patch_embed(patchify(images, self.patch))
        if self.pos_embed is not None:
            offset = self.settings.resize_offset
            position = resize_embedding(self.pos_embed[...], x.shape[1:3], offset)
            x += position.astype(self.dtype)
        x = self._with_class_token(x)
        return x if self.norm_pre is None else self.norm_pre(x)

    def _run(
        self,
        block: Block,
        x: Float[Array, "n h w width"],
        bias: Float[Array, "heads tokens tokens"] | None,
        kept: Bool[Array, "2 n"] | None,
    ) -> Float[Array, "n h w width"]:
        # What a block records cannot leave a checkpoint.
        remat = self.settings.remat == "block" and not block.attn.record_weights
        call = jax.checkpoint(Block.__call__) if remat else Block.__call__
        return call(block, x, bias, kept)

    def _with_class_token(
        self, x: Float[Array, "n rows columns width"]
    ) -> Float[Array, "n h w width"]:
        """The tokens in one row behind the class token, where there is one."""
        if self.class_token is None:
            return x
        n, _, _, width = x.shape
        token = (self.class_token[...] + self.class_pos_embed[...]).astype(x.dtype)
        token = jnp.broadcast_to(token, (n, 1, 1, width))
        return jnp.concatenate([token, x.reshape(n, 1, -1, width)], axis=2)

    def _without_class_token(
        self, x: Float[Array, "n h w width"], grid: tuple[int, int]
    ) -> Float[Array, "n rows columns width"]:
        """Undoes `_with_class_token`."""
        if self.class_token is None:
            return x
        return x[:, :, 1:].reshape(x.shape[0], *grid, x.shape[-1])


def patchify(images: Float[Array, "n h w 3"], patch: int) -> Float[Array, "n rows columns pixels"]:
    """Cuts images into patches, the pixels of each in row-major order, channels innermost."""
    n, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    x = images.reshape(n, rows, patch, columns, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)


def _class_token(s: VitSettings, rngs: nnx.Rngs) -> tuple[nnx.Param, nnx.Param] | tuple[None, None]:
    """The class token and its position embedding."""
    if not s.class_token:
        return None, None
    return nnx.Param(normal(0.02)(rngs.params(), (s.width,))), nnx.Param(jnp.zeros(s.width))


def _blocks(s: VitSettings, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Sequence[Block]:
    rates = np.linspace(0.0, s.drop_path, s.depth)

    def block(i: int) -> Block:
        side = s.attended_side(i)
        return Block(
            s,
            depth_index=i + 1,
            window=None if i in s.global_blocks else s.window,
            decomposed_grid=(side, side) if s.relative_position == "decomposed" else None,
            drop_path=float(rates[i]),
            dtype=dtype,
            rngs=rngs,
        )

    return nnx.List([block(i) for i in range(s.depth)])


def _shared_biases(
    s: VitSettings,
) -> tuple[RelativePositionBias | None, RelativePositionBias | None]:
    """The biases of windowed and of global blocks, each None where there is no block to use it."""
    if s.relative_position != "shared":
        return None, None
    any_windowed = len(set(s.global_blocks)) < s.depth
    return (
        RelativePositionBias((s.window, s.window), s.heads) if any_windowed else None,
        RelativePositionBias((s.grid, s.grid), s.heads) if s.global_blocks else None,
    )
