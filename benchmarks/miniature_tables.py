"""The tables of benchmarks/miniature.py, from the results of its runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxdet.benchmark.reporting.bootstrap import (
    LEVEL,
    SEED_DRAWS,
    Interval,
    over_images,
    over_pairs,
)
from jaxdet.benchmark.reporting.drawn import with_draws
from jaxdet.benchmark.reporting.gather import gather
from jaxdet.benchmark.reporting.groups import sections
from jaxdet.benchmark.reporting.run import Run

DASH = "-"
COMPARED = ("", "n", "difference", "over seeds (paired)", "over images", "over both", "published")
NOTE = (
    "AP in points: mean and standard deviation over n seeds. An interval holds "
    f"{LEVEL:.0%} of the differences that are found when seeds, validation images or both are "
    "drawn anew, the same ones for both sides.\n"
)


class Scored(NamedTuple):
    """A number of every run of an arm, in points, and on draws of the validation images."""

    values: dict[int, float]
    drawn: dict[int, np.ndarray]


class Part(NamedTuple):
    """A table of arms and one of the differences that they were trained for.

    Attributes:
        metrics: name in the table, and where a run has it.
        pairs: the arm that the other is compared with, and the other.
        published: the paper's numbers of arms.
    """

    title: str
    folder: str
    suffix: str
    metrics: dict[str, Callable[[Run], float | None]]
    pairs: Sequence[tuple[str, str]]
    published: Mapping[str, float] = MappingProxyType({})


def _ap(kind: str) -> Callable[[Run], float | None]:
    return lambda run: run.scores[kind].coco["AP"] if kind in run.scores else None


LADDER_PAIRS = (
    ("convs", "pyramid"),
    ("pyramid_random", "pyramid"),
    ("pyramid", "encoder"),
    ("encoder", "modulated"),
    ("modulated_random", "modulated"),
    ("convs", "modulated"),
    ("scratch", "modulated"),
)
FEW_PAIRS = (("convs", "modulated"), ("modulated_random", "modulated"))
FEW_METRICS = {
    "novel box AP": lambda run: run.few_shot.get("novel_bbox"),
    "base box AP": lambda run: run.few_shot.get("base_bbox"),
}
PARTS = (
    Part(
        "MAE's gain: the detector of configs/mini from random weights and from MAE's",
        "starts",
        "",
        {"box AP": _ap("bbox"), "mask AP": _ap("segm")},
        (("random", "mae"),),
    ),
    Part(
        "imTED's ladder, on the base classes",
        "ladder",
        "",
        {"box AP": _ap("bbox")},
        LADDER_PAIRS,
        {"convs": 42.4, "pyramid": 42.5, "encoder": 43.2, "modulated": 44.0},
    ),
    Part("Few-shot, 10 objects of each class", "few", "_10shot", FEW_METRICS, FEW_PAIRS),
    Part("Few-shot, 30 objects of each class", "few", "_30shot", FEW_METRICS, FEW_PAIRS),
)


def tables(out: Path, draws: int = 0) -> str:
    """All tables in Markdown.

    Args:
        out: the folder of the runs.
        draws: how often the validation images are drawn anew; 0 for never.
    """
    found = [text for part in PARTS if (text := _part(part, out / part.folder, draws))]
    return "\n".join([NOTE, *found]) if found else "No run has come to its end.\n"


def _part(part: Part, folder: Path, draws: int) -> str:
    if not any(folder.glob("*/result.json")):
        return ""
    runs, _ = gather([folder])
    pattern = re.compile(rf"(\w+?){part.suffix}_(\d+)")
    named = [(match, run) for run in runs if (match := pattern.fullmatch(run.folder.name))]
    if not named:
        return ""
    arms: dict[str, dict[int, Run]] = {}
    for match, run in named:
        arms.setdefault(match[1], {})[int(match[2])] = run
    drawn = _drawn(runs, draws) if draws and part.folder != "few" else {}
    lines = [f"## {part.title}", "", *_arms(part, arms), ""]
    for name, metric in part.metrics.items():
        kind = "segm" if name.startswith("mask") else "bbox"
        scored = {
            arm: _scored(of_seed, metric, {run: each.get(kind) for run, each in drawn.items()})
            for arm, of_seed in arms.items()
        }
        if rows := [*_differences(part, scored)]:
            lines += [f"Differences in {name}:", "", *_head(COMPARED), *rows, ""]
    return "\n".join(lines)


def _arms(part: Part, arms: dict[str, dict[int, Run]]) -> Iterator[str]:
    head = ["arm", "n", *part.metrics, *(["published"] if part.published else [])]
    yield from _head(head)
    order = list(dict.fromkeys(arm for pair in part.pairs for arm in pair))
    for arm in sorted(arms, key=lambda arm: order.index(arm) if arm in order else len(order)):
        cells = [_mean(_scored(arms[arm], metric, {})) for metric in part.metrics.values()]
        if part.published:
            cells.append(str(part.published.get(arm, DASH)))
        yield _row([arm, str(len(arms[arm])), *cells])


def _differences(part: Part, scored: dict[str, Scored]) -> Iterator[str]:
    for base, other in part.pairs:
        if base in scored and other in scored:
            first, second = scored[base], scored[other]
            seeds = sorted(first.values.keys() & second.values.keys())
            published = DASH
            if base in part.published and other in part.published:
                published = f"{part.published[other] - part.published[base]:+.1f}"
            yield _row([f"{other} less {base}", *_compared(first, second, seeds), published])


def _compared(first: Scored, second: Scored, seeds: Sequence[int]) -> list[str]:
    """Number of pairs of runs, their difference, and three intervals of it."""
    if not seeds:
        return ["0", *[DASH] * 4]
    pair = [np.array([each.values[seed] for seed in seeds]) for each in (first, second)]
    over_seeds = over_pairs(*(np.repeat(each[:, None], SEED_DRAWS, 1) for each in pair))
    images = both = None
    if all(seed in each.drawn for seed in seeds for each in (first, second)):
        drawn = [np.stack([each.drawn[seed] for seed in seeds]) for each in (first, second)]
        images, both = over_images(*drawn), over_pairs(*drawn)
    return [
        str(len(seeds)),
        f"{(pair[1] - pair[0]).mean():+.2f}",
        *map(_interval, (over_seeds, images, both)),
    ]


def _scored(
    runs: dict[int, Run],
    metric: Callable[[Run], float | None],
    drawn: dict[Path, np.ndarray | None],
) -> Scored:
    values = {seed: metric(run) for seed, run in runs.items()}
    draws = {seed: drawn.get(run.folder) for seed, run in runs.items()}
    return Scored(
        {seed: 100 * value for seed, value in values.items() if value is not None},
        {seed: 100 * each for seed, each in draws.items() if each is not None},
    )


def _drawn(runs: Sequence[Run], draws: int) -> dict[Path, dict[str, np.ndarray]]:
    found: dict[Path, dict[str, np.ndarray]] = {}
    for section in sections(runs):
        drawn = with_draws(section, draws).drawn
        found |= drawn.scores
        for folder, reason in drawn.missing.items():
            print(f"note: {folder} is not drawn: {reason}")
    return found


def _mean(scored: Scored) -> str:
    values = list(scored.values.values())
    if not values:
        return DASH
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _interval(interval: Interval | None) -> str:
    return DASH if interval is None else f"{interval.low:+.2f} to {interval.high:+.2f}"


def _head(names: Sequence[str]) -> list[str]:
    return [_row(names), _row(["---"] * len(names))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
