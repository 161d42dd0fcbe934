"""Compilation as a user sees it: announced, in our words while it lasts, and timed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

from jaxdet.training.compile_times import CompileTimes, duration

STILL_SECONDS = 60.0
"""From one line that says that it still compiles to the next."""

CACHE = "JAX_COMPILATION_CACHE_DIR"
"""The variable by which JAX keeps compiled programs."""


@contextmanager
def compiling(
    what: str, say: Callable[[str], None] | None, times: CompileTimes | None = None
) -> Iterator[None]:
    """Says that something is compiled within, each minute that it still is, and how long it took.

    XLA's own alarm, which asks for bug reports after two minutes, is held back meanwhile.

    Args:
        what: such as "the training step".
        say: takes the lines; None where this process says nothing.
        times: what earlier starts took, if that is to be said, and this one's kept.
    """
    if say is None:
        with _without_alarm():
            yield
        return
    expected = None if times is None else times.expectation(what)
    say(f"compiling {what} ... ({expected or 'seconds to minutes, once a start'})")
    start, done = time.monotonic(), threading.Event()
    teller = threading.Thread(target=_tell, args=(what, start, done, say), daemon=True)
    teller.start()
    try:
        with _without_alarm():
            yield
    finally:
        done.set()
        teller.join()
    seconds = time.monotonic() - start
    say(f"compiled {what} in {duration(seconds)}")
    if times is not None:
        times.keep(what, seconds)


def _tell(what: str, start: float, done: threading.Event, say: Callable[[str], None]) -> None:
    hint = "" if os.environ.get(CACHE) else f"; {CACHE}=FOLDER keeps it for the next start"
    while not done.wait(STILL_SECONDS):
        passed = duration(time.monotonic() - start)
        say(f"still compiling {what} after {passed}{hint}")
        hint = ""


@contextmanager
def _without_alarm() -> Iterator[None]:
    """Without the errors that XLA logs; those that it raises are raised as ever."""
    if jax.config.jax_logging_level != "NOTSET":  # someone wants to see the log
        yield
        return
    jax.config.update("jax_logging_level", "CRITICAL")
    try:
        yield
    finally:
        # Back to what JAX takes by default, and then to no level of the loggers' own.
        before = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")
        names = {"0": "INFO", "1": "WARNING", "2": "ERROR", "3": "CRITICAL"}
        jax.config.update("jax_logging_level", names.get(before, "WARNING"))
        jax.config.update("jax_logging_level", "NOTSET")
