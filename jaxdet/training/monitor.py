"""What is known of the steps of a run: read one step late, checked, and written down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdet.errors import DIVERGED, UserError
from jaxdet.training.checkpoint import Checkpoints
from jaxdet.training.metric_writer import MetricWriter, Progress, Scalars
from jaxdet.training.step import Metrics

SHOWN_IDS = 16
"""As many image ids an error names."""


class Monitor:
    """Follows the steps of a run, one behind: the device is not waited for.

    A step's metrics are read when the next step is already under way, or when `flush` asks for
    them.

    Args:
        checkpoints: named in the error.
        writer, progress: what the metrics go to; None in all processes but the main one.
        total_steps: of the run.
        log_every_steps: how often metrics are written.
        on_nonfinite: at a loss or gradient that is not finite "stop" raises, "skip" counts it.
        scalars: what is written beside the metrics of a step.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        writer: MetricWriter | None,
        progress: Progress | None,
        *,
        total_steps: int,
        log_every_steps: int,
        on_nonfinite: str,
        scalars: Callable[[int], dict[str, float]],
    ):
        self._checkpoints = checkpoints
        self._writer = writer
        self._progress = progress
        self._total_steps = total_steps
        self._log_every_steps = log_every_steps
        self._on_nonfinite = on_nonfinite
        self._scalars = scalars
        self._pending: tuple[int, np.ndarray | None, Metrics] | None = None
        self._skipped = 0
        self._since = time.monotonic()
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Counts time in which a step could not start because its batch was not there."""
        self._waited += seconds

    def add(self, step: int, image_ids: np.ndarray | None, metrics: Metrics) -> None:
        """Takes a step that is under way, and flushes the one before it.

        Args:
            image_ids: of this process's rows of the batch, where they are known.
            metrics: on the device.

        Raises:
            UserError: see `flush`.
        """
        for value in metrics.values():
            value.copy_to_host_async()
        self.flush()
        self._pending = (step, image_ids, metrics)

    def flush(self) -> None:
        """Reads the metrics of the step that is not reported yet, and reports them.

        Raises:
            UserError: the step's loss or gradient was not finite, and `on_nonfinite` is "stop".
        """
        if self._pending is None:
            return
        (step, image_ids, metrics), self._pending = self._pending, None
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if metrics.pop("skipped"):
            self._handle_nonfinite(step, image_ids, metrics)
        is_logged = step % self._log_every_steps == 0 or step == self._total_steps
        if self._writer and is_logged:
            self._writer.write(step, {**metrics, **self._context(step)})
        if self._progress:
            self._progress.update(step, _shown(metrics))

    def report(self, step: int, scalars: Scalars, summary: str) -> None:
        """Writes what was found at a step besides its metrics, and says it in a line."""
        if self._writer:
            self._writer.write(step, scalars)
        if self._progress:
            self._progress.note(f"step {step}: {summary}")

    def note(self, text: str) -> None:
        """Says a line of its own."""
        if self._progress:
            self._progress.note(text)

    def _handle_nonfinite(
        self, step: int, image_ids: np.ndarray | None, metrics: dict[str, float]
    ) -> None:
        """Says what was not finite: as an error, or in a line and a count."""
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        norms = [
            f"{name.removeprefix('grad_norm/')} {value:.3g}"
            for name, value in metrics.items()
            if name.startswith("grad_norm/")
        ]
        what = (
            f"{', '.join(broken)} not finite at step {step}{_on_images(image_ids)} "
            f"(gradient norms: {', '.join(norms)})"
        )
        if self._on_nonfinite == "skip":
            self._skipped += 1
            if self._progress:
                self._progress.note(f"skipped a step, {self._skipped} so far: {what}")
            return
        self._checkpoints.wait()  # for one under way, which will be the last
        last, folder = self._checkpoints.latest, self._checkpoints.folder
        kept = f"{folder / str(last)} is the last checkpoint" if last else "none was saved yet"
        raise UserError(
            f"{DIVERGED}: {what}; lower config.optim.lr and use a new --workdir, or resume "
            f"with --config.on_nonfinite=skip ({kept})"
        )

    def _context(self, step: int) -> dict[str, float]:
        """What is worth knowing beside a step's own metrics."""
        now = time.monotonic()
        values = {
            **self._scalars(step),
            "input_wait_share": self._waited / max(now - self._since, 1e-9),
            "skipped_steps": float(self._skipped),
        }
        memory: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            values["device_memory_gb"] = memory["peak_bytes_in_use"] / 1e9
        self._since, self._waited = now, 0.0
        return values


def _on_images(image_ids: np.ndarray | None) -> str:
    """Which images a step saw, for a message."""
    if image_ids is None:
        return ""
    shown = ", ".join(str(image_id) for image_id in image_ids[:SHOWN_IDS])
    more = len(image_ids) - SHOWN_IDS
    return f" on the images {shown}" + (f" and {more} more" if more > 0 else "")


def _shown(metrics: dict[str, float]) -> dict[str, float]:
    """The losses for the progress line, under short names; a loss of one part has no other."""
    parts = {
        name.removeprefix("loss_"): value
        for name, value in metrics.items()
        if name.startswith("loss_")
    }
    return {"loss": metrics["loss"], **(parts if len(parts) > 1 else {})}
