"""What a run's metrics.jsonl says of its training."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdet.benchmark.reporting.json_values import count, number
from jaxdet.benchmark.reporting.run import EvalPoint
from jaxdet.evaluation.metric_names import IOU_TYPES
from jaxdet.files import regular_file

FEWEST_RATES = 3
LOSS_POINTS = 60
"""Of a curve of losses: each is a mean over an equal part of the lines."""

MOST_LOSSES = 40
"""Names of losses that are read; a cascade of three stages has 10, and as many of validation."""

LARGEST_HISTORY = 512 * 2**20

LOSS = re.compile(r"(val/)?loss(_\w{1,40})?", re.ASCII)

Lines = Sequence[dict[str, Any]]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in the file; a line that a killed run was writing is left out."""
    lines = []
    try:
        if regular_file(path).stat().st_size > LARGEST_HISTORY:
            return []
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict):
                    lines.append(line)
    except OSError:
        return []
    return lines


def last_step(lines: Lines) -> int:
    """The largest step there is, 0 without any."""
    return max((count(line.get("step")) or 0 for line in lines), default=0)


def peak_memory(lines: Lines) -> float | None:
    """The peak of a device, 10^9 bytes."""
    peaks = [number(line.get("device_memory_gb")) for line in lines]
    return max((peak for peak in peaks if peak is not None), default=None)


def eval_points(lines: Lines, epochs_per_step: float) -> tuple[EvalPoint, ...]:
    """The evaluations in the order of their steps."""
    found = {}
    for line in lines:
        step = count(line.get("step"))
        box, mask = (number(line.get(f"val/{kind}/AP")) for kind in IOU_TYPES)
        if step is not None and (box is not None or mask is not None):
            found[step] = EvalPoint(step * epochs_per_step, box, mask)
    return tuple(found[step] for step in sorted(found))


def loss_curves(lines: Lines, epochs_per_step: float) -> dict[str, tuple[tuple[float, float], ...]]:
    """The losses by name over epochs, those on validation images ("val/loss") as they are."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        step = count(line.get("step"))
        for name, logged in line.items() if step is not None else ():
            if name not in found and (len(found) == MOST_LOSSES or not LOSS.fullmatch(name)):
                continue
            value = number(logged)
            if value is not None:
                found.setdefault(name, {})[step] = value
    return {
        name: tuple(
            (step * epochs_per_step, value) for step, value in _thinned(sorted(values.items()))
        )
        for name, values in found.items()
    }


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over neighbours, at most LOSS_POINTS."""
    size = -(-len(points) // LOSS_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(map(statistics.fmean, zip(*part, strict=True))) for part in parts]


def training_rate(lines: Lines, batch_size: int) -> float | None:
    """Images/s: the median over the times from one training line to the next, if there are a few.

    A time in which an evaluation was written does not count; the median passes over compilation and
    interruptions.
    """
    rates, last = [], None
    for line in lines:
        step, time = count(line.get("step")), number(line.get("time"))
        is_training = "loss" in line and step is not None and time is not None
        if is_training and last is not None and step > last[0] and time > last[1]:
            rates.append((step - last[0]) * batch_size / (time - last[1]))
        last = (step, time) if is_training else None
    return number(statistics.median(rates)) if len(rates) >= FEWEST_RATES else None
