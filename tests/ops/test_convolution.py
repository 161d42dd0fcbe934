from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops import convolution


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_both_forms_of_the_gradients_agree(side, dtype):
    random = np.random.default_rng(0)
    shapes = ((2, 5, 7, 3), (side, side, 3, 4), (2, 5, 7, 4))
    arrays = [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]
    found = jax.jit(convolution.gradients_by_products)(*arrays)
    exact = [a.astype(jnp.float32) for a in arrays]
    expected = jax.jit(convolution.gradients_by_convolution)(*exact)
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-7
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 1), ("cuda", 3)])
def test_large_gradients_are_products_on_cpus(platform, convolutions):
    x = jax.ShapeDtypeStruct((1, 32, 32, 32), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 32, 32), jnp.float32)

    def both(x, kernel):
        y, pull_back = jax.vjp(convolution.convolve, x, kernel)
        return y, pull_back(y)

    lowered = jax.jit(both).trace(x, kernel).lower(lowering_platforms=(platform,))
    assert lowered.as_text().count("stablehlo.convolution") == convolutions
