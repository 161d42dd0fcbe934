"""Weights & Biases; its own environment variables choose server, project and mode.

WANDB_PROJECT and WANDB_NAME go before what is given here; WANDB_MODE=offline keeps all in the
workdir, for `wandb sync`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from jaxdet.training.trackers.tracker import Table, TrackedRun

PROJECT = "jaxdet"


class WeightsAndBiases:
    """A run of W&B.

    Its curves are drawn over "step": over W&B's own count of steps, which only grows, a resumed run
    could not write again what it does again.
    """

    def __init__(self, run: TrackedRun):
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            id=run.id,
            resume="allow",
            dir=str(run.workdir),
            config=run.config,
        )
        self.id = self._run.id
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, name: str, path: Path) -> None:
        self._run.log({"step": step, name: wandb.Image(str(path))})

    def table(self, step: int, name: str, table: Table) -> None:
        rows = [list(row) for row in table.rows]
        self._run.log({"step": step, name: wandb.Table(columns=list(table.columns), data=rows)})

    def finish(self, is_complete: bool) -> None:
        self._run.finish(exit_code=0 if is_complete else 1)
