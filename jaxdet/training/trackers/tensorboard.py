"""TensorBoard, which reads event files in the workdir."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from jaxdet.files import read_file
from jaxdet.training.trackers import event_file
from jaxdet.training.trackers.tracker import Table, TrackedRun

FLUSH_SECONDS = 30.0
"""How long events may wait in memory."""


class TensorBoard:
    """Writes an event file; of earlier ones TensorBoard drops what a resumed run does again."""

    id = None

    def __init__(self, run: TrackedRun):
        # Written here, not in a thread: one that died of a full disk would stop the training.
        self._events = event_file.EventFile(run.workdir)
        self._events.restart(run.start_step + 1 if run.start_step else 0)
        if not run.start_step:
            lines = json.dumps(run.config, indent=2).splitlines()
            code = "".join(f"    {line}\n" for line in lines)  # as Markdown has it
            self._events.write(0, event_file.text("config", code))
        self._flushed = -math.inf

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._events.write(step, event_file.scalars(values))
        now = time.monotonic()
        if now - self._flushed > FLUSH_SECONDS:
            self._events.flush()
            self._flushed = now

    def picture(self, step: int, name: str, path: Path) -> None:
        with Image.open(path) as image:
            width, height = image.size
        self._events.write(step, event_file.picture(name, read_file(path), height, width))

    def table(self, step: int, name: str, table: Table) -> None:
        lines = [table.columns, ["---"] * len(table.columns), *table.rows]
        markdown = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        self._events.write(step, event_file.text(name, markdown))

    def finish(self, is_complete: bool) -> None:
        self._events.close()


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else value.replace("|", "\\|").replace("\n", " ")
