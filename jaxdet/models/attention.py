"""Softmax attention by the implementation a config names, and what cuDNN's demands of it.

"xla" is the plain computation, which holds the weight of every pair of tokens in memory. "cudnn" is
the fused kernel of NVIDIA GPUs, which never does.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdet.errors import UserError
from jaxdet.models.position import DecomposedRelativePosition


def attend(
    query: Float[Array, "n tokens heads channels"],
    key: Float[Array, "n tokens heads channels"],
    value: Float[Array, "n tokens heads channels"],
    bias: Float[Array, "heads tokens tokens"] | None,
    position: DecomposedRelativePosition | None,
    implementation: str,
) -> Float[Array, "n tokens heads channels"]:
    """softmax(query key / sqrt(channels) + bias) value, per head.

    Args:
        bias: of every pair of tokens, the same for all sequences; None for none.
        position: where the bias comes from instead, if it depends on the queries.
        implementation: "xla" or "cudnn".
    """
    if position is None:
        bias = None if bias is None else bias[None]
    elif implementation == "cudnn":
        return attend_with_position_channels(query, key, value, position, implementation)
    else:
        bias = position(query)
    return jax.nn.dot_product_attention(query, key, value, bias, implementation=implementation)


def attention_weights(
    query: Float[Array, "n tokens heads channels"],
    key: Float[Array, "n tokens heads channels"],
    bias: Float[Array, "heads tokens tokens"] | None,
    position: DecomposedRelativePosition | None,
) -> Float[Array, "n heads tokens tokens"]:
    """What `attend` weighs the values with, to look at: of each query the share of every key.

    Args:
        bias, position: as `attend` takes them.
    """
    logits = jnp.einsum("nqhc,nkhc->nhqk", query, key, preferred_element_type=jnp.float32)
    logits /= np.sqrt(query.shape[-1])
    if position is not None:
        bias = position(query)
    return jax.nn.softmax(logits if bias is None else logits + bias)


def attend_with_position_channels(
    query: Float[Array, "n tokens heads channels"],
    key: Float[Array, "n tokens heads channels"],
    value: Float[Array, "n tokens heads channels"],
    position: DecomposedRelativePosition,
    implementation: str,
) -> Float[Array, "n tokens heads channels"]:
    """`attend` with a decomposed relative position that is part of the queries and keys.

    A fused kernel would have to be given the bias, and give its gradient back, for every sequence,
    head and pair of tokens. XLA fuses the addition into the softmax, and this form only costs it
    more multiply-adds (benchmarks/attention.md).
    """
    channels = value.shape[-1]
    query, key = position.extend(query, key)
    width = position_channels(position.grid, channels)

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))

    y = jax.nn.dot_product_attention(
        padded(query), padded(key), padded(value), scale=1.0, implementation=implementation
    )
    return y[..., :channels]


def position_channels(grid: tuple[int, int], channels: int) -> int:
    """Channels a head of `attend_with_position_channels`: a multiple of 8, as cuDNN wants."""
    return -(-(channels + sum(grid)) // 8) * 8


def require_cudnn(
    channels: int, relative_position: str, sides: Iterable[int], dtype: DTypeLike
) -> None:
    """Raises UserError unless cuDNN's attention can train here.

    The limits are those of `jax.nn.dot_product_attention`.

    Args:
        channels: of a head.
        relative_position: see `jaxdet.models.vit.ViT`.
        sides: of the square maps of tokens that are attended within.
        dtype: compute dtype.
    """
    word, device = "config.model.vit.attention='cudnn'", jax.devices()[0]
    if "cuda" not in device.client.platform_version:
        raise UserError(
            f"{word} needs an NVIDIA GPU and jax runs on {device.platform} here; use 'xla'"
        )
    if jnp.dtype(dtype) != jnp.bfloat16:
        raise UserError(f"{word} needs config.model.dtype='bfloat16', not '{jnp.dtype(dtype)}'")
    most = 256 if float(device.compute_capability) >= 9.0 else 128
    for side in sides:
        width = channels
        if relative_position == "decomposed":
            width = position_channels((side, side), channels)
        if width > most or width % 8:
            raise UserError(
                f"{word} takes a multiple of 8 channels a head up to {most} on this "
                f"{device.device_kind}, and attention within {side} x {side} tokens with "
                f"config.model.vit.relative_position={relative_position!r} has {width}; use 'xla'"
            )
        if relative_position == "shared" and side % 2:
            raise UserError(
                f"{word} gives the gradient of a bias for even numbers of tokens alone, and this "
                f"config attends within {side} x {side}; use 'xla'"
            )
