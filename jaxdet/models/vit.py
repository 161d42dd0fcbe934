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
from jaxtyping import Array, Float

from jaxdet.models.attention import attend, attention_weights
from jaxdet.models.layers import (
    LayerNorm,
    drop_path,
    gelu,
    normal,
    torch_default,
    torch_default_bias,
)
from jaxdet.models.position import (
    DecomposedRelativePosition,
    RelativePositionBias,
    absolute_embedding,
    resize_embedding,
)

ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
"""Functions between the MLP's layers: SigLIP's is "gelu_tanh", OpenAI's CLIP's "quick_gelu"."""


class Attention(nnx.Module):
    """Multi-head self-attention over the tokens of one sequence.

    Args:
        qkv_bias: "qkv", "qv" (BEiT: no bias on the keys) or "none".
        decomposed_grid: the map of tokens this attention has its own decomposed relative position
            for, or None for none.
        implementation: see `attend`.
        remat: computes the weights of the pairs of tokens again for the gradient.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        qkv_bias: str,
        *,
        decomposed_grid: tuple[int, int] | None,
        proj_std: float,
        implementation: str = "xla",
        remat: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.qkv = nnx.Linear(
            width,
            3 * width,
            use_bias=qkv_bias == "qkv",
            kernel_init=normal(0.02),
            dtype=dtype,
            rngs=rngs,
        )
        if qkv_bias == "qv":
            self.q_bias = nnx.Param(jnp.zeros(width))
            self.v_bias = nnx.Param(jnp.zeros(width))
        self.rel_pos = (
            DecomposedRelativePosition(decomposed_grid, width // heads)
            if decomposed_grid is not None
            else None
        )
        self.proj = nnx.Linear(width, width, kernel_init=normal(proj_std), dtype=dtype, rngs=rngs)
        self.heads = heads
        self.qkv_bias = qkv_bias
        self.implementation = implementation
        self.remat = remat

    def __call__(
        self,
        x: Float[Array, "n tokens width"],
        bias: Float[Array, "heads tokens tokens"] | None = None,
    ) -> Float[Array, "n tokens width"]:
        q, k, v = self._queries_keys_values(x)
        function = jax.checkpoint(attend, static_argnums=5) if self.remat else attend
        y = function(q, k, v, bias, self.rel_pos, self.implementation)
        return self.proj(y.reshape(x.shape))

    def weights(
        self,
        x: Float[Array, "n tokens width"],
        bias: Float[Array, "heads tokens tokens"] | None = None,
    ) -> Float[Array, "n heads tokens tokens"]:
        """Of each token (third axis) the share of every token (last) in what it is given."""
        q, k, _ = self._queries_keys_values(x)
        return attention_weights(q, k, bias, self.rel_pos)

    def _queries_keys_values(self, x: Array) -> tuple[Array, Array, Array]:
        n, tokens, _ = x.shape
        qkv = self.qkv(x)
        if self.qkv_bias == "qv":
            q_bias, v_bias = self.q_bias[...], self.v_bias[...]
            qkv += jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias]).astype(qkv.dtype)
        q, k, v = jnp.moveaxis(qkv.reshape(n, tokens, 3, self.heads, -1), 2, 0)
        return q, k, v


class Mlp(nnx.Module):
    """Two linear layers with an activation between them.

    Args:
        activation: one of ACTIVATIONS, or "swiglu" (DINOv2's ViT-g): half of the first layer's
            outputs, through SiLU, weigh the other half; two thirds of `hidden`, in steps of 8.
    """

    def __init__(
        self, width: int, hidden: int, *, activation: str = "gelu", out_std: float, dtype, rngs
    ):
        is_gated = activation == "swiglu"
        if is_gated:
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        inner = 2 * hidden if is_gated else hidden
        self.fc1 = nnx.Linear(width, inner, kernel_init=normal(0.02), dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, width, kernel_init=normal(out_std), dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Array) -> Array:
        x = self.fc1(x)
        if self.activation == "swiglu":
            gate, x = jnp.split(x, 2, axis=-1)
            return self.fc2(jax.nn.silu(gate) * x)
        return self.fc2(ACTIVATIONS[self.activation](x))


class Block(nnx.Module):
    """A pre-norm transformer block on a map of tokens; `window=None` attends globally, and then
    the map's sides mean nothing.

    Args:
        depth_index: 1-based position; residual outputs start scaled by 1 / sqrt(2 depth_index), as
            BEiT's code initialises and arXiv 2111.11429 follows.
        window: side of the windows it attends within.
        decomposed_grid: see `Attention`.
        layer_scale: initial value of a learned factor on each residual branch, or None for none.
        attention: its implementation, see `attend`.
        remat_attention: see `Attention`.
        activation: see `Mlp`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        depth_index: int,
        window: int | None,
        decomposed_grid: tuple[int, int] | None,
        mlp_ratio: float,
        qkv_bias: str,
        drop_path: float,
        layer_scale: float | None,
        attention: str = "xla",
        remat_attention: bool = False,
        activation: str = "gelu",
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        std = 0.02 / np.sqrt(2 * depth_index)
        self.norm1 = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attn = Attention(
            width,
            heads,
            qkv_bias,
            decomposed_grid=decomposed_grid,
            proj_std=std,
            implementation=attention,
            remat=remat_attention,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm2 = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(
            width,
            int(width * mlp_ratio),
            activation=activation,
            out_std=std,
            dtype=dtype,
            rngs=rngs,
        )
        if layer_scale is not None:
            self.gamma1 = nnx.Param(jnp.full(width, layer_scale))
            self.gamma2 = nnx.Param(jnp.full(width, layer_scale))
        self.layer_scale = layer_scale
        self.window = window
        self.drop_path = drop_path

    def __call__(
        self, x: Float[Array, "n h w c"], bias: Array | None, keys: Array | None
    ) -> Float[Array, "n h w c"]:
        first, second = (None, None) if keys is None else jax.vmap(jax.random.split)(keys).T
        y = self._attend(self.norm1(x), bias)
        x = x + drop_path(self._scale(y, 1), self.drop_path, first)
        y = self.mlp(self.norm2(x))
        return x + drop_path(self._scale(y, 2), self.drop_path, second)

    def attention_weights(
        self, x: Float[Array, "n h w c"], bias: Array | None
    ) -> Float[Array, "windows heads tokens tokens"]:
        """`Attention.weights` in every window, in the order of `partition_windows`; the whole map
        is the only window of a global block."""
        return self.attn.weights(self._windows(self.norm1(x)), bias)

    def _attend(self, x: Array, bias: Array | None) -> Array:
        y = self.attn(self._windows(x), bias)
        if self.window is None:
            return y.reshape(x.shape)
        return merge_windows(y, self.window, x.shape[1:3])

    def _windows(self, x: Array) -> Array:
        if self.window is None:
            return x.reshape(x.shape[0], -1, x.shape[-1])
        return partition_windows(x, self.window)

    def _scale(self, y: Array, branch: int) -> Array:
        if self.layer_scale is None:
            return y
        gamma = self.gamma1 if branch == 1 else self.gamma2
        return y * gamma[...].astype(y.dtype)


def plain_blocks(
    width: int, depth: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.List[Block]:
    """Global blocks without drop path, as MAE's decoder has them."""
    return nnx.List(
        [
            Block(
                width,
                heads,
                depth_index=i + 1,
                window=None,
                decomposed_grid=None,
                mlp_ratio=4.0,
                qkv_bias="qkv",
                drop_path=0.0,
                layer_scale=None,
                dtype=dtype,
                rngs=rngs,
            )
            for i in range(depth)
        ]
    )


def patchify(images: Float[Array, "n h w 3"], patch: int) -> Float[Array, "n rows columns pixels"]:
    """Cuts images into patches, the pixels of each in row-major order, channels innermost."""
    n, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    x = images.reshape(n, rows, patch, columns, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)


def partition_windows(x: Float[Array, "n h w c"], window: int) -> Float[Array, "windows tokens c"]:
    """Cuts a map into square windows, zero-padding bottom and right to a multiple of `window`.

    The padding takes part in attention, as in Detectron2's ViTDet: its tokens are not masked.
    """
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(n, rows, window, columns, window, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n * rows * columns, window * window, c)


def merge_windows(
    windows: Float[Array, "windows tokens c"], window: int, grid: tuple[int, int]
) -> Float[Array, "n h w c"]:
    """Undoes `partition_windows`, cutting the padding off."""
    height, width = grid
    rows, columns = -(-height // window), -(-width // window)
    x = windows.reshape(-1, rows, columns, window, window, windows.shape[-1])
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows * window, columns * window, x.shape[-1])
    return x[:, :height, :width]


class ViT(nnx.Module):
    """Images to the token maps that a detector is made from.

    Args:
        width, depth, heads, mlp_ratio: size of the transformer.
        patch: side of a patch in pixels.
        canvas: side of the (square) image in pixels; fixes the global relative-bias table.
        pretrain_grid: side of the grid the absolute position embedding is stored at, but for
            "sincos", whose table is made for the canvas.
        window: side of an attention window in tokens.
        global_blocks: 0-based positions of the blocks that attend globally.
        taps: 0-based positions of the blocks whose output is returned, in ascending order.
        drop_path: rate of the last block; it rises linearly from 0 in the first.
        layer_scale: see `Block`.
        relative_position: "shared" for one table of biases for all windowed and one for all global
            blocks (2111.11429), "decomposed" for rows and columns apart in every block
            (2203.16527), or "none".
        attention: its implementation, see `attend`.
        remat: what of a block is not kept for the gradient but computed again: "none", "attention"
            for the weights of the pairs of tokens, or "block" for all but what goes into it.
        absolute_position: see `absolute_embedding`.
        activation: see `Mlp`.
        pre_norm: whether a norm comes before the first block, as in CLIP.
        class_token: whether a class token takes part in attention; all blocks must be global and
            without relative position.
        resize_offset: see `resize_embedding`.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        patch: int,
        image_size: int,
        pretrain_grid: int,
        window: int,
        global_blocks: Sequence[int],
        out_indices: Sequence[int],
        qkv_bias: str,
        drop_path: float,
        layer_scale: float | None,
        relative_position: str,
        attention: str = "xla",
        remat: str = "none",
        absolute_position: str = "random",
        activation: str = "gelu",
        pre_norm: bool = False,
        class_token: bool = False,
        resize_offset: float = 0.0,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        # BEiT's code leaves the patch projection at PyTorch's default.
        self.patch_embed = nnx.Linear(
            3 * patch * patch,
            width,
            kernel_init=torch_default,
            bias_init=torch_default_bias(3 * patch * patch),
            dtype=dtype,
            rngs=rngs,
        )
        grid = image_size // patch
        self.pos_embed = absolute_embedding(
            absolute_position,
            stored_grid=pretrain_grid,
            model_grid=grid,
            width=width,
            rngs=rngs,
        )
        self.class_token = nnx.Param(normal(0.02)(rngs.params(), (width,))) if class_token else None
        self.class_pos_embed = nnx.Param(jnp.zeros(width)) if class_token else None
        self.norm_pre = LayerNorm(width, dtype=dtype, rngs=rngs) if pre_norm else None
        rates = np.linspace(0.0, drop_path, depth)
        decomposed = relative_position == "decomposed"

        def block(i: int) -> Block:
            is_global = i in global_blocks
            side = grid if is_global else window
            return Block(
                width,
                heads,
                depth_index=i + 1,
                window=None if is_global else window,
                decomposed_grid=(side, side) if decomposed else None,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path=float(rates[i]),
                layer_scale=layer_scale,
                attention=attention,
                remat_attention=remat == "attention",
                activation=activation,
                dtype=dtype,
                rngs=rngs,
            )

        self.blocks = nnx.List([block(i) for i in range(depth)])
        shared = relative_position == "shared"
        any_windowed = len(set(global_blocks)) < depth
        self.rel_pos_window = (
            RelativePositionBias((window, window), heads) if shared and any_windowed else None
        )
        self.rel_pos_global = (
            RelativePositionBias((grid, grid), heads) if shared and global_blocks else None
        )
        self.patch = patch
        self.width = width
        self.out_indices = tuple(out_indices)
        self.resize_offset = resize_offset
        self.remat = remat
        self.dtype = dtype

    def __call__(
        self, images: Float[Array, "n s s 3"], keys: Array | None = None
    ) -> list[Float[Array, "n g g width"]]:
        """Token maps after each of the tapped blocks.

        Args:
            images: normalised pixels.
            keys: one an image, the randomness of drop path in training; None in evaluation.
        """
        x = self.embed(images)
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        window_bias = self.rel_pos_window() if self.rel_pos_window is not None else None
        global_bias = self.rel_pos_global() if self.rel_pos_global is not None else None
        call = jax.checkpoint(Block.__call__) if self.remat == "block" else Block.__call__
        maps = []
        for i, block in enumerate(self.blocks):
            block_keys = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            bias = global_bias if block.window is None else window_bias
            if bias is not None:
                # Here and not inside, where the float32 one would be kept; and in each block, so
                # that gradients are added up in float32.
                bias = bias.astype(self.dtype)
            x = call(block, x, bias, block_keys)
            if i in self.out_indices:
                maps.append(self._without_class_token(x, grid))
        return maps

    def attention_weights(
        self, images: Float[Array, "n s s 3"], index: int
    ) -> Float[Array, "windows heads tokens tokens"]:
        """See `Block.attention_weights`; of the block at a 0-based position, in evaluation."""
        x = self.embed(images)
        for i, block in enumerate(self.blocks):
            table = self.rel_pos_global if block.window is None else self.rel_pos_window
            bias = None if table is None else table().astype(self.dtype)
            if i == index:
                return block.attention_weights(x, bias)
            x = block(x, bias, None)
        raise IndexError(index)

    def embed(self, images: Float[Array, "n s s 3"]) -> Float[Array, "n h w width"]:
        """What goes into the first block: a map of tokens, or one row behind a class token."""
        x = self.patch_embed(patchify(images, self.patch))
        if self.pos_embed is not None:
            position = resize_embedding(self.pos_embed[...], x.shape[1:3], self.resize_offset)
            x += position.astype(self.dtype)
        x = self._with_class_token(x)
        return x if self.norm_pre is None else self.norm_pre(x)

    def _with_class_token(self, x: Float[Array, "n g g width"]) -> Float[Array, "n h w width"]:
        """The tokens in one row behind the class token, where there is one."""
        if self.class_token is None:
            return x
        n, _, _, width = x.shape
        token = (self.class_token[...] + self.class_pos_embed[...]).astype(x.dtype)
        token = jnp.broadcast_to(token, (n, 1, 1, width))
        return jnp.concatenate([token, x.reshape(n, 1, -1, width)], axis=2)

    def _without_class_token(self, x: Array, grid: tuple[int, int]) -> Array:
        """Undoes `_with_class_token`."""
        if self.class_token is None:
            return x
        return x[:, :, 1:].reshape(x.shape[0], *grid, x.shape[-1])
