"""The TPU's kernel, simulated, against the plain computation; a test per device compiles it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.fused_attention import BLOCKS, block_side, fused_attention


def test_outputs_and_gradients_are_those_of_the_plain_computation():
    """Two blocks of which one is mostly padding, and a bias whose gradient is a sum over three
    sequences."""
    rng, n, tokens, heads, channels, values = np.random.default_rng(0), 3, 150, 2, 24, 16

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    inputs = {
        "query": draw(n, tokens, heads, channels),
        "key": draw(n, tokens, heads, channels),
        "value": draw(n, tokens, heads, values),
        "bias": draw(heads, tokens, tokens),
    }
    weights = draw(n, tokens, heads, values)

    def plain(query, key, value, bias):
        logits = 0.3 * jnp.einsum("nqhc,nkhc->nhqk", query, key) + bias
        return jnp.einsum("nhqk,nkhv->nqhv", jax.nn.softmax(logits), value)

    def fused(query, key, value, bias):
        return fused_attention(query, key, value, bias, scale=0.3, interpret=True)

    @jax.jit
    def both(inputs, weights):
        found = []
        for function in (plain, fused):
            y, backward = jax.vjp(lambda i, f=function: f(**i), inputs)
            found.append({"output": y, **backward(weights)[0]})
        return found

    expected, found = both(inputs, weights)
    assert found.keys() == {"output", *inputs}
    for name, value in expected.items():
        assert abs(value).max() > 0.1
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("tokens", "sequences", "side"),
    [(4096, 8, 512), (4096, 16, 256), (1600, 2, 256), (1024, 1000, 128), (577, 1, 128)],
)
def test_blocks_pad_little_and_fit(tokens, sequences, side):
    assert block_side(tokens, sequences) == side
    assert side in BLOCKS
