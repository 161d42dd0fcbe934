"""Tunes an initialisation as arXiv 2111.11429 tuned each of its five, and trains it to the end.

    python -m jaxdet.benchmark.sweep --init=mae --size=b --weights=/weights/mae_vitb.npz \
        --data=/data/coco --workdir=runs/sweep_mae_b
    python -m jaxdet.benchmark.sweep --init=mae --size=l --weights=/weights/mae_vitl.npz \
        --data=/data/coco --workdir=runs/sweep_mae_l --from=runs/sweep_mae_b
    python -m jaxdet.benchmark.sweep --init=my_mae --size=b --weights=/weights/my_mae.npz ...

First a grid of learning rate and weight decay at drop path 0 on the short schedule, made larger
while its best point lies on its border; then drop path on the middle one; then runs of three
lengths. A larger model takes learning rate and weight decay from ViT-B's sweep (--from). Before
anything starts, it prints the trials and what they cost. Each trial is a run of jaxdet.main in a
folder of its own; the same command resumes where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxdet.benchmark.reference import published_for
from jaxdet.benchmark.trials import comparison, flags
from jaxdet.benchmark.trials.cost import (
    Data,
    Speed,
    data_of,
    device_hours,
    hours_text,
    plan_text,
    planned,
)
from jaxdet.benchmark.trials.trials import Outcome, Trial, check_trial, make_trial, run_trials
from jaxdet.errors import UserError
from jaxdet.files import write_json

GRID, DROP_PATH, FINAL = "lr x weight decay", "drop path", "final"
SUMMARY = "sweep.json"


@dataclass(frozen=True)
class Protocol:
    """What is tried: values in ascending order, lengths in epochs."""

    lrs: tuple[float, ...] = (0.8e-4, 1.6e-4, 3.2e-4)
    weight_decays: tuple[float, ...] = (0.05, 0.1, 0.2)
    drop_paths: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    epochs_short: float = 25.0
    epochs_drop_path: float = 50.0
    epochs_final: tuple[float, ...] = (25.0, 50.0, 100.0)
    max_extensions: int = 3


PRETRAINED = Protocol()
RANDOM = replace(
    PRETRAINED, epochs_short=100.0, epochs_drop_path=100.0, epochs_final=(100.0, 200.0, 400.0)
)
"""The protocols of arXiv 2111.11429 (section 4.2); how often the grid may grow is ours."""


class Point(NamedTuple):
    """What one trial tries."""

    lr: float
    weight_decay: float
    drop_path: float
    epochs: float

    @property
    def name(self) -> str:
        return (
            f"lr{_scientific(self.lr)}_wd{self.weight_decay:.12g}_dp{self.drop_path:.12g}_"
            f"{self.epochs:.12g}ep"
        )

    @property
    def words(self) -> dict[str, float]:
        return {
            "optim.lr": self.lr,
            "optim.weight_decay": self.weight_decay,
            "model.vit.drop_path": self.drop_path,
            "epochs": self.epochs,
        }


def _scientific(value: float) -> str:
    """The shortest text such as 1.6e-04 that is exactly this number."""
    texts = (f"{value:.{digits}e}" for digits in range(1, 17))
    return next(text for text in texts if float(text) == value)


Run = Callable[[str, Sequence[Point]], Sequence[float | None]]
"""Trains the points of a stage; returns the box AP of each, None where it diverged."""


def tune_grid(protocol: Protocol, run: Run) -> tuple[float, float, str | None]:
    """The best learning rate and weight decay; and a remark if the best is on the border still.

    A grid of one point is taken as it is.
    """
    lrs, decays = protocol.lrs, protocol.weight_decays
    if len(lrs) == len(decays) == 1:
        return lrs[0], decays[0], None
    scores: dict[Point, float | None] = {}
    for extensions in range(protocol.max_extensions + 1):
        points = [Point(lr, decay, 0.0, protocol.epochs_short) for lr in lrs for decay in decays]
        new = [point for point in points if point not in scores]
        scores |= zip(new, run(GRID, new), strict=True)
        best = best_of(scores)
        wider = extended(lrs, best.lr), extended(decays, best.weight_decay)
        if wider == (lrs, decays):
            return best.lr, best.weight_decay, None
        if extensions < protocol.max_extensions:
            lrs, decays = wider
    remark = (
        f"lr {best.lr:g} with weight decay {best.weight_decay:g} is the best of a grid that grew "
        f"{protocol.max_extensions} time(s) and lies on its border still; a larger "
        "--max-extensions lets it grow on"
    )
    return best.lr, best.weight_decay, remark


def extended(values: tuple[float, ...], best: float) -> tuple[float, ...]:
    """The values of an axis with one more beyond the end at which the best lies, if it does.

    At the same ratio as the two at that end. An axis of one value is not tuned, and does not grow;
    nothing lies below 0.
    """
    if len(values) == 1:
        return values
    if best == values[-1]:
        # From 0 there is no ratio to go on with.
        ratio = values[-1] / values[-2] if values[-2] > 0 else 2.0
        return (*values, values[-1] * ratio)
    if best == values[0] > 0:
        return (values[0] * (values[0] / values[1]), *values)
    return values


def tune_drop_path(protocol: Protocol, run: Run, lr: float, weight_decay: float) -> float:
    """The best drop path; a single one is taken as it is."""
    if len(protocol.drop_paths) == 1:
        return protocol.drop_paths[0]
    points = [
        Point(lr, weight_decay, drop_path, protocol.epochs_drop_path)
        for drop_path in protocol.drop_paths
    ]
    return best_of(dict(zip(points, run(DROP_PATH, points), strict=True))).drop_path


def best_of(scores: dict[Point, float | None]) -> Point:
    """The point of the highest AP, the first of several.

    Raises:
        UserError: all of them diverged.
    """
    kept = {point: score for point, score in scores.items() if score is not None}
    if not kept:
        raise UserError(
            f"all {len(scores)} trials diverged; try lower learning rates (--lrs) in another "
            "--workdir"
        )
    return max(kept, key=kept.get)


def tune(
    protocol: Protocol, run: Run, decide: Callable[[dict[str, float], str | None], None]
) -> None:
    """The whole protocol.

    Args:
        decide: is told what has been chosen so far, and `tune_grid`'s remark.
    """
    lr, weight_decay, remark = tune_grid(protocol, run)
    chosen = {"lr": lr, "weight_decay": weight_decay}
    decide(chosen, remark)
    chosen["drop_path"] = tune_drop_path(protocol, run, lr, weight_decay)
    decide(chosen, remark)
    run(FINAL, [Point(**chosen, epochs=epochs) for epochs in protocol.epochs_final])


def foreseen(protocol: Protocol) -> list[tuple[str, list[Point]]]:
    """Stages and their points as they are if the middle of each axis is the best.

    A point that an earlier stage has is left out.
    """
    axes = protocol.lrs, protocol.weight_decays, protocol.drop_paths
    middle = [values[len(values) // 2] for values in axes]
    stages: list[tuple[str, list[Point]]] = []
    seen: set[Point] = set()

    def run(stage: str, points: Sequence[Point]) -> list[float]:
        stages.append((stage, [point for point in points if point not in seen]))
        seen.update(points)
        return [sum(a == b for a, b in zip(middle, point, strict=False)) for point in points]

    tune(protocol, run, lambda chosen, remark: None)
    return stages


def most_trials(protocol: Protocol) -> int:
    """How many trials a grid has that grows on both sides each time it may."""
    sides = (len(protocol.lrs), len(protocol.weight_decays))
    return math.prod(side + protocol.max_extensions if side > 1 else 1 for side in sides)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return flags.run_stoppable(lambda: _sweep(arguments))


def _sweep(arguments: list[str] | None) -> None:
    given, words = flags.read_arguments(_parser(), arguments)
    base = flags.base_arguments(given, words, given.init, given.weights)
    config = make_trial(given.workdir, "base", base).config
    protocol = _protocol(given, config.initialisation)

    def trial_of(point: Point) -> Trial:
        return make_trial(given.workdir, point.name, base, point.words)

    stages = [(stage, list(map(trial_of, points))) for stage, points in foreseen(protocol)]
    for _, trials in stages:
        for trial in trials:
            check_trial(trial, needs_weights=not given.dry_run)
    data = data_of(config)
    speed = flags.speed_of(given, config, data)
    print(f"sweep of {config.initialisation} in {given.workdir}, {' '.join(base)}")
    print(_plan(protocol, stages, data, speed))
    finished = len([*given.workdir.glob("lr*/result.json")])
    if finished:
        print(f"{finished} trial(s) in {given.workdir} have a result and do not run again")
    if given.dry_run:
        return
    try:
        given.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{given.workdir} cannot be made ({error}); give another") from error

    summary = {"initialisation": config.initialisation, "arguments": base, "stages": {}}
    execute = flags.executor_of(given)
    finals: list[tuple[Point, Trial, Outcome]] = []

    def write_summary() -> None:
        write_json(given.workdir / SUMMARY, summary, indent=2)

    def run(stage: str, points: Sequence[Point]) -> list[float | None]:
        print(f"\n{stage}", flush=True)
        trials = list(map(trial_of, points))
        outcomes = run_trials(trials, execute)
        if stage == FINAL:
            finals.extend(zip(points, trials, outcomes, strict=True))
        summary["stages"].setdefault(stage, {}).update(
            (point.name, {**point._asdict(), **outcome._asdict()})
            for point, outcome in zip(points, outcomes, strict=True)
        )
        write_summary()
        return [outcome.box_ap for outcome in outcomes]

    def decide(chosen: dict[str, float], remark: str | None) -> None:
        summary.update(chosen=chosen, remark=remark)
        write_summary()
        print(f"\nchosen: {', '.join(f'{word} {value:g}' for word, value in chosen.items())}")
        if remark and "drop_path" not in chosen:
            print(f"note: {remark}")

    tune(protocol, run, decide)
    rows = [
        comparison.Row(
            f"{point.epochs:g}", outcome, published_for(trial.config) if data.is_coco else None
        )
        for point, trial, outcome in finals
    ]
    print(f"\n{comparison.markdown(rows, 'epochs')}\n\nsummary  {given.workdir / SUMMARY}")


def _parser() -> argparse.ArgumentParser:
    parser = flags.shared_parser(__doc__, default_size="b")
    protocol = parser.add_argument_group("protocol", "defaults are the paper's")
    add = protocol.add_argument
    add("--from", dest="tuned", type=Path, help="a sweep whose lr and weight decay are taken")
    add("--lrs", type=flags.numbers, help="learning rates of the grid, as 1e-4,2e-4,4e-4")
    add("--weight-decays", type=flags.numbers, help="of the grid")
    add("--drop-paths", type=flags.numbers)
    add("--epochs-short", type=float, help="of the grid's trials")
    add("--epochs-drop-path", type=float)
    add("--epochs-final", type=flags.numbers)
    add("--max-extensions", type=int, help="how often the grid may grow")
    return parser


def _protocol(given: argparse.Namespace, initialisation: str) -> Protocol:
    """The paper's protocol with what the flags change.

    Raises:
        UserError: lr or weight decay are given twice, or the sweep of --from has none.
    """
    protocol = RANDOM if initialisation == "random" else PRETRAINED
    changes = {
        word: value for word in vars(protocol) if (value := getattr(given, word)) is not None
    }
    if given.tuned is not None:
        if changes.keys() & {"lrs", "weight_decays"}:
            raise UserError("--from gives lr and weight decay; leave out --lrs and --weight-decays")
        lr, weight_decay = _tuned(given.tuned / SUMMARY, initialisation)
        changes |= {"lrs": (lr,), "weight_decays": (weight_decay,)}
    if changes.get("max_extensions", 0) < 0:
        raise UserError("--max-extensions is at least 0")
    return replace(protocol, **changes)


def _tuned(path: Path, initialisation: str) -> tuple[float, float]:
    """Learning rate and weight decay that a sweep has chosen."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        chosen = float(summary["chosen"]["lr"]), float(summary["chosen"]["weight_decay"])
        swept = str(summary["initialisation"])
        if not all(map(math.isfinite, chosen)):
            raise ValueError(f"{chosen} are not finite")
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{path} does not say which lr and weight decay were chosen ({error!r}); --from takes "
            "the --workdir of a sweep that has been through its grid"
        ) from error
    if swept != initialisation:
        raise UserError(f"{path} is of {swept} and not of {initialisation}; give a sweep of that")
    return chosen


def _plan(
    protocol: Protocol, stages: Sequence[tuple[str, Sequence[Trial]]], data: Data, speed: Speed
) -> str:
    """What is known beforehand, and what is not."""
    alike: dict[tuple[str, float], list[ConfigDict]] = {}
    for stage, trials in stages:
        for trial in trials:
            alike.setdefault((stage, trial.config.epochs), []).append(trial.config)
    rows = [planned(stage, configs, data, speed) for (stage, _), configs in alike.items()]
    lines = [
        f"  {name}: {', '.join(f'{value:g}' for value in values)}"
        for name, values in (
            ("lr", protocol.lrs),
            ("weight decay", protocol.weight_decays),
            ("drop path", protocol.drop_paths),
            ("epochs of the final runs", protocol.epochs_final),
        )
    ]
    lines += ["", plan_text(rows, data, speed)]
    grid = alike.get((GRID, protocol.epochs_short), [])
    most = most_trials(protocol) - len(grid)
    if grid and most:
        hours = device_hours(grid[0], data, speed)
        more = "" if hours is None else f", {hours_text(most * hours)} device-hours,"
        lines.append(
            "not known beforehand: while the best of the grid lies on its border, the grid grows "
            f"by a value on that side, at most {protocol.max_extensions} time(s) in all; that is "
            f"up to {most} trial(s) of {protocol.epochs_short:g} epochs{more} beyond those above"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
