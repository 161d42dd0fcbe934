"""A residual block of convolutions behind a transformer block, which lets windows exchange what
they know without global attention (arXiv 2203.16527 section 3, "convolutional propagation")."""

from __future__ import annotations

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdet.models.layers import LayerNorm, c2_msra, conv, gelu

KERNELS = {"naive": (3,), "basic": (3, 3), "bottleneck": (1, 3, 1)}
"""Sides of the convolutions' kernels; a bottleneck's inner ones have half the channels."""


class ConvResidual(nnx.Module):
    """Convolutions with LayerNorm, GELU between them; the last norm's scale starts at zero, so that
    at first the block changes nothing.

    Detectron2's ResBottleneckBlock; only this kind is published as code.
    """

    def __init__(self, kind: str, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        kernels = KERNELS[kind]
        inner = width // 2 if kind == "bottleneck" else width
        widths = (width, *[inner] * (len(kernels) - 1), width)
        part = {"dtype": dtype, "rngs": rngs}
        self.convs = nnx.List(
            [
                conv(widths[i], widths[i + 1], kernel, use_bias=False, kernel_init=c2_msra, **part)
                for i, kernel in enumerate(kernels)
            ]
        )
        scales = [nnx.initializers.ones] * (len(kernels) - 1) + [nnx.initializers.zeros]
        self.norms = nnx.List(
            [LayerNorm(widths[i + 1], scale_init=scale, **part) for i, scale in enumerate(scales)]
        )

    def __call__(self, x: Float[Array, "n h w width"]) -> Float[Array, "n h w width"]:
        y = x
        for i, (convolution, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(convolution(gelu(y) if i else y))
        return x + y
