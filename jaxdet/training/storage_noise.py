"""Keeps the storage library from printing, thread by thread, what it also raises."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any


def silence() -> None:
    """Leaves out Orbax's logged tracebacks, and those of writes that end after one has failed."""
    logging.getLogger("absl").addFilter(_is_not_orbax)
    if not isinstance(sys.unraisablehook, _WithoutLateWrites):
        sys.unraisablehook = _WithoutLateWrites(sys.unraisablehook)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


class _WithoutLateWrites:
    """Calls another hook for exceptions that nobody can catch, but not for late writes' ones."""

    def __init__(self, hook: Any):
        self._hook = hook

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._hook(unraisable)
