"""A trace of what the devices do in some steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from jaxdet.training.step import Metrics


class Profile(AbstractContextManager):
    """Records what the devices do in some steps, for TensorBoard or xprof.

    Args:
        folder: where the trace goes.
        steps: the first and the last step recorded; empty for none.
    """

    def __init__(self, folder: Path, steps: Sequence[int]):
        self._folder = folder
        self._first, self._last = steps or (None, None)
        self._is_recording = False

    def before(self, step: int) -> None:
        """Starts recording if `step` is the first to record."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._is_recording = True

    def after(self, step: int, metrics: Metrics) -> None:
        """Waits for the step and writes the trace if it is the last to record."""
        if self._is_recording and step == self._last:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_recording = False

    def __exit__(self, *_: object) -> None:
        if self._is_recording:
            self._stop()
