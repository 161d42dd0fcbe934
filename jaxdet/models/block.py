"""The transformer block: attention and MLP, each on a residual branch.

Modules take the settings that all blocks share whole, and what differs from block to block by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jaxdet.models.attention import attend, attention_weights
from jaxdet.models.layers import LayerNorm, drop_path, gelu, normal
from jaxdet.models.position import DecomposedRelativePosition
from jaxdet.models.settings import BlockSettings
from jaxdet.models.windows import merge_windows, partition_windows

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""Functions between the MLP's layers: SigLIP's is "gelu_tanh", OpenAI's CLIP's "quick_gelu"."""


class Attention(nnx.Module):
    """Multi-head self-attention over the tokens of one sequence.

    Args:
        decomposed_grid: the map of tokens that this attention has a decomposed relative position of
            its own for, or None for none.
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
        out_std: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        width = settings.width
        self.qkv = nnx.Linear(
            width,
            3 * width,
            use_bias=settings.qkv_bias == "qkv",
            kernel_init=normal(0.02),
            dtype=dtype,
            rngs=rngs,
        )
        if settings.qkv_bias == "qv":
            self.q_bias = nnx.Param(jnp.zeros(width))
            self.v_bias = nnx.Param(jnp.zeros(width))
        self.rel_pos = (
            DecomposedRelativePosition(decomposed_grid, width // settings.heads)
            if decomposed_grid is not None
            else None
        )
        self.proj = nnx.Linear(width, width, kernel_init=normal(out_std), dtype=dtype, rngs=rngs)
        self.settings = settings
        self.record_weights = False

    def __call__(
        self,
        x: Float[Array, "n tokens width"],
        bias: Float[Array, "heads tokens tokens"] | None = None,
    ) -> Float[Array, "n tokens width"]:
        q, k, v = self._queries_keys_values(x)
        if self.record_weights:
            self.sow(nnx.Intermediate, "weights", attention_weights(q, k, bias, self.rel_pos))
        remat = self.settings.remat == "attention"
        function = jax.checkpoint(attend, static_argnums=5) if remat else attend
        y = function(q, k, v, bias, self.rel_pos, self.settings.attention)
        return self.proj(y.reshape(x.shape))

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

    The activation is one of ACTIVATIONS, or "swiglu" (DINOv2's ViT-g): half of the first layer's
    outputs, through SiLU, multiply the other half; the hidden width is then two thirds of that of
    the others, rounded up to a multiple of 8.

    Args:
        out_std: standard deviation of the second layer's initial weights.
    """

    def __init__(
        self, settings: BlockSettings, *, out_std: float, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        width, hidden = settings.width, int(settings.width * settings.mlp_ratio)
        is_gated = settings.activation == "swiglu"
        if is_gated:
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        inner = 2 * hidden if is_gated else hidden
        self.fc1 = nnx.Linear(width, inner, kernel_init=normal(0.02), dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, width, kernel_init=normal(out_std), dtype=dtype, rngs=rngs)
        self.activation = settings.activation

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        x = self.fc1(x)
        if self.activation == "swiglu":
            gate, x = jnp.split(x, 2, axis=-1)
            return self.fc2(jax.nn.silu(gate) * x)
        return self.fc2(ACTIVATIONS[self.activation](x))


class Block(nnx.Module):
    """A pre-norm transformer block on a map of tokens.

    Args:
        depth_index: 1-based position; the last weights of each residual branch start scaled by
            1 / sqrt(2 depth_index), as BEiT's code initialises and arXiv 2111.11429 follows.
        window: side of the windows it attends within; None attends globally, and then the map's
            height and width mean nothing.
        decomposed_grid: see `Attention`.
        drop_path: probability of dropping a residual branch.
    """

    def __init__(
        self,
        settings: BlockSettings,
        *,
        depth_index: int,
        window: int | None = None,
        decomposed_grid: tuple[int, int] | None = None,
        drop_path: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        part = {"dtype": dtype, "rngs": rngs}
        std = float(0.02 / np.sqrt(2 * depth_index))
        self.norm1 = LayerNorm(settings.width, **part)
        self.attn = Attention(settings, decomposed_grid=decomposed_grid, out_std=std, **part)
        self.norm2 = LayerNorm(settings.width, **part)
        self.mlp = Mlp(settings, out_std=std, **part)
        if settings.layer_scale is not None:
            self.gamma1 = nnx.Param(jnp.full(settings.width, settings.layer_scale))
            self.gamma2 = nnx.Param(jnp.full(settings.width, settings.layer_scale))
        self.layer_scale = settings.layer_scale
        self.window = window
        self.drop_path = drop_path

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        bias: Float[Array, "heads tokens tokens"] | None = None,
        kept: Bool[Array, "2 n"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """The tokens after both branches.

        Args:
            bias: added to the attention logits of every window.
            kept: which images keep which branch in training (drop path); None in evaluation.
        """
        first, second = (None, None) if kept is None else kept
        y = self._attend(self.norm1(x), bias)
        x = x + drop_path(self._scale(y, 1), self.drop_path, first)
        y = self.mlp(self.norm2(x))
        return x + drop_path(self._scale(y, 2), self.drop_path, second)

    def _attend(self, x: Float[Array, "n h w c"], bias: Array | None) -> Float[Array, "n h w c"]:
        if self.window is None:
            return self.attn(x.reshape(x.shape[0], -1, x.shape[-1]), bias).reshape(x.shape)
        y = self.attn(partition_windows(x, self.window), bias)
        return merge_windows(y, self.window, x.shape[1:3])

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
