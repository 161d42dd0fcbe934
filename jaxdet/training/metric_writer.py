"""What a run reports while it trains: scalars on disk, progress in a terminal or a log."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, SupportsFloat, TextIO

from tqdm import tqdm

from jaxdet.errors import UserError
from jaxdet.files import atomic_write, read_file
from jaxdet.training.compile_times import duration
from jaxdet.training.trackers.tracking import Trackers

Scalars = Mapping[str, SupportsFloat]

PACE_SECONDS = 300.0
"""How far back the time to go looks: of what is this old, a third counts."""

FIRST_STEPS, FIRST_SECONDS = 20, 30.0
"""Steps, or seconds for two at least, from which the length of a training is foretold."""

WORTH_TELLING = 60.0
"""Seconds; of a shorter training no line says how long it takes."""


class MetricWriter(AbstractContextManager):
    """Writes scalars to `workdir/metrics.jsonl` and to the run's trackers.

    A line is {"step": ..., "time": seconds since 1970, name: value, ...}; a value that is not
    finite is written as null, which JSON has. A run resumed at `start_step` takes back what was
    written after that step, so that no step is there twice; at 0 it starts a new file.

    Args:
        trackers: those that were started, if any; closing them is left to who did.
    """

    def __init__(self, workdir: Path, start_step: int = 0, trackers: Trackers | None = None):
        self._trackers = trackers or Trackers()
        self._path = workdir / "metrics.jsonl"
        with self._writing():
            workdir.mkdir(parents=True, exist_ok=True)
            _drop_lines_after(self._path, start_step)
            self._lines = self._path.open("a", encoding="utf-8")

    def write(self, step: int, scalars: Scalars) -> None:
        """Records named scalars at a step; arrays on a device are waited for.

        Raises:
            UserError: they cannot be written, as on a full disk.
        """
        values = {name: float(value) for name, value in scalars.items()}
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        line |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self._writing():
            self._lines.write(json.dumps(line) + "\n")
            self._lines.flush()
        self._trackers.scalars(step, values)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._writing():
                self._lines.close()
        except UserError:
            if kind is None:  # else there is an error under way, which says more
                raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written ({error.strerror}); free space or rights there "
                "and give the same command again"
            ) from error


def _drop_lines_after(path: Path, start_step: int) -> None:
    if start_step == 0 or not os.path.lexists(path):
        path.unlink(missing_ok=True)
        return
    kept, unusable = [], 0
    for line in read_file(path).split(b"\n"):
        step = _step_of(line)
        unusable += step is None and bool(line.strip())
        if step is not None and step <= start_step:
            kept.append(line + b"\n")
    if unusable:
        # One may be that which a killed run was writing.
        print(f"note: {unusable} line(s) of {path} were no metrics and are left out")
    with atomic_write(path) as partial:
        partial.write_bytes(b"".join(kept))


def _step_of(line: bytes) -> float | None:
    """The step that a line of metrics is about, None where it is no such line."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = content.get("step") if isinstance(content, dict) else None
    return step if isinstance(step, int | float) and not isinstance(step, bool) else None


class _Pace:
    """Seconds a step takes: a mean in which what is older than some minutes counts little."""

    def __init__(self) -> None:
        self._steps = self._seconds = 0.0

    def add(self, steps: int, seconds: float) -> None:
        kept = math.exp(-seconds / PACE_SECONDS)
        self._steps = self._steps * kept + steps
        self._seconds = self._seconds * kept + seconds

    @property
    def seconds_per_step(self) -> float:
        return self._seconds / self._steps


class Progress(AbstractContextManager):
    """Shows step, losses, images a second and time to go: a bar in a terminal, lines in a log.

    Once, after the first steps, it says how long all of them will take, if that is a minute or
    more.

    The speed is that since the last report, the time to go by that of the last minutes; both count
    from the first step's end on, which leaves compilation out, and leave evaluations out. Between
    reports scalars are not read, so the device is not waited for.
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
        self._first: tuple[int, float] | None = None
        self._is_foretold = False
        self._pace = _Pace()

    def update(self, step: int, scalars: Scalars) -> None:
        """Says that `step` steps are done; reports if it is time to, and at the last step."""
        self._foretell(step)
        is_due = self._reported is None or self._clock() - self._reported[1] >= self._every_seconds
        if not is_due and step < self._total_steps:
            return
        text = " ".join(f"{name} {float(value):.4g}" for name, value in scalars.items())
        now = self._clock()
        if self._reported is not None and now > self._reported[1]:
            steps, seconds = step - self._reported[0], now - self._reported[1]
            text += f" | {steps / seconds * self._images_per_step:.1f} images/s"
            if steps > 0:
                self._pace.add(steps, seconds)
                left = (self._total_steps - step) * self._pace.seconds_per_step
                text += f", {duration(left)} to go"
        self._reported = (step, now)
        if self._bar is None:
            print(f"step {step}/{self._total_steps} | {text}", file=self._stream, flush=True)
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def note(self, text: str) -> None:
        """Prints a line of its own; the time since the last report no longer counts for speed."""
        self._print(text)
        self._reported = None

    def _foretell(self, step: int) -> None:
        """Says how long the steps to go will take, once the first ones are timed."""
        if self._is_foretold:
            return
        self._first = self._first or (step, self._clock())
        steps, seconds = step - self._first[0], self._clock() - self._first[1]
        if steps < FIRST_STEPS and not (steps > 1 and seconds >= FIRST_SECONDS):
            return
        self._is_foretold = True
        left, pace = self._total_steps - step, seconds / steps
        if left * pace >= WORTH_TELLING:
            self._print(
                f"about {_in_words(left * pace)} for the {left:,} steps to go, at {pace:.2g} s a "
                f"step over the first {steps}; evaluations come on top"
            )

    def _print(self, text: str) -> None:
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _in_words(seconds: float) -> str:
    """Such as 14 min, 3.2 h or 2.5 days."""
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
