"""Softmax attention by the implementation a config names or its devices want.

"xla" is the plain computation, which holds the weight of every pair of tokens in memory. "cudnn" is
the fused kernel of NVIDIA GPUs, and "pallas" our own for TPUs, which never do.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jaxdet.errors import UserError
from jaxdet.models.position import DecomposedRelativePosition
from jaxdet.models.settings import VitSettings, vit_settings
from jaxdet.ops.fused_attention import fused_attention

FEWEST_TOKENS = 512
"""Of an attention that "pallas" computes by its kernel: in fewer tokens' windows the weights are
small, and the kernel's blocks would be mostly padding."""


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
        implementation: "xla", "cudnn" or "pallas".
    """
    if implementation == "pallas" and query.shape[1] < FEWEST_TOKENS:
        implementation = "xla"
    if position is not None and implementation != "xla":
        return attend_with_position_channels(query, key, value, position, implementation)
    if implementation == "pallas":
        return fused_attention(query, key, value, bias, scale=query.shape[-1] ** -0.5)
    if position is not None:
        bias = position(query)
    elif bias is not None:
        bias = bias[None]
    return _attend_by_jax(query, key, value, bias, implementation=implementation)


def _attend_by_jax(
    query: Float[Array, "n tokens heads channels"],
    key: Float[Array, "n tokens heads channels"],
    value: Float[Array, "n tokens heads channels"],
    bias: Float[Array, "copies heads tokens tokens"] | None = None,
    *,
    scale: float | None = None,
    implementation: str,
) -> Float[Array, "n tokens heads channels"]:
    """JAX's attention, which trains by "cudnn" on even numbers of tokens only, bias or none.

    An odd one, without a bias, is given a token more there, which no other one sees.
    """
    tokens = query.shape[1]
    unseen = tokens % 2 if implementation == "cudnn" else 0

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, unseen), (0, 0), (0, 0)))

    seen = jnp.full(query.shape[0], tokens, jnp.int32) if unseen else None
    y = jax.nn.dot_product_attention(
        padded(query),
        padded(key),
        padded(value),
        bias,
        scale=scale,
        key_value_seq_lengths=seen,
        implementation=implementation,
    )
    return y[:, :tokens]


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
    if implementation == "pallas":
        return fused_attention(query, key, value, None, scale=1.0)
    width = position_channels(position.grid, channels)

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))

    y = _attend_by_jax(
        padded(query), padded(key), padded(value), scale=1.0, implementation=implementation
    )
    return y[..., :channels]


def position_channels(grid: tuple[int, int], channels: int) -> int:
    """Channels a head of `attend_with_position_channels`: a multiple of 8, as cuDNN wants."""
    return -(-(channels + sum(grid)) // 8) * 8


class Choice(NamedTuple):
    """An implementation of attention.

    Attributes:
        name: see `attend`.
        reason: why it is not cuDNN's on an NVIDIA GPU, where "auto" would have it; None if it is.
    """

    name: str
    reason: str | None = None

    def __str__(self) -> str:
        return f"attention by {self.name}" + (f": {self.reason}" if self.reason else "")


def choose_for(config: ConfigDict, mesh: Mesh | None = None) -> Choice:
    """The implementation for a config's ViT at the largest size of image that it sees.

    Args:
        mesh: see `choose`.

    Raises:
        UserError: see `choose`.
    """
    largest = max(config.image_size, *config.model.detector.tta_sizes, 0)
    settings = replace(vit_settings(config), image_size=largest)
    return choose(settings, config.model.dtype, mesh)


def choose(settings: VitSettings, dtype: DTypeLike, mesh: Mesh | None = None) -> Choice:
    """The implementation for a ViT on some devices: what it asks for, or for "auto" the best.

    Args:
        dtype: compute dtype; the fused kernels are for bfloat16.
        mesh: the devices, which need not be at hand; None for those at hand.

    Raises:
        UserError: the ViT asks for cuDNN's, which cannot train it there.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    if settings.attention == "cudnn":
        require_cudnn(settings, dtype, device)
    if settings.attention != "auto":
        return Choice(settings.attention)
    if device.platform == "tpu" and jnp.dtype(dtype) == jnp.bfloat16:
        return Choice("pallas")
    if not _is_nvidia(device):
        return Choice("xla")
    refusal = _refusal(settings, dtype, device)
    return Choice("cudnn") if refusal is None else Choice("xla", f"cuDNN's {refusal.rule}")


def require_cudnn(settings: VitSettings, dtype: DTypeLike, device: Any) -> None:
    """Raises UserError unless cuDNN's attention can train this ViT on such devices.

    The limits are those of `jax.nn.dot_product_attention`.

    Args:
        dtype: compute dtype.
        device: a `jax.Device`, one of those that compute, which need not be at hand.
    """
    refusal = _refusal(settings, dtype, device)
    if refusal is not None:
        raise UserError(
            f"config.model.vit.attention='cudnn' {refusal.rule}: {refusal.fix}, or use "
            "config.model.vit.attention='auto'"
        )


class _Refusal(NamedTuple):
    """What cuDNN's attention needs and does not have, and how it would."""

    rule: str
    fix: str


def _refusal(settings: VitSettings, dtype: DTypeLike, device: Any) -> _Refusal | None:
    if not _is_nvidia(device):
        rule = f"needs an NVIDIA GPU, and jax runs on {device.platform}"
        return _Refusal(rule, "install jax for CUDA")
    if jnp.dtype(dtype) != jnp.bfloat16:
        return _Refusal(f"needs config.model.dtype='bfloat16', not '{jnp.dtype(dtype)}'", "set it")
    # Of a device that is not at hand, JAX believes no more.
    is_hopper = float(device.compute_capability) >= 9.0 and device in jax.devices()
    most, position = 256 if is_hopper else 128, settings.relative_position
    attended = {
        (settings.attended_side(block), settings.attended_prefix(block))
        for block in range(settings.depth)
    }
    for side, prefix in sorted(attended):
        channels, tokens = settings.width // settings.heads, f"{side} x {side} tokens"
        if position == "decomposed":
            channels = position_channels((side, side), channels)
        if channels > most or channels % 8:
            return _Refusal(
                f"needs channels per head that are a multiple of 8 and at most {most} on "
                f"{device.device_kind}; attention within {tokens} with "
                f"config.model.vit.relative_position={position!r} has {channels}",
                "change config.model.vit.width or heads",
            )
        if position == "shared" and (side * side + prefix) % 2:
            return _Refusal(
                "with config.model.vit.relative_position='shared' needs an even number of tokens "
                f"in each attention, and a block attends within {tokens}",
                "change config.model.vit.window or image_size",
            )
    return None


def _is_nvidia(device: Any) -> bool:
    """AMD's GPUs have a capability such as "gfx942"."""
    return device.platform == "gpu" and bool(re.fullmatch(r"[\d.]+", device.compute_capability))
