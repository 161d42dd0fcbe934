"""Softmax attention by the implementation a config names, and what cuDNN's needs.

"xla" is the plain computation, which holds the weight of every pair of tokens in memory. "cudnn" is
the fused kernel of NVIDIA GPUs, which never does.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdet.errors import UserError
from jaxdet.models.position import DecomposedRelativePosition
from jaxdet.models.settings import VitSettings


@jax.named_scope("attention")
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
        bias: added to the logit of each (query, key) pair, the same for all sequences.
        position: computes the bias instead where it depends on the queries.
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
    """The weights of `attend`, to look at: each query's (third axis) of every key (last axis).

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
    settings: VitSettings, dtype: DTypeLike, device: jax.Device | None = None
) -> None:
    """Raises UserError unless cuDNN's attention can train this ViT on such devices.

    The limits are those of `jax.nn.dot_product_attention`.

    Args:
        dtype: compute dtype.
        device: one of those that compute, which need not be there; None is the first at hand.
    """
    key, fix = "config.model.vit.attention='cudnn'", "or use config.model.vit.attention='xla'"
    device = device or jax.devices()[0]
    if device.platform != "gpu" or not device.device_kind.startswith("NVIDIA"):
        raise UserError(
            f"{key} needs an NVIDIA GPU, and jax runs on {device.platform}: install jax for CUDA, "
            f"{fix}"
        )
    if jnp.dtype(dtype) != jnp.bfloat16:
        raise UserError(
            f"{key} needs config.model.dtype='bfloat16', not '{jnp.dtype(dtype)}': set it, {fix}"
        )
    most = 256 if float(device.compute_capability) >= 9.0 else 128
    position = settings.relative_position
    for side in sorted({settings.attended_side(block) for block in range(settings.depth)}):
        channels, tokens = settings.width // settings.heads, f"{side} x {side} tokens"
        if position == "decomposed":
            channels = position_channels((side, side), channels)
        if channels > most or channels % 8:
            raise UserError(
                f"{key} needs channels per head that are a multiple of 8 and at most {most} on "
                f"{device.device_kind}; attention within {tokens} with "
                f"config.model.vit.relative_position={position!r} has {channels}: change "
                f"config.model.vit.width or heads, {fix}"
            )
        if position == "shared" and side % 2:
            raise UserError(
                f"{key} with config.model.vit.relative_position='shared' needs an even number of "
                f"tokens in each attention, and a block attends within {tokens}: change "
                f"config.model.vit.window or image_size, {fix}"
            )
