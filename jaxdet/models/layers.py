"""Layers that several modules share and that Flax does not have in this form.

All arrays are NHWC. Parameters are float32; `dtype` is the compute dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdet.models.batching import sum_over_devices
from jaxdet.ops.convolution import convolve


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x times the normal distribution's share below x, not approximated.

    Its gradient is computed from `x` anew, in float32: kept intermediate values are a quarter of
    what a block of a ViT keeps, and reading them takes longer than computing them again.
    """
    return jax.nn.gelu(x, approximate=False)


def _gelu_gradient(x: Float[Array, "..."], dy: Float[Array, "..."]) -> tuple[Array]:
    value = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(value)) / np.sqrt(2 * np.pi)
    slope = 0.5 * jax.lax.erfc(-value / np.sqrt(2)) + value * density
    return ((dy.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)


def scale_gradient(x: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """`x`, whose gradient is multiplied with a factor."""
    return x if factor == 1.0 else _scale_gradient(factor, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scale_gradient(factor: float, x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x


_scale_gradient.defvjp(lambda factor, x: (x, None), lambda factor, _, dy: (factor * dy,))

c2_xavier = jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
"""Detectron2's `c2_xavier_fill` (uniform with limit sqrt(3 / fan_in))."""

normal = jax.nn.initializers.normal
"""Not truncated (nor in effect is PyTorch's trunc_normal_)."""

c2_msra = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Detectron2's `c2_msra_fill`: normal, variance 2 / fan_out, for [kh, kw, in, out] kernels."""

torch_default = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's default for convolutions and linear layers."""


def torch_default_bias(fan_in: int) -> jax.nn.initializers.Initializer:
    """PyTorch's default for the biases of convolutions and linear layers."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) / jnp.sqrt(fan_in)

    return init


LayerNorm = partial(nnx.LayerNorm, epsilon=1e-6, use_fast_variance=False)
RMSNorm = partial(nnx.RMSNorm, epsilon=1e-6)
GroupNorm = partial(nnx.GroupNorm, epsilon=1e-5, use_fast_variance=False)


class BatchNorm(nnx.Module):
    """Batch normalisation whose statistics count valid entries only.

    The statistics run over the whole batch, so that one split over devices is normalised like one
    that is not (SyncBN). They are float32, take two passes, and the running variance is the
    unbiased one, as PyTorch's. With no valid entry at all the running statistics stay as they are.
    """

    def __init__(self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum = momentum
        self.epsilon = epsilon

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        *,
        train: bool,
        valid: Bool[Array, " n"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """Normalises `x`; in training by its own statistics, which also move the running ones."""
        if train:
            mean, var = self._batch_statistics(x, valid)
        else:
            mean, var = self.mean[...], self.var[...]
        factor = jax.lax.rsqrt(var + self.epsilon) * self.scale[...]
        offset = self.bias[...] - mean * factor
        return (x.astype(jnp.float32) * factor + offset).astype(x.dtype)

    def _batch_statistics(
        self, x: Float[Array, "n h w c"], valid: Bool[Array, " n"] | None
    ) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        x = x.astype(jnp.float32)
        weight = jnp.ones(x.shape[0]) if valid is None else valid.astype(jnp.float32)
        count = weight.sum() * (x.shape[1] * x.shape[2])
        weight = weight[:, None, None, None]
        count, total = sum_over_devices((count, (x * weight).sum((0, 1, 2))))
        divisor = jnp.maximum(count, 1.0)
        mean = total / divisor
        var = sum_over_devices((jnp.square(x - mean) * weight).sum((0, 1, 2))) / divisor

        unbiased = var * divisor / jnp.maximum(count - 1.0, 1.0)
        keep = jnp.where(count > 0, self.momentum, 1.0)
        for running, batch in ((self.mean, mean), (self.var, unbiased)):
            # Not by `running[...] =`, which asks tracers for their shardings: slow, see `build`.
            running.set_value(keep * running[...] + (1.0 - keep) * jax.lax.stop_gradient(batch))
        return mean, var


class ConvNorm(nnx.Module):
    """A convolution, then batch, layer or no normalisation, then ReLU if asked for.

    Args:
        norm: "batch", "layer" for a LayerNorm over the channels of each pixel, or "none". The
            convolution has a bias in the last case alone.
        epsilon: of the LayerNorm.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        norm: str,
        activation: bool,
        kernel_init: jax.nn.initializers.Initializer,
        epsilon: float = 1e-6,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = conv(
            inputs,
            outputs,
            kernel,
            use_bias=norm == "none",
            kernel_init=kernel_init,
            dtype=dtype,
            rngs=rngs,
        )
        if norm == "batch":
            self.norm = BatchNorm(outputs)
        elif norm == "layer":
            self.norm = LayerNorm(outputs, epsilon=epsilon, dtype=dtype, rngs=rngs)
        else:
            self.norm = None
        self.activation = activation

    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool, valid: Bool[Array, " n"] | None = None
    ) -> Float[Array, "n h w o"]:
        return self.normalise(self.conv(x), train=train, valid=valid)

    def normalise(
        self, x: Float[Array, "n h w o"], *, train: bool, valid: Bool[Array, " n"] | None = None
    ) -> Float[Array, "n h w o"]:
        """What follows the convolution."""
        if isinstance(self.norm, BatchNorm):
            x = self.norm(x, train=train, valid=valid)
        elif self.norm is not None:
            x = self.norm(x)
        return jax.nn.relu(x) if self.activation else x


def head_convs(
    inputs: int, width: int, count: int, *, norm: str, dtype: DTypeLike, rngs: nnx.Rngs
) -> Sequence[ConvNorm]:
    """The hidden 3 x 3 convolutions of a RoI head, initialised as Detectron2 does."""
    options = {"norm": norm, "activation": True, "kernel_init": c2_msra}
    options |= {"dtype": dtype, "rngs": rngs}
    return nnx.List([ConvNorm(width if i else inputs, width, 3, **options) for i in range(count)])


def conv(inputs: int, outputs: int, kernel: int, **options) -> nnx.Conv:
    """A square convolution of stride 1 that keeps the map's size."""
    options["conv_general_dilated"] = _convolve
    return nnx.Conv(inputs, outputs, (kernel, kernel), padding=kernel // 2, **options)


def _convolve(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """`convolve` as nnx.Conv calls it, with strides, padding and more that `conv` leaves alone."""
    return convolve(x, kernel)


class Upsample2x(nnx.Module):
    """Transposed convolution, kernel 2 x 2, stride 2: every input pixel becomes four.

    The windows do not overlap, so it is one matrix product and a rearrangement. The kernel is
    [in, 2, 2, out] with the two rows and columns in image order.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel_init: jax.nn.initializers.Initializer,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (2, 2, inputs, outputs)).transpose(2, 0, 1, 3)
        )
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w o"]:
        n, h, w, c = x.shape
        kernel = self.kernel[...].astype(self.dtype).reshape(c, -1)
        y = (x.astype(self.dtype) @ kernel).reshape(n, h, w, 2, 2, -1)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, -1)
        return y + self.bias[...].astype(self.dtype)


def kept_branches(
    keys: Key[Array, " n"], rates: Sequence[float]
) -> Bool[Array, "blocks branches n"]:
    """Which images keep which of a block's two residual branches, drawn at once for all blocks.

    Args:
        keys: one an image.
        rates: the probability of dropping a branch, one a block.
    """

    def of_block(key: Key[Array, ""], block: Int[Array, ""]) -> Float[Array, " branches"]:
        branches = jax.random.split(jax.random.fold_in(key, block))
        return jax.vmap(jax.random.uniform)(branches)

    blocks = jnp.arange(len(rates))
    drawn = jax.vmap(jax.vmap(of_block, (0, None), 1), (None, 0))(keys, blocks)
    return drawn < (1.0 - np.asarray(rates, np.float64)).astype(np.float32)[:, None, None]


def drop_path(
    x: Float[Array, "n *rest"], rate: float, kept: Bool[Array, " n"] | None
) -> Float[Array, "n *rest"]:
    """Stochastic depth: a residual branch that images keep with probability 1 - `rate`.

    Args:
        kept: which images keep it; None means evaluation, where nothing is dropped.
    """
    if kept is None or rate == 0.0:
        return x
    kept = kept.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1.0 - rate), 0.0).astype(x.dtype)
