"""Trials of tests/tiny.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jaxdet.benchmark.trials.trial import Base, Trial, make_trial
from jaxdet.config.command_line import config_of


@pytest.fixture
def tiny_trial(tmp_path) -> Callable[..., Trial]:
    """tiny_trial("one", {"epochs": 2.0}, "--config.seed=1"): with the config of tests/tiny.py."""

    def make(
        name: str, overrides: dict[str, Any] | None = None, *arguments: str, kind: str = "random"
    ) -> Trial:
        arguments = (f"--config=tests/tiny.py:{kind}", *arguments)
        base = Base(arguments, config_of(arguments))
        return make_trial(tmp_path, name, base, overrides)

    return make


@pytest.fixture
def trial(tiny_trial) -> Trial:
    return tiny_trial("one", {"optim.lr": 1e-3, "epochs": 2.0})
