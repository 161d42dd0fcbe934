"""What is known of the steps of a run: read one step late, checked, and written down."""

from __future__ import annotations

import math
import time
from typing import Any

import jax
import numpy as np

from jaxdet.errors import UserError
from jaxdet.training.checkpoint import Checkpoints
from jaxdet.training.experiment import Experiment
from jaxdet.training.metric_writer import MetricWriter, Progress
from jaxdet.training.step import Metrics

DIVERGED = "training diverged"
"""How the error of a loss or gradient that is not finite begins."""

SHOWN_IDS = 16
"""As many image ids an error names."""


class Monitor:
    """Follows the steps of a run, one behind: the device is not waited for.

    A step's numbers are read when the next step is already under way, or when `settle` asks for
    them. A loss or gradient that is not finite stops the run there, or with `config.on_nonfinite`
    "skip" is counted.

    Args:
        experiment: the run.
        checkpoints: named in the error.
        writer, progress: what is told of the steps; None in all processes but one.
    """

    def __init__(
        self,
        experiment: Experiment,
        checkpoints: Checkpoints,
        writer: MetricWriter | None,
        progress: Progress | None,
    ):
        self._experiment = experiment
        self._checkpoints = checkpoints
        self._writer = writer
        self._progress = progress
        self._pending: tuple[int, np.ndarray, Metrics] | None = None
        self._skipped = 0
        self._since = time.monotonic()
        self._waited = 0.0

    def waited(self, seconds: float) -> None:
        """Counts time in which a step could not start because its batch was not there."""
        self._waited += seconds

    def add(self, step: int, image_ids: np.ndarray, metrics: Metrics) -> None:
        """Takes note of a step that is under way, and settles the one before it.

        Args:
            image_ids: of this process's share of the batch.
            metrics: on the device.
        """
        for value in metrics.values():
            value.copy_to_host_async()
        self.flush()
        self._pending = (step, image_ids, metrics)

    def flush(self) -> None:
        """Reads the numbers of the step that is not settled yet, and reports them.

        Raises:
            UserError: the step's loss or gradient was not finite.
        """
        if self._pending is None:
            return
        (step, image_ids, metrics), self._pending = self._pending, None
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if metrics.pop("skipped"):
            self._handle_nonfinite(step, image_ids, metrics)
        config, total = self._experiment.config, self._experiment.total_steps
        if self._writer and (step % config.log_every_steps == 0 or step == total):
            self._writer.write(step, {**metrics, **self._context(step)})
        if self._progress:
            self._progress.update(step, _shown(metrics))

    def _handle_nonfinite(
        self, step: int, image_ids: np.ndarray, metrics: dict[str, float]
    ) -> None:
        """Says what was not finite: as an error, or in a line and a count."""
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        norms = [
            f"{name.removeprefix('grad_norm/')} {value:.3g}"
            for name, value in metrics.items()
            if name.startswith("grad_norm/")
        ]
        shown = ", ".join(str(image_id) for image_id in image_ids[:SHOWN_IDS])
        more = f" and {len(image_ids) - SHOWN_IDS} more" if len(image_ids) > SHOWN_IDS else ""
        what = (
            f"{', '.join(broken)} not finite at step {step} on the images {shown}{more} "
            f"(gradient norms: {', '.join(norms)})"
        )
        if self._experiment.config.on_nonfinite == "skip":
            self._skipped += 1
            if self._progress:
                self._progress.note(f"skipped a step, {self._skipped} so far: {what}")
            return
        last, folder = self._checkpoints.latest, self._experiment.checkpoint_folder
        kept = f"{folder / str(last)} is the last checkpoint" if last else "none was saved yet"
        raise UserError(
            f"{DIVERGED}: {what}; lower config.optim.lr and use a new --workdir, or go on "
            f"with --config.on_nonfinite=skip ({kept})"
        )

    def _context(self, step: int) -> dict[str, float]:
        """What is worth knowing beside a step's own numbers."""
        config, now = self._experiment.config, time.monotonic()
        rate = float(self._experiment.schedule(step - 1))
        lowest = config.optim.layer_decay ** (config.model.vit.depth + 1)
        values = {
            "learning_rate": rate,
            "learning_rate_lowest": rate * lowest,
            "epoch": step / self._experiment.steps_per_epoch,
            "input_wait_share": self._waited / max(now - self._since, 1e-9),
            "skipped_steps": float(self._skipped),
        }
        memory: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            values["device_memory_gb"] = memory["peak_bytes_in_use"] / 1e9
        self._since, self._waited = now, 0.0
        return values


def _shown(metrics: dict[str, float]) -> dict[str, float]:
    """The numbers worth a place in the progress line, under short names."""
    return {
        name.removeprefix("loss_"): value
        for name, value in metrics.items()
        if name.startswith("loss")
    }
