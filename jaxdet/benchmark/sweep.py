"""Tunes an initialisation as arXiv 2111.11429 tuned each of its five, and trains it to the end.

    jaxdet sweep --init=mae --size=b --weights=/weights/mae_vitb.npz \\
        --data=/data/coco --workdir=runs/sweep_mae_b
    jaxdet sweep --init=mae --size=l --weights=/weights/mae_vitl.npz \\
        --data=/data/coco --workdir=runs/sweep_mae_l --from=runs/sweep_mae_b
    jaxdet sweep --init=my_mae --size=b --weights=/weights/my_mae.npz ...

First a grid of learning rate and weight decay at drop path 0 on the short schedule, made larger
while its best point lies on its border; then drop path on the middle one; then runs of three
lengths. A larger model takes learning rate and weight decay from ViT-B's sweep (--from). With
--config.optim.train=heads the ViT stays as it starts and drop path is not tuned. With
--seeds=3 each of the last runs is trained with three seeds, the config's and those that follow it;
`jaxdet report` then says whether a difference is more than chance. Before anything starts, it
prints the trials and what they cost. Each trial is a run of `jaxdet train` in a folder of its own;
the same command resumes where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

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
    stage_cost,
)
from jaxdet.benchmark.trials.outcome import Outcome
from jaxdet.benchmark.trials.runner import Executor, run_trials
from jaxdet.benchmark.trials.search import (
    FINAL,
    GRID,
    PRETRAINED,
    RANDOM,
    Point,
    SearchSpace,
    most_trials,
    planned_stages,
    tune,
)
from jaxdet.benchmark.trials.trial import Base, Trial, check_trial, make_trial
from jaxdet.errors import UserError
from jaxdet.files import make_folder, read_file, write_json
from jaxdet.flags import Parser, count, local_path, run_main
from jaxdet.models.settings import is_backbone_frozen

SUMMARY = "sweep.json"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments), resumes=True)


def _run(arguments: list[str] | None) -> None:
    options, overrides = flags.read_arguments(_parser(), arguments)
    workdir = options.workdir
    base = flags.make_base(options, overrides, options.init, options.weights)
    space = _search_space(options, base.config.initialisation)
    space = _without_drop_path(space, options, base.config)
    sweep = Sweep(workdir, base, flags.executor_of(options))
    stages = [
        (stage, [sweep.trial_of(point) for point in points])
        for stage, points in planned_stages(space)
    ]
    for _, trials in stages:
        for trial in trials:
            check_trial(trial, needs_weights=not options.dry_run)
    data = data_of(base.config)
    speed = flags.speed_of(options, base.config, data)
    print(f"sweep of {base.config.initialisation} in {workdir}, {' '.join(base.arguments)}")
    print(_plan_text(space, stages, data, speed))
    finished = len([*workdir.glob("lr*/result.json")])
    if finished:
        print(f"{finished} trial(s) in {workdir} have a result and do not run again")
    if options.dry_run:
        return
    make_folder(workdir, "--workdir")
    tune(space, sweep.run_stage, sweep.choose)
    print(f"\n{sweep.table(data)}\n\nsummary  {workdir / SUMMARY}")


class Sweep:
    """A search under way: runs its stages, and keeps in sweep.json what came of them."""

    def __init__(self, workdir: Path, base: Base, execute: Executor):
        self._workdir, self._base, self._execute = workdir, base, execute
        self._finals: list[tuple[Point, Trial, Outcome]] = []
        self._summary = {
            "initialisation": base.config.initialisation,
            "arguments": base.arguments,
            "stages": {},
        }

    def trial_of(self, point: Point) -> Trial:
        overrides = dict(point.overrides)
        if point.repeat:
            overrides["seed"] = self._base.config.seed + point.repeat
        return make_trial(self._workdir, point.name, self._base, overrides)

    def run_stage(self, stage: str, points: Sequence[Point]) -> list[float | None]:
        """Trains the points of a stage; returns the box AP of each, None where it diverged."""
        print(f"\n{stage}", flush=True)
        trials = [self.trial_of(point) for point in points]
        outcomes = run_trials(trials, self._execute)
        if stage == FINAL:
            self._finals += zip(points, trials, outcomes, strict=True)
        self._summary["stages"].setdefault(stage, {}).update(
            (point.name, {**point._asdict(), "seed": trial.config.seed, **outcome._asdict()})
            for point, trial, outcome in zip(points, trials, outcomes, strict=True)
        )
        self._write_summary()
        return [outcome.box_ap for outcome in outcomes]

    def choose(self, chosen: dict[str, float], remark: str | None) -> None:
        """Notes what has been chosen so far."""
        self._summary.update(chosen=chosen, remark=remark)
        self._write_summary()
        print(f"\nchosen: {', '.join(f'{key} {value:g}' for key, value in chosen.items())}")
        if remark and "drop_path" not in chosen:
            print(f"note: {remark}")

    def table(self, data: Data) -> str:
        """The final runs beside what is published of them, in Markdown; a row a length."""
        rows = []
        for epochs, alike in groupby(self._finals, lambda final: final[0].epochs):
            _, (trial, *_), (first, *others) = zip(*alike, strict=True)
            published = published_for(trial.config) if data.is_coco else None
            rows.append(comparison.ComparedResult(f"{epochs:g}", first, published, tuple(others)))
        return comparison.markdown(rows, "epochs")

    def _write_summary(self) -> None:
        write_json(self._workdir / SUMMARY, self._summary, indent=2)


def _parser() -> Parser:
    parser = flags.shared_parser("jaxdet sweep", __doc__, default_size="b")
    add = parser.add_argument_group("search space", "defaults are the paper's").add_argument
    add("--from", dest="tuned", type=local_path, help="a sweep whose lr and weight decay are taken")
    add("--lrs", type=flags.numbers, help="learning rates of the grid, as 1e-4,2e-4,4e-4")
    add("--weight-decays", type=flags.numbers, help="of the grid")
    add("--drop-paths", type=flags.numbers)
    add("--epochs-short", type=float, help="of the grid's trials")
    add("--epochs-drop-path", type=float)
    add("--epochs-final", type=flags.numbers)
    add("--max-extensions", type=int, help="how often the grid may grow")
    add("--seeds", type=count, help="of each of the final runs, from config.seed on; default 1")
    return parser


def _search_space(options: argparse.Namespace, initialisation: str) -> SearchSpace:
    """The paper's search space with what the flags change.

    Raises:
        UserError: lr or weight decay are given twice, or the sweep of --from has none.
    """
    space = RANDOM if initialisation == "random" else PRETRAINED
    changes = {name: value for name in vars(space) if (value := getattr(options, name)) is not None}
    if options.tuned is not None:
        if changes.keys() & {"lrs", "weight_decays"}:
            raise UserError("--from gives lr and weight decay; leave out --lrs and --weight-decays")
        lr, weight_decay = _tuned(options.tuned / SUMMARY, initialisation)
        changes |= {"lrs": (lr,), "weight_decays": (weight_decay,)}
    if changes.get("max_extensions", 0) < 0:
        raise UserError("--max-extensions must be at least 0")
    return replace(space, **changes)


def _without_drop_path(
    space: SearchSpace, options: argparse.Namespace, config: ConfigDict
) -> SearchSpace:
    """The search space for a config; drop path is not tuned where the ViT is not trained."""
    if not is_backbone_frozen(config):
        return space
    if options.drop_paths is not None:
        raise UserError(
            "--drop-paths has no effect where config.optim.train is 'heads', since a ViT that is "
            "not trained drops no path; leave it out"
        )
    return replace(space, drop_paths=(0.0,))


def _tuned(path: Path, initialisation: str) -> tuple[float, float]:
    """Learning rate and weight decay that a sweep has chosen."""
    try:
        summary = json.loads(read_file(path))
        chosen = float(summary["chosen"]["lr"]), float(summary["chosen"]["weight_decay"])
        swept = str(summary["initialisation"])
        if not all(map(math.isfinite, chosen)):
            raise ValueError(f"{chosen} are not finite")
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} does not say which lr and weight decay were chosen ({error!r}); --from takes "
            "the --workdir of a sweep that has been through its grid"
        ) from error
    if swept != initialisation:
        raise UserError(f"{path} is a sweep of {swept}; --from takes one of {initialisation}")
    return chosen


def _plan_text(
    space: SearchSpace, stages: Sequence[tuple[str, Sequence[Trial]]], data: Data, speed: Speed
) -> str:
    """What is known beforehand, and what is not."""
    alike: dict[tuple[str, float], list[ConfigDict]] = {}  # by stage and length
    for stage, trials in stages:
        for trial in trials:
            alike.setdefault((stage, trial.config.epochs), []).append(trial.config)
    rows = [stage_cost(stage, configs, data, speed) for (stage, _), configs in alike.items()]
    lines = [
        f"  {name}: {', '.join(f'{value:g}' for value in values)}"
        for name, values in (
            ("lr", space.lrs),
            ("weight decay", space.weight_decays),
            ("drop path", space.drop_paths),
            ("epochs of the final runs", space.epochs_final),
        )
    ]
    lines += ["", plan_text(rows, data, speed)]
    grid = alike.get((GRID, space.epochs_short), [])
    most = most_trials(space) - len(grid)
    if grid and most:
        hours = device_hours(grid[0], data, speed)
        more = "" if hours is None else f", {hours_text(most * hours)} device-hours,"
        lines.append(
            "not planned: while the best of the grid lies on its border, the grid grows "
            f"by a value on that side, at most {space.max_extensions} time(s) in all; that is "
            f"up to {most} trial(s) of {space.epochs_short:g} epochs{more} beyond those above"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
