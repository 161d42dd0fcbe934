"""The measure of what a gradient keeps, on functions whose answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tests.models.residuals import residual_bytes


def test_a_gradient_keeps_what_its_products_need():
    def loss(x):
        return jnp.square((x * 3.0) @ x.astype(jnp.float32)).sum()

    def rematerialised(x):
        return jax.checkpoint(loss)(x)

    x = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    # One factor is made from x and kept, the other is x itself; the square keeps its root.
    assert residual_bytes(loss, x) == 2 * 4 * 32**2
    assert residual_bytes(rematerialised, x) == 0
