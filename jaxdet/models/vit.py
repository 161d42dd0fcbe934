"""The plain Vision Transformer with windowed and global blocks, as a detection backbone.

Defined by arXiv 2111.11429 section 2: all blocks attend inside non-overlapping windows of the
pre-training grid's size, except a few that attend globally; in the recipe the last block of each
quarter does, and the pyramid is made from the outputs of these four. There is no final norm, and no
class token unless asked for (imTED, arXiv 2205.09613, keeps it).

Of what today's encoders have besides, all parts are off unless asked for, and fit together: rotary
positions (`jaxdet.models.rope`), registers, other norms and where they stand, other linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from jaxdet.models.block import Block, norm
from jaxdet.models.layers import kept_branches, normal, torch_default, torch_default_bias
from jaxdet.models.position import RelativePositionBias, absolute_embedding, resize_embedding
from jaxdet.models.prefix import join_prefix, split_prefix
from jaxdet.models.rope import Rotation, rotation
from jaxdet.models.settings import VitSettings


class ViT(nnx.Module):
    """Images to the token maps that a detector is made from.

    Class token and registers have no place in the image. In a windowed block every window has a
    copy of them and the copies' results are averaged (`prefix_in_windows` "mean"), or the block
    goes without them and they pass by unchanged ("drop").
    """

    def __init__(self, settings: VitSettings, *, dtype: DTypeLike, rngs: nnx.Rngs):
        s = settings
        pixels, part = 3 * s.patch * s.patch, {"dtype": dtype, "rngs": rngs}
        # BEiT's code leaves the patch projection at PyTorch's default.
        self.patch_embed = nnx.Linear(
            pixels,
            s.width,
            use_bias=s.patch_bias,
            kernel_init=torch_default,
            bias_init=torch_default_bias(pixels),
            **part,
        )
        self.patch_norm = norm(s, s.width, **part) if s.patch_norm else None
        self.pos_embed = absolute_embedding(
            s.absolute_position,
            stored_grid=s.pretrain_grid,
            model_grid=s.grid,
            width=s.width,
            rngs=rngs,
        )
        self.class_token, self.class_pos_embed = _class_token(s, rngs)
        self.registers = _registers(s, rngs)
        self.norm_pre = norm(s, s.width, **part) if s.pre_norm else None
        self.blocks = _blocks(s, **part)
        self.norm = norm(s, s.width, **part) if s.final_norm else None
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
        rotations = self._rotations(grid)
        maps = []
        for i, block in enumerate(self.blocks):
            bias = global_bias if block.window is None else window_bias
            if bias is not None:
                # Here and not inside, where the float32 one would be kept; and in each block, so
                # that gradients are added up in float32.
                bias = bias.astype(self.dtype)
            x = self._run(block, x, bias, kept[i], rotations[block.window], grid)
            if i in self.settings.out_indices:
                maps.append(self._map(x, grid))
        return maps

    def embed(self, images: Float[Array, "n image_h image_w 3"]) -> Float[Array, "n h w width"]:
        """What goes into the first block: a map of tokens, or one row behind those of no place."""
        x = self.patch_embed(patchify(images, self.patch))
        if self.patch_norm is not None:
            x = self.patch_norm(x)
        if self.pos_embed is not None:
            rule = (self.settings.resize_offset, self.settings.resize)
            position = resize_embedding(self.pos_embed[...], x.shape[1:3], *rule)
            x += position.astype(self.dtype)
        x = self._with_prefix(x)
        return x if self.norm_pre is None else self.norm_pre(x)

    def _run(
        self,
        block: Block,
        x: Float[Array, "n h w width"],
        bias: Float[Array, "heads tokens tokens"] | None,
        kept: Bool[Array, "2 n"] | None,
        rotation: Rotation | None,
        grid: tuple[int, int],
    ) -> Float[Array, "n h w width"]:
        # What a block records cannot leave a checkpoint.
        remat = self.settings.remat == "block" and not block.attn.record_weights
        call = jax.checkpoint(Block.__call__, static_argnums=5) if remat else Block.__call__
        if block.prefix == self.settings.prefix_tokens:
            return call(block, x, bias, kept, rotation, grid)
        prefix, patches = split_prefix(x, self.settings.prefix_tokens, grid)
        return join_prefix(prefix, call(block, patches, bias, kept, rotation, grid))

    def _rotations(self, grid: tuple[int, int]) -> dict[int | None, Rotation | None]:
        """Those of windowed and of global blocks, by the side of their windows."""
        prefixes = {block.window: block.prefix for block in self.blocks}
        return {
            window: rotation(self.settings, grid, window, prefix)
            for window, prefix in prefixes.items()
        }

    def _with_prefix(self, x: Float[Array, "n rows columns width"]) -> Float[Array, "n h w width"]:
        """The tokens in one row behind class token and registers, where there are some."""
        tokens = []
        if self.class_token is not None:
            tokens.append((self.class_token[...] + self.class_pos_embed[...])[None])
        if self.registers is not None:
            tokens.append(self.registers[...])
        if not tokens:
            return x
        prefix = jnp.concatenate(tokens).astype(x.dtype)
        return join_prefix(jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape)), x)

    def _map(
        self, x: Float[Array, "n h w width"], grid: tuple[int, int]
    ) -> Float[Array, "n rows columns width"]:
        """The map that is made of a block's output: its patches, through the final norm if any."""
        if self.settings.prefix_tokens:
            _, x = split_prefix(x, self.settings.prefix_tokens, grid)
        return x if self.norm is None else self.norm(x)


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


def _registers(s: VitSettings, rngs: nnx.Rngs) -> nnx.Param | None:
    if s.registers == 0:
        return None
    return nnx.Param(normal(0.02)(rngs.params(), (s.registers, s.width)))


def _blocks(s: VitSettings, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Sequence[Block]:
    rates = np.linspace(0.0, s.drop_path, s.depth)

    def block(i: int) -> Block:
        side = s.attended_side(i)
        return Block(
            s,
            depth_index=i + 1,
            window=None if i in s.global_blocks else s.window,
            decomposed_grid=(side, side) if s.relative_position == "decomposed" else None,
            prefix=s.attended_prefix(i),
            drop_path=float(rates[i]),
            shift=s.window // 2 if i in s.shifted_blocks else 0,
            residual=s.conv_kind if i in s.conv_blocks else None,
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
    windowed = set(range(s.depth)) - set(s.global_blocks)

    def bias(side: int, block: int) -> RelativePositionBias:
        return RelativePositionBias((side, side), s.heads, s.attended_prefix(block))

    return (
        bias(s.window, min(windowed)) if windowed else None,
        bias(s.grid, min(s.global_blocks)) if s.global_blocks else None,
    )
