"""The transformer block: attention and MLP, each on a residual branch.

Modules take the settings that all blocks share whole, and what differs from block to block by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdet.models.attention import attend, attention_weights
from jaxdet.models.conv_residual import ConvResidual
from jaxdet.models.layers import LayerNorm, RMSNorm, drop_path, gelu, normal
from jaxdet.models.position import DecomposedRelativePosition
from jaxdet.models.prefix import merge_with_prefix, partition_with_prefix
from jaxdet.models.rope import Rotation, rotate
from jaxdet.models.settings import BlockSettings
from jaxdet.models.windows import merge_windows, partition_windows

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""Functions between the MLP's layers: SigLIP's is "gelu_tanh", OpenAI's CLIP's "quick_gelu"."""


def norm(settings: BlockSettings, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Module:
    """A norm over channels of the settings' kind."""
    kind = {"layer": LayerNorm, "rms": RMSNorm}[settings.norm]
    return kind(channels, epsilon=settings.norm_eps, dtype=dtype, rngs=rngs)


class Attention(nnx.Module):
    """Multi-head self-attention over the tokens of one sequence.

    Args:
        decomposed_grid: the map of tokens that this attention has a decomposed relative position of
            its own for, or None for none. It takes the queries as attention does.
        prefix: tokens before the map's.
        out_std: standard deviation of the output projection's initial weights.

    Attributes:
        record_weights: whether a call sows the attention weights (`nnx.Module.sow`) as the
            `nnx.Intermediate` "weights" [n, heads, tokens, tokens]; False at first.
    """

    def __init__(
        self,
        settings: BlockSettings,
        *,
        decomposed_grid: tuple[int, int] | None,
        prefix: int = 0,
        out_std: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width, channels = settings.width, settings.width // settings.heads
        part = {"dtype": dtype, "rngs": rngs}
        self.qkv = nnx.Linear(
            width,
            3 * width,
            use_bias=settings.qkv_bias == "qkv",
            kernel_init=normal(0.02),
            **part,
        )
        if settings.qkv_bias == "qv":
            self.q_bias = nnx.Param(jnp.zeros(width))
            self.v_bias = nnx.Param(jnp.zeros(width))
        self.q_norm = norm(settings, channels, **part) if settings.qk_norm else None
        self.k_norm = norm(settings, channels, **part) if settings.qk_norm else None
        self.rel_pos = (
            DecomposedRelativePosition(decomposed_grid, channels, prefix)
            if decomposed_grid is not None
            else None
        )
        self.norm = norm(settings, width, **part) if settings.attention_norm else None
        self.proj = nnx.Linear(
            width, width, use_bias=settings.bias, kernel_init=normal(out_std), **part
        )
        self.settings = settings
        self.record_weights = False

    def __call__(
        self,
        x: Float[Array, "n tokens width"],
        bias: Float[Array, "heads tokens tokens"] | None = None,
        rotation: Rotation | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "n tokens width"]:
        """The tokens after attention; `grid`: the map's, if it is not `decomposed_grid`."""
        position = self.rel_pos
        if position is not None and grid is not None:
            position = position.resized(grid)
        q, k, v = self._queries_keys_values(x)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = (rotate(each, rotation, self.settings.rope) for each in (q, k))
        if self.record_weights:
            self.sow(nnx.Intermediate, "weights", attention_weights(q, k, bias, position))
        remat = self.settings.remat == "attention"
        function = jax.checkpoint(attend, static_argnums=5) if remat else attend
        y = function(q, k, v, bias, position, self.settings.attention)
        y = y.reshape(x.shape)
        return self.proj(y if self.norm is None else self.norm(y))

    def _queries_keys_values(
        self, x: Float[Array, "n tokens width"]
    ) -> tuple[
        Float[Array, "n tokens heads channels"],
        Float[Array, "n tokens heads channels"],
        Float[Array, "n tokens heads channels"],
    ]:
        n, tokens, _ = x.shape
        qkv = self.qkv(x)
        if self.settings.qkv_bias == "qv":
            q_bias, v_bias = self.q_bias[...], self.v_bias[...]
            qkv += jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(qkv.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, self.settings.heads, -1), 2, 0)
        return q, k, v


class Mlp(nnx.Module):
    """Two linear layers with an activation between them.

    The activation is one of ACTIVATIONS, or "swiglu" (DINOv2's ViT-g): the first half of the first
    layer's outputs, through SiLU, multiplies the other half.

    Args:
        out_std: standard deviation of the second layer's initial weights.
    """

    def __init__(
        self, settings: BlockSettings, *, out_std: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        width, hidden = settings.width, settings.hidden
        inner = 2 * hidden if settings.activation == "swiglu" else hidden
        part = {"use_bias": settings.bias, "dtype": dtype, "rngs": rngs}
        self.fc1 = nnx.Linear(width, inner, kernel_init=normal(0.02), **part)
        self.norm = norm(settings, hidden, dtype=dtype, rngs=rngs) if settings.mlp_norm else None
        self.fc2 = nnx.Linear(hidden, width, kernel_init=normal(out_std), **part)
        self.activation = settings.activation

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        x = self.fc1(x)
        if self.activation == "swiglu":
            gate, x = jnp.split(x, 2, axis=-1)
            x = jax.nn.silu(gate) * x
        else:
            x = ACTIVATIONS[self.activation](x)
        return self.fc2(x if self.norm is None else self.norm(x))


class Block(nnx.Module):
    """A transformer block on a map of tokens, its norms before its branches or behind them.

    Args:
        depth_index: 1-based position; the last weights of each residual branch start scaled by
            1 / sqrt(2 depth_index), as BEiT's code initialises and arXiv 2111.11429 follows.
        window: side of the windows it attends within; None attends globally, and then the map's
            height and width mean nothing.
        decomposed_grid: see `Attention`.
        prefix: tokens before the map's patches that it attends with. The map is then one row of
            all tokens, and each window has a copy of these, whose results are averaged.
        drop_path: probability of dropping a residual branch.
        shift: see `partition_windows`.
        residual: kind of the `ConvResidual` behind the block; None for none.
    """

    def __init__(
        self,
        settings: BlockSettings,
        *,
        depth_index: int,
        window: int | None = None,
        decomposed_grid: tuple[int, int] | None = None,
        prefix: int = 0,
        drop_path: float = 0.0,
        shift: int = 0,
        residual: str | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        part = {"dtype": dtype, "rngs": rngs}
        std = float(0.02 / np.sqrt(2 * depth_index))
        self.norm1 = norm(settings, settings.width, **part)
        self.attn = Attention(
            settings, decomposed_grid=decomposed_grid, prefix=prefix, out_std=std, **part
        )
        self.norm2 = norm(settings, settings.width, **part)
        self.mlp = Mlp(settings, out_std=std, **part)
        if settings.layer_scale is not None:
            self.gamma1 = nnx.Param(jnp.full(settings.width, settings.layer_scale))
            self.gamma2 = nnx.Param(jnp.full(settings.width, settings.layer_scale))
        self.residual = ConvResidual(residual, settings.width, **part) if residual else None
        self.layer_scale = settings.layer_scale
        self.post_norm = settings.post_norm
        self.window = window
        self.shift = shift
        self.prefix = prefix
        self.drop_path = drop_path

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        bias: Float[Array, "heads tokens tokens"] | None = None,
        kept: Bool[Array, "2 n"] | None = None,
        rotation: Rotation | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Array, "n h w c"]:
        """The tokens after both branches.

        Args:
            bias: added to the attention logits of every window.
            kept: which images keep which branch in training (drop path); None in evaluation.
            rotation: of queries and keys, by window.
            grid: rows and columns of the patches, where windows need them of a row of tokens, or
                relative positions are made for another.
        """
        first, second = (None, None) if kept is None else kept

        def attend(x: Array) -> Array:
            return self._attend(x, bias, rotation, grid)

        y = self._branch(attend, self.norm1, x)
        x = x + drop_path(self._scale(y, 1), self.drop_path, first)
        y = self._branch(self.mlp, self.norm2, x)
        x = x + drop_path(self._scale(y, 2), self.drop_path, second)
        return x if self.residual is None else self.residual(x)

    def _branch(self, function: Callable[[Array], Array], norm: nnx.Module, x: Array) -> Array:
        return norm(function(x)) if self.post_norm else function(norm(x))

    def _attend(
        self,
        x: Float[Array, "n h w c"],
        bias: Array | None,
        rotation: Rotation | None,
        grid: tuple[int, int] | None,
    ) -> Float[Array, "n h w c"]:
        if self.window is None:
            tokens = x.reshape(x.shape[0], -1, x.shape[-1])
            return self.attn(tokens, bias, rotation, grid).reshape(x.shape)
        if self.prefix:
            windows = partition_with_prefix(x, self.window, self.prefix, grid)
            y = self.attn(windows, bias, rotation)
            return merge_with_prefix(y, self.window, self.prefix, grid)
        y = self.attn(partition_windows(x, self.window, self.shift), bias, rotation)
        return merge_windows(y, self.window, x.shape[1:3], self.shift)

    def _scale(self, y: Float[Array, "n h w c"], branch: int) -> Float[Array, "n h w c"]:
        if self.layer_scale is None:
            return y
        gamma = self.gamma1 if branch == 1 else self.gamma2
        return y * gamma[...].astype(y.dtype)


def plain_blocks(
    width: int, depth: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> Sequence[Block]:
    """Global blocks without drop path, as MAE's decoder has them."""
    settings = BlockSettings(width=width, heads=heads)
    return nnx.List(
        [Block(settings, depth_index=i + 1, dtype=dtype, rngs=rngs) for i in range(depth)]
    )
