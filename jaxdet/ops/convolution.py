"""Convolutions of stride 1, with gradients that are quick on CPUs too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LARGE = 2**23
"""Multiplications from which on the gradient is worth the compilation of several products."""


@jax.custom_vjp
def convolve(
    x: Float[Array, "n h w inputs"], kernel: Float[Array, "side side inputs outputs"]
) -> Float[Array, "n h w outputs"]:
    """A convolution of an odd side that keeps the map's size.

    On CPUs the gradients of large ones are sums of matrix products, one for each of the kernel's
    cells: for 3 x 3 and 256 channels on 160 x 160 cells a fifth of the time that XLA's own
    convolutions take there.
    """
    return _convolve(x, kernel)


def _convolve(x: Array, kernel: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    if kernel.size * x[..., 0].size < LARGE:
        return gradients_by_convolution(x, kernel, gradient)
    return jax.lax.platform_dependent(
        x, kernel, gradient, default=gradients_by_convolution, cpu=gradients_by_products
    )


convolve.defvjp(_forward, _backward)


def gradients_by_convolution(
    x: Float[Array, "n h w inputs"],
    kernel: Float[Array, "side side inputs outputs"],
    gradient: Float[Array, "n h w outputs"],
) -> tuple[Float[Array, "n h w inputs"], Float[Array, "side side inputs outputs"]]:
    """The gradients of input and kernel as XLA has them."""
    return jax.vjp(_convolve, x, kernel)[1](gradient)


def gradients_by_products(
    x: Float[Array, "n h w inputs"],
    kernel: Float[Array, "side side inputs outputs"],
    gradient: Float[Array, "n h w outputs"],
) -> tuple[Float[Array, "n h w inputs"], Float[Array, "side side inputs outputs"]]:
    """The same as matrix products of shifted maps, summed in float32."""
    side, height, width = kernel.shape[0], *x.shape[1:3]

    def shifted(maps: Array) -> list[Array]:
        """As each cell of the kernel, in its order, sees the maps: [n * h * w, channels]."""
        margin = (side // 2, side // 2)
        padded = jnp.pad(maps, ((0, 0), margin, margin, (0, 0)))
        return [
            padded[:, i : i + height, j : j + width].reshape(-1, maps.shape[-1])
            for i in range(side)
            for j in range(side)
        ]

    def product(a: Array, b: Array) -> Array:
        return jnp.matmul(a, b, preferred_element_type=jnp.float32)

    flipped = kernel[::-1, ::-1].swapaxes(2, 3).reshape(-1, *kernel.shape[:1:-1])
    of_x = sum(product(g, cell) for g, cell in zip(shifted(gradient), flipped, strict=True))
    rows = gradient.reshape(-1, gradient.shape[-1])
    of_kernel = jnp.stack([product(seen.T, rows) for seen in shifted(x)])
    return (
        of_x.reshape(x.shape).astype(x.dtype),
        of_kernel.reshape(kernel.shape).astype(kernel.dtype),
    )
