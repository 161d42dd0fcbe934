"""What is said while something compiles."""

from __future__ import annotations

import logging
import time

import jax
import pytest

from jaxdet.training import compiling as module
from jaxdet.training.compile_times import duration
from jaxdet.training.compiling import compiling


def test_compilation_is_announced_told_of_and_timed(monkeypatch):
    monkeypatch.setattr(module, "STILL_SECONDS", 0.05)
    monkeypatch.delenv(module.CACHE, raising=False)
    said = []
    with compiling("a step", said.append):
        deadline = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert said[0].startswith("compiling a step ...")
    assert said[1].startswith("still compiling a step after 0:00; JAX_COMPILATION_CACHE_DIR=FOLDER")
    assert said[2] == "still compiling a step after 0:00"
    assert said[-1].startswith("compiled a step in 0:")


def test_what_fails_to_compile_was_not_compiled():
    said = []
    with pytest.raises(ValueError, match="shape"), compiling("a step", said.append):
        raise ValueError("shape")
    assert len(said) == 1


@pytest.mark.parametrize("say", [None, print])
def test_xla_s_alarm_is_held_back_and_then_no_longer(say, monkeypatch):
    levels = []
    monkeypatch.setattr("jax._src.logging_config.utils.absl_set_min_log_level", levels.append)
    with compiling("a step", say):
        assert jax.config.jax_logging_level == "CRITICAL"
        assert levels == [3]
    assert jax.config.jax_logging_level == "NOTSET"
    assert levels[-1] == 1
    assert logging.getLogger("jax").level == logging.NOTSET
    jax.config.update("jax_logging_level", "ERROR")
    with compiling("a step", say):
        assert jax.config.jax_logging_level == "ERROR"
    jax.config.update("jax_logging_level", "NOTSET")


def test_durations_are_read_as_clocks():
    assert [duration(seconds) for seconds in (0.4, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
