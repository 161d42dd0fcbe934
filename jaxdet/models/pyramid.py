"""From the transformer's single-scale maps to the feature pyramid P2 ... P6, or to one map."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdet.models.batching import in_microbatches
from jaxdet.models.layers import (
    BatchNorm,
    ConvNorm,
    GroupNorm,
    LayerNorm,
    Upsample2x,
    c2_xavier,
    gelu,
    torch_default,
)

lecun = jax.nn.initializers.lecun_normal()

transposed_default = jax.nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
"""PyTorch's default for transposed convolutions, whose outputs it counts as their fan-in."""


class FeatureScaling(nnx.Module):
    """Brings four maps of one scale to strides 1/4, 1/2, 1 and 2 times the patch.

    The modules of XCiT as arXiv 2111.11429 uses them: two transposed convolutions with GroupNorm
    and GELU between; one transposed convolution; nothing; 2 x 2 max-pooling.
    """

    def __init__(self, width: int, *, groups: int, dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"kernel_init": lecun, "dtype": dtype, "rngs": rngs}
        self.up4_first = Upsample2x(width, width, **options)
        self.up4_norm = GroupNorm(width, num_groups=groups, dtype=dtype, rngs=rngs)
        self.up4_second = Upsample2x(width, width, **options)
        self.up2 = Upsample2x(width, width, **options)

    def __call__(self, maps: Sequence[Float[Array, "n h w width"]]) -> list[Array]:
        first, second, third, fourth = maps
        finest = self.up4_second(gelu(self.up4_norm(self.up4_first(first))))
        return [finest, self.up2(second), third, nnx.max_pool(fourth, (2, 2), strides=(2, 2))]


class FPN(nnx.Module):
    """Feature pyramid with a norm after every convolution, and P6 as P5 subsampled.

    Detectron2's FPN with `norm="SyncBN"` and LastLevelMaxPool, on `FeatureScaling`'s four maps.

    Args:
        norm: "batch", or "layer" for ViTDet's.
        from_last: whether all four scales are made from the last map (arXiv 2203.16527, Figure 2b).
    """

    def __init__(
        self,
        width: int,
        channels: int,
        *,
        groups: int,
        norm: str,
        from_last: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"norm": norm, "activation": False, "kernel_init": c2_xavier}
        options |= {"dtype": dtype, "rngs": rngs}
        self.from_last = from_last
        self.scaling = FeatureScaling(width, groups=groups, dtype=dtype, rngs=rngs)
        self.lateral = nnx.List([ConvNorm(width, channels, 1, **options) for _ in range(4)])
        self.output = nnx.List([ConvNorm(channels, channels, 3, **options) for _ in range(4)])

    def project(
        self, maps: Sequence[Float[Array, "n h w width"]]
    ) -> list[Float[Array, "n _ _ channels"]]:
        """The scaled maps after the lateral convolutions: all that treats images independently."""
        maps = self.scaling([maps[-1]] * 4 if self.from_last else maps)
        return [lateral.conv(x) for lateral, x in zip(self.lateral, maps, strict=True)]

    def merge(
        self,
        projected: Sequence[Float[Array, "n _ _ channels"]],
        *,
        train: bool,
        microbatches: int = 1,
    ) -> list[Float[Array, "n _ _ channels"]]:
        """P2 ... P6, strides 1/4, 1/2, 1, 2 and 4 times the patch.

        There may be batch norms throughout: none of it is computed in microbatches.
        """
        merged = [
            lateral.normalise(x, train=train)
            for lateral, x in zip(self.lateral, projected, strict=True)
        ]
        for level in (2, 1, 0):
            merged[level] = merged[level] + upsample_nearest(merged[level + 1])
        pyramid = [output(x, train=train) for output, x in zip(self.output, merged, strict=True)]
        return [*pyramid, pyramid[-1][:, ::2, ::2]]


class SimplePyramid(nnx.Module):
    """P2 ... P6 from the last map alone, without a top-down path (arXiv 2203.16527).

    Strides 1/4 and 1/2 by transposed convolutions, 2 by max-pooling; then on each level a 1 x 1 and
    a 3 x 3 convolution with LayerNorm; P6 is P5 subsampled.
    """

    def __init__(self, width: int, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        up = {"kernel_init": transposed_default, "dtype": dtype, "rngs": rngs}
        self.up4_first = Upsample2x(width, width // 2, **up)
        self.up4_norm = LayerNorm(width // 2, dtype=dtype, rngs=rngs)
        self.up4_second = Upsample2x(width // 2, width // 4, **up)
        self.up2 = Upsample2x(width, width // 2, **up)
        options = {**up, "norm": "layer", "activation": False, "kernel_init": torch_default}
        widths = (width // 4, width // 2, width, width)
        self.lateral = nnx.List([ConvNorm(inputs, channels, 1, **options) for inputs in widths])
        self.output = nnx.List([ConvNorm(channels, channels, 3, **options) for _ in widths])

    def project(
        self, maps: Sequence[Float[Array, "n h w width"]]
    ) -> list[Float[Array, "n _ _ channels"]]:
        """P2 ... P6, strides 1/4, 1/2, 1, 2 and 4 times the patch; only the last map is used."""
        last = maps[-1]
        finest = self.up4_second(gelu(self.up4_norm(self.up4_first(last))))
        maps = [finest, self.up2(last), last, nnx.max_pool(last, (2, 2), strides=(2, 2))]
        pyramid = [
            output(lateral(x, train=False), train=False)
            for lateral, output, x in zip(self.lateral, self.output, maps, strict=True)
        ]
        return [*pyramid, pyramid[-1][:, ::2, ::2]]

    def merge(self, projected: list[Array], *, train: bool, microbatches: int = 1) -> list[Array]:
        """The same maps: nothing here depends on other images or on training."""
        return projected


class SingleScale(nnx.Module):
    """No pyramid: the last map alone, at the stride of the patch (arXiv 2111.11429, Table 2).

    The paper does not say what lies between the map and the heads. Here it is what the FPN has on
    each level, a 1 x 1 and a 3 x 3 convolution with a norm, so that the heads stay the same.

    Args:
        norm: "batch", or "layer" for ViTDet's.
    """

    def __init__(self, width: int, channels: int, *, norm: str, dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"norm": norm, "activation": False, "kernel_init": c2_xavier}
        options |= {"dtype": dtype, "rngs": rngs}
        self.lateral = ConvNorm(width, channels, 1, **options)
        self.output = ConvNorm(channels, channels, 3, **options)

    def project(
        self, maps: Sequence[Float[Array, "n h w width"]]
    ) -> list[Float[Array, "n h w channels"]]:
        """The map after the first convolution: all that treats images independently."""
        return [self.lateral.conv(maps[-1])]

    def merge(
        self,
        projected: Sequence[Float[Array, "n h w channels"]],
        *,
        train: bool,
        microbatches: int = 1,
    ) -> list[Float[Array, "n h w channels"]]:
        """The only level. There may be batch norms throughout, so microbatches change nothing."""
        (x,) = projected
        return [self.output(self.lateral.normalise(x, train=train), train=train)]


class ImTEDPyramid(nnx.Module):
    """P2 ... P6 from one map, without a top-down path, as imTED's code makes them.

    `SimplePyramid` with full width up to the 1 x 1 convolutions, a batch norm between the two
    transposed ones, and LayerNorms of epsilon 1e-5. It takes the first map: the published ViT-L
    configs make the pyramid from the middle of the transformer (block 11 of 0 ... 23).
    """

    def __init__(self, width: int, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        up = {"kernel_init": transposed_default, "dtype": dtype, "rngs": rngs}
        self.up4_first = Upsample2x(width, width, **up)
        self.up4_norm = BatchNorm(width)
        self.up4_second = Upsample2x(width, width, **up)
        self.up2 = Upsample2x(width, width, **up)
        options = {"norm": "layer", "epsilon": 1e-5, "activation": False}
        options |= {"kernel_init": jax.nn.initializers.glorot_uniform()}
        options |= {"dtype": dtype, "rngs": rngs}
        self.lateral = nnx.List([ConvNorm(width, channels, 1, **options) for _ in range(4)])
        self.output = nnx.List([ConvNorm(channels, channels, 3, **options) for _ in range(4)])

    def project(self, maps: Sequence[Float[Array, "n h w width"]]) -> list[Float[Array, "n _ _ _"]]:
        """The finest level up to its batch norm, and P3 ... P5 complete."""
        x = maps[0]
        maps = [self.up2(x), x, nnx.max_pool(x, (2, 2), strides=(2, 2))]
        return [
            self.up4_first(x),
            *(self._neck(level, m) for level, m in enumerate(maps, start=1)),
        ]

    def merge(
        self, projected: Sequence[Float[Array, "n _ _ _"]], *, train: bool, microbatches: int = 1
    ) -> list[Float[Array, "n _ _ channels"]]:
        """P2 ... P6, strides 1/4, 1/2, 1, 2 and 4 times the patch.

        Args:
            microbatches: what follows the batch norm, at the largest map of all, is computed in so
                many, see `in_microbatches`.
        """
        first, *coarser = projected
        first = self.up4_norm(first, train=train)
        finest = in_microbatches(
            lambda x: self._neck(0, self.up4_second(gelu(x))), microbatches, first
        )
        return [finest, *coarser, coarser[-1][:, ::2, ::2]]

    def _neck(self, level: int, x: Array) -> Array:
        return self.output[level](self.lateral[level](x, train=False), train=False)


def upsample_nearest(x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w c"]:
    """Doubles a map's sides by repeating every pixel."""
    n, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
    return x.reshape(n, 2 * h, 2 * w, c)
