"""Fixtures for tests of the array functions."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

COLLECTIVE = re.compile(r"\b(all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(")


@pytest.fixture(scope="session")
def collectives() -> Callable[..., set[str]]:
    """collectives(f, *batch): what f exchanges between devices with the batch spread over all."""
    devices = np.array(jax.devices())
    if len(devices) < 2:
        pytest.skip("needs several devices")
    sharding = NamedSharding(Mesh(devices, ("data",)), PartitionSpec("data"))

    def compile_and_search(f, *batch):
        jitted = jax.jit(f, in_shardings=sharding, out_shardings=sharding)
        return set(COLLECTIVE.findall(jitted.lower(*batch).compile().as_text()))

    assert compile_and_search(lambda x: x + x.sum(), np.ones(len(devices))) == {"all-reduce"}
    return compile_and_search
