"""The search of arXiv 2111.11429 for an initialisation's hyperparameters (section 4.2).

First a grid of learning rate and weight decay at drop path 0 on the short schedule, made larger
while its best point lies on its border; then drop path on the middle one; then runs of three
lengths, of one or several seeds each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from jaxdet.errors import UserError

GRID, DROP_PATH, FINAL = "lr x weight decay", "drop path", "final"


@dataclass(frozen=True)
class SearchSpace:
    """What is tried: values in ascending order, lengths in epochs."""

    lrs: tuple[float, ...] = (0.8e-4, 1.6e-4, 3.2e-4)
    weight_decays: tuple[float, ...] = (0.05, 0.1, 0.2)
    drop_paths: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    epochs_short: float = 25.0
    epochs_drop_path: float = 50.0
    epochs_final: tuple[float, ...] = (25.0, 50.0, 100.0)
    max_extensions: int = 3
    seeds: int = 1


PRETRAINED = SearchSpace()
RANDOM = replace(
    PRETRAINED, epochs_short=100.0, epochs_drop_path=100.0, epochs_final=(100.0, 200.0, 400.0)
)
"""What the paper tries; how often the grid may grow is ours, and how many seeds are."""


class Point(NamedTuple):
    """What one trial tries; `repeat` is added to the config's seed."""

    lr: float
    weight_decay: float
    drop_path: float
    epochs: float
    repeat: int = 0

    @property
    def name(self) -> str:
        return (
            f"lr{_scientific(self.lr)}_wd{self.weight_decay:.12g}_dp{self.drop_path:.12g}_"
            f"{self.epochs:.12g}ep{f'_repeat{self.repeat}' if self.repeat else ''}"
        )

    @property
    def overrides(self) -> dict[str, float]:
        """The keys of the config that make this trial, but for its seed."""
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


RunStage = Callable[[str, Sequence[Point]], Sequence[float | None]]
"""Trains the points of a stage; returns the box AP of each, None where it diverged."""


def tune_grid(space: SearchSpace, run: RunStage) -> tuple[float, float, str | None]:
    """The best learning rate and weight decay; and a remark if the best is on the border still.

    A grid of one point is taken as it is.
    """
    lrs, decays = space.lrs, space.weight_decays
    if len(lrs) == len(decays) == 1:
        return lrs[0], decays[0], None
    scores: dict[Point, float | None] = {}
    for extensions in range(space.max_extensions + 1):
        points = [Point(lr, decay, 0.0, space.epochs_short) for lr in lrs for decay in decays]
        new = [point for point in points if point not in scores]
        scores |= zip(new, run(GRID, new), strict=True)
        best = best_of(scores)
        wider = extended(lrs, best.lr), extended(decays, best.weight_decay)
        if wider == (lrs, decays):
            return best.lr, best.weight_decay, None
        if extensions < space.max_extensions:
            lrs, decays = wider
    remark = (
        f"lr {best.lr:g} with weight decay {best.weight_decay:g} is the best of a grid that grew "
        f"{space.max_extensions} time(s) and lies on its border still; a larger "
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
        # From 0 no ratio follows.
        ratio = values[-1] / values[-2] if values[-2] > 0 else 2.0
        return (*values, values[-1] * ratio)
    if best == values[0] > 0:
        return (values[0] * (values[0] / values[1]), *values)
    return values


def tune_drop_path(space: SearchSpace, run: RunStage, lr: float, weight_decay: float) -> float:
    """The best drop path; a single one is taken as it is."""
    if len(space.drop_paths) == 1:
        return space.drop_paths[0]
    points = [
        Point(lr, weight_decay, drop_path, space.epochs_drop_path) for drop_path in space.drop_paths
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
    space: SearchSpace, run: RunStage, choose: Callable[[dict[str, float], str | None], None]
) -> None:
    """The whole search.

    Args:
        choose: called with what has been chosen so far, and `tune_grid`'s remark.
    """
    lr, weight_decay, remark = tune_grid(space, run)
    chosen = {"lr": lr, "weight_decay": weight_decay}
    choose(chosen, remark)
    chosen["drop_path"] = tune_drop_path(space, run, lr, weight_decay)
    choose(chosen, remark)
    finals = product(space.epochs_final, range(space.seeds))
    run(FINAL, [Point(**chosen, epochs=epochs, repeat=repeat) for epochs, repeat in finals])


def planned_stages(space: SearchSpace) -> list[tuple[str, list[Point]]]:
    """Stages and their points as they are if the middle of each axis is the best.

    A point that an earlier stage has is left out.
    """
    axes = space.lrs, space.weight_decays, space.drop_paths
    middle = [values[len(values) // 2] for values in axes]
    stages: list[tuple[str, list[Point]]] = []
    seen: set[Point] = set()

    def run(stage: str, points: Sequence[Point]) -> list[float]:
        stages.append((stage, [point for point in points if point not in seen]))
        seen.update(points)
        return [sum(a == b for a, b in zip(middle, point, strict=False)) for point in points]

    tune(space, run, lambda chosen, remark: None)
    return stages


def most_trials(space: SearchSpace) -> int:
    """How many trials a grid has that grows on both sides each time it may."""
    sides = (len(space.lrs), len(space.weight_decays))
    return math.prod(side + space.max_extensions if side > 1 else 1 for side in sides)
