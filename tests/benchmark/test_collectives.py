"""Collectives counted in a program that is known to have them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks.collectives import bytes_of, collectives
from jaxdet import parallel


def compiled_text(function, out: PartitionSpec) -> str:
    mesh = parallel.data_mesh(8, 8)
    x = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=parallel.batch_sharding(mesh))
    placed = jax.sharding.NamedSharding(mesh, out)
    return jax.jit(function, out_shardings=placed).lower(x).compile().as_text()


def test_kinds_and_bytes_are_found():
    nowhere = PartitionSpec()
    assert collectives(compiled_text(lambda x: 2 * x, PartitionSpec("data"))) == {}
    assert collectives(compiled_text(lambda x: x.sum(0), nowhere)) == {"all-reduce": (1, 4 * 5)}
    assert collectives(compiled_text(lambda x: 2 * x, nowhere)) == {"all-gather": (1, 4 * 16 * 5)}


def test_arrays_of_one_operation_add_up():
    line = "  %r = (f32[3,2]{1,0}, bf16[5]{0}, pred[], s64[2]{0}) all-reduce(%a, %b), channel_id=1"
    assert collectives(line) == {"all-reduce": (1, 24 + 10 + 1 + 16)}
    assert [bytes_of(dtype) for dtype in ("u8", "s4", "f8e4m3fn", "c64")] == [1, 1, 1, 8]
