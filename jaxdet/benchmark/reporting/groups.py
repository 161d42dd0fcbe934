"""Finished runs put into tables: a table a recipe, a row a configuration.

Runs of one recipe that differ in the seed alone are one configuration.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from jaxdet.benchmark.reference import Published
from jaxdet.benchmark.reporting.recipes import (
    RESULT_NEUTRAL,
    Difference,
    Words,
    canonical,
    comparison,
    departures,
    differences,
    flat,
    is_under,
    recipe,
)
from jaxdet.benchmark.reporting.runs import Run
from jaxdet.config.keys import INITIALISATIONS
from jaxdet.config.mask_rcnn import VIT_SIZES


@dataclass(frozen=True)
class Statistic:
    """The mean over seeds; the standard deviation (of a sample) where there are several."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed alone.

    Attributes:
        key: "A", "B" ... by which charts and tables refer to it.
        distinction: what tells it from others in its table with the same initialisation, model and
            epochs; mostly empty.
        published: the number to compare with, or None and `unpublished` says why.
        departures: in what else than a published variant its recipe is not the published one.
    """

    key: str
    runs: tuple[Run, ...]
    distinction: str
    published: Published | None
    unpublished: str | None
    departures: tuple[Difference, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def initialisation(self) -> str:
        return initialisation_of(self.first)

    @property
    def model(self) -> str:
        return model_of(self.first)

    @property
    def epochs(self) -> float | None:
        return None if self.first.epochs is None else self.first.config["epochs"]

    def coco(self, kind: str, name: str = "AP") -> Statistic | None:
        """One of COCO's numbers for boxes or masks over the runs."""
        return statistic(run.scores[kind].coco.get(name) for run in self.runs if kind in run.scores)

    def tide(self, kind: str, error: str) -> Statistic | None:
        """What an error type costs, over the runs."""
        scores = [run.scores[kind] for run in self.runs if kind in run.scores]
        return statistic(s.tide[error] for s in scores if s.tide is not None)

    def category(self, kind: str, name: str) -> Statistic | None:
        """The AP of a category over the runs."""
        return statistic(
            run.scores[kind].per_category.get(name) for run in self.runs if kind in run.scores
        )

    def few_shot(self, name: str) -> Statistic | None:
        return statistic(run.few_shot.get(name) for run in self.runs)


@dataclass(frozen=True)
class Table:
    """Configurations of one recipe, and in what it differs from the report's first."""

    number: int
    recipe: Words
    differences: tuple[Difference, ...]
    configurations: tuple[Configuration, ...]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """IoU types that any of the runs was scored in."""
        runs = [run for each in self.configurations for run in each.runs]
        return tuple(kind for kind in ("bbox", "segm") if any(kind in r.scores for r in runs))

    @property
    def categories(self) -> list[str]:
        return list(self.configurations[0].first.scores["bbox"].per_category)

    @property
    def data_folders(self) -> list[str]:
        """The folders validated on, where that is more than one: as much of each path's end as
        tells them apart.
        """
        runs = [run for each in self.configurations for run in each.runs]
        roots = {PurePath(str(run.evaluated_on["root"])) for run in runs}
        longest = max(len(root.parts) for root in roots)
        for count in range(1, longest + 1):
            ends = {PurePath(*root.parts[-count:]).as_posix() for root in roots}
            if len(ends) == len(roots):
                break
        return sorted(ends) if len(roots) > 1 else []


def statistic(values: Iterable[float | None]) -> Statistic | None:
    """Over the values there are; None where there are none."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(statistics.fmean(values), deviation, len(values))


def tables(runs: Sequence[Run]) -> list[Table]:
    """Puts runs into tables by recipe, in the order of the first run of each."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(canonical(recipe(run)), []).append(run)
    made, first, keys = [], recipe(runs[0]), _keys()
    for number, group in enumerate(groups.values(), 1):
        words = recipe(group[0])
        configurations = _configurations(group, keys)
        made.append(Table(number, words, differences(words, first), configurations))
    return made


def initialisation_of(run: Run) -> str:
    """The config's, or the name of the file that the detections are from."""
    return run.detections_file or run.config["initialisation"]


def model_of(run: Run) -> str:
    """Such as "ViT-B", or of another size "ViT 128 x 4" (width x depth)."""
    if run.detections_file is not None:
        return "not told"
    vit = run.config["model"]["vit"]
    for size, words in VIT_SIZES.items():
        if all(vit[word] == value for word, value in words.items()):
            return f"ViT-{size.upper() if len(size) == 1 else size.capitalize()}"
    return f"ViT {vit['width']}\u2009\u00d7\u2009{vit['depth']}"


def _configurations(runs: Sequence[Run], keys: Iterator[str]) -> tuple[Configuration, ...]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(canonical(_identity(run)), []).append(run)
    ordered = sorted(groups.values(), key=lambda group: _order(group[0]))
    labels = [_label(group[0]) for group in ordered]
    made = []
    for group, label in zip(ordered, labels, strict=True):
        alike = [
            _identity(other[0]) for other, its in zip(ordered, labels, strict=True) if its == label
        ]
        published, why = comparison(group[0])
        made.append(
            Configuration(
                key=next(keys),
                runs=tuple(group),
                distinction=_distinction(_identity(group[0]), alike),
                published=published,
                unpublished=why,
                departures=departures(group[0], published) if published else (),
            )
        )
    return tuple(made)


def _identity(run: Run) -> Words:
    """All that a run's result depends on but the seed."""
    left_out = ["seed", *RESULT_NEUTRAL]
    if run.config["batch_statistics"] == "batch":
        left_out.append("accumulate")
    words = {
        word: value for word, value in flat(run.config).items() if not is_under(word, left_out)
    }
    if run.detections_file is not None:
        return {"file": run.checkpoint_sha256 or run.detections_file}
    words["weights"] = (run.init or {}).get("sha256") or _file_name(run.config["init"])
    words["base run"] = _file_name(run.config["few_shot"]["base_run"])
    words["trained"] = run.epochs is not None
    return words


def _distinction(words: Words, alike: list[Words]) -> str:
    told = [
        f"{word.rpartition('.')[2]} {_brief(words.get(word))}"
        for word in sorted({name for other in alike for name in other})
        if any(other.get(word) != words.get(word) for other in alike)
    ]
    return ", ".join(told)


def _brief(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    is_digest = isinstance(value, str) and len(value) == 64
    return text[:7] if is_digest else text


def _label(run: Run) -> tuple[Any, ...]:
    epochs = None if run.epochs is None else run.config["epochs"]
    return initialisation_of(run), model_of(run), epochs


def _order(run: Run) -> tuple[Any, ...]:
    """By size, then by initialisation as the paper lists them, then by length."""
    vit, initialisation = run.config["model"]["vit"], initialisation_of(run)
    known = [*INITIALISATIONS, initialisation].index(initialisation)
    return (
        vit["width"] * vit["width"] * vit["depth"],
        model_of(run),
        known,
        initialisation,
        run.config["epochs"],
        canonical(_identity(run)),
    )


def _file_name(path: object) -> str | None:
    return None if path is None else PurePath(str(path)).name


def _keys() -> Iterator[str]:
    """A ... Z, AA, AB ..."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    count = 0
    while True:
        number, key = count, letters[count % 26]
        while number >= 26:
            number = number // 26 - 1
            key = letters[number % 26] + key
        yield key
        count += 1
