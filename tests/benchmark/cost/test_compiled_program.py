"""What XLA says a program costs, its loops counted by their rounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxdet import parallel
from jaxdet.benchmark.cost.compiled_program import XlaCost, xla_cost
from jaxdet.models.batching import per_image


def cost_of(function, *arguments) -> XlaCost:
    compiled = jax.jit(function).lower(*arguments).compile()
    return xla_cost(compiled, jax.make_jaxpr(function)(*arguments))


def test_loops_count_as_often_as_they_run():
    def power(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x).sum()

    x, product = jnp.ones((64, 64)), 2 * 64**3
    assert cost_of(power, x).flops == pytest.approx(7 * product, rel=0.02)
    # Each product has two in its gradient, and the last of them for the first factor is needed too.
    assert cost_of(jax.grad(power), x).flops == pytest.approx(3 * 7 * product, rel=0.02)


@pytest.mark.parametrize("inside_shard_map", [False, True])
def test_devices_share_the_rounds_of_a_loop(inside_shard_map):
    mesh = parallel.data_mesh(8, 8)
    split = parallel.batch_sharding(mesh)

    def power(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x)

    function = per_image(power, mesh) if inside_shard_map else power
    x = jax.ShapeDtypeStruct((16, 64, 64), jnp.float32, sharding=split)
    compiled = jax.jit(function, out_shardings=split).lower(x).compile()
    cost = xla_cost(compiled, jax.make_jaxpr(function)(x), mesh.size)
    assert cost.flops == pytest.approx(7 * 2 * (2 * 64**3), rel=0.02)
