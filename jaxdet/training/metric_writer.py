"""What a run reports while it trains: scalars on disk, progress in a terminal or a log."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, SupportsFloat, TextIO

from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxdet.files import atomic_write

Scalars = Mapping[str, SupportsFloat]


class MetricWriter(AbstractContextManager):
    """Writes scalars to `workdir/metrics.jsonl` and to TensorBoard event files in `workdir`.

    A line is {"step": ..., "time": seconds since 1970, name: value, ...}; a value that is not
    finite is written as null, which JSON has. A run resumed at `start_step` takes back what was
    written after that step, so that no step is there twice; at 0 it starts a new file.
    """

    def __init__(self, workdir: Path, start_step: int = 0):
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        _drop_lines_after(path, start_step)
        self._lines = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(str(workdir), purge_step=start_step + 1 if start_step else 0)

    def write(self, step: int, scalars: Scalars) -> None:
        """Records named scalars at a step; arrays on a device are waited for."""
        values = {name: float(value) for name, value in scalars.items()}
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._events.close()


def _drop_lines_after(path: Path, start_step: int) -> None:
    if start_step == 0 or not path.exists():
        path.unlink(missing_ok=True)
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # the line a killed run was writing
            if json.loads(line)["step"] <= start_step:
                kept.append(line + "\n")
    with atomic_write(path) as partial:
        partial.write_text("".join(kept), encoding="utf-8")


class Progress(AbstractContextManager):
    """Shows step, losses, images a second and time to go: a bar in a terminal, lines in a log.

    The speed is that since the last report, and counts from the first step's end on, which
    leaves compilation out. Between reports scalars are not read, so the device is not waited for.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        *,
        images_per_step: int,
        log_every_seconds: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._stream = stream or sys.stderr
        self._clock = clock
        self._every_seconds = 0.5 if self._stream.isatty() else log_every_seconds
        self._bar = None
        if self._stream.isatty():
            layout = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = tqdm(
                total=total_steps, initial=start_step, file=self._stream, bar_format=layout
            )
        self._reported: tuple[int, float] | None = None

    def update(self, step: int, scalars: Scalars) -> None:
        """Says that `step` steps are done; reports if it is time to, and at the last step."""
        is_due = self._reported is None or self._clock() - self._reported[1] >= self._every_seconds
        if not is_due and step < self._total_steps:
            return
        text = " ".join(f"{name} {float(value):.4g}" for name, value in scalars.items())
        now = self._clock()
        if self._reported is not None and now > self._reported[1]:
            steps_per_second = (step - self._reported[0]) / (now - self._reported[1])
            text += f" | {steps_per_second * self._images_per_step:.1f} images/s"
            if steps_per_second > 0:
                text += f", {_duration((self._total_steps - step) / steps_per_second)} to go"
        self._reported = (step, now)
        if self._bar is None:
            print(f"step {step}/{self._total_steps} | {text}", file=self._stream, flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def note(self, text: str) -> None:
        """Prints a line of its own; the time since the last report no longer counts for speed."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)
        self._reported = None

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
