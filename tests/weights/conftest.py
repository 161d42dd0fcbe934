"""A config, and the file of weights it names."""

from __future__ import annotations

import pytest

from jaxdet.config import benchmark


@pytest.fixture
def config(tmp_path):
    config = benchmark("b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=10.0)
    config.init = str(tmp_path / "weights.npz")
    return config


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.npz"
