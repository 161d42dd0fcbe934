"""MLflow; its own environment variables choose server and experiment.

MLFLOW_TRACKING_URI is where runs are kept (MLflow's default: a database in the current folder);
MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID go before the experiment here.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow

from jaxdet.training.trackers.tracker import Table, TrackedRun

EXPERIMENT = "jaxdet"

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
"""In place of MLflow's own, with which a server that is down holds up a training for minutes."""


class MLflow:
    """A run of MLflow: parameters and metrics; the config, pictures and tables as artifacts.

    The parameters are those the run began with, since MLflow lets none change.
    """

    def __init__(self, run: TrackedRun):
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            mlflow.set_experiment(EXPERIMENT)
        self.id = mlflow.start_run(run_id=run.id, run_name=run.name).info.run_id
        if run.id is None:
            mlflow.log_params(dict(_flat(run.config)))
        mlflow.log_dict(run.config, "config.json")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        mlflow.log_metrics(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        mlflow.log_artifact(str(path), f"step_{step}")

    def table(self, step: int, name: str, table: Table) -> None:
        text = io.StringIO()
        csv.writer(text).writerows([table.columns, *table.rows])
        mlflow.log_text(text.getvalue(), f"step_{step}/{name}.csv")

    def finish(self, is_complete: bool) -> None:
        mlflow.end_run("FINISHED" if is_complete else "FAILED")


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of a config by dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
