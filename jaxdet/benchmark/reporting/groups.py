"""Finished runs put in order: a section of the report a recipe, a row of its tables a group.

Runs of one recipe that differ in the seed alone are one group; of several runs of one seed, the
second ones are a group of their own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, product, zip_longest
from pathlib import Path, PurePath
from string import ascii_uppercase
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdet.benchmark.reference import Published
from jaxdet.benchmark.reporting.published import comparison, published_deviations
from jaxdet.benchmark.reporting.recipe import (
    DETECTIONS,
    FROM_FILE,
    Deviation,
    Recipe,
    canonical,
    deviations,
    recipe_of,
    without_common_digests,
)
from jaxdet.benchmark.reporting.recipe_keys import FlatConfig, result_part
from jaxdet.benchmark.reporting.run import Run, Scores
from jaxdet.config.keys import INITIALISATIONS
from jaxdet.config.mask_rcnn import size_of
from jaxdet.evaluation.metric_names import IOU_TYPES


@dataclass(frozen=True)
class Statistic:
    """The mean over seeds; the standard deviation (of a sample) where there are several."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in the seed alone.

    Attributes:
        letter: "A", "B" ... by which charts and tables refer to it.
        distinction: what tells it from others in its section with the same initialisation, model
            and epochs; mostly empty.
        published: the number to compare with, or None and `unpublished` says why.
        deviations: in what else than a published variant its recipe is not the published one.
    """

    letter: str
    runs: tuple[Run, ...]
    distinction: str
    published: Published | None
    unpublished: str | None
    deviations: tuple[Deviation, ...]

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
        return epochs_of(self.first)

    def coco(self, kind: str, name: str = "AP") -> Statistic | None:
        """One of COCO's numbers for boxes or masks over the runs."""
        return self._scored(kind, lambda scores: scores.coco.get(name))

    def tide(self, kind: str, error: str) -> Statistic | None:
        """What an error type costs, over the runs."""
        return self._scored(kind, lambda scores: scores.tide[error])

    def category(self, kind: str, name: str) -> Statistic | None:
        """The AP of a category over the runs."""
        return self._scored(kind, lambda scores: scores.per_category.get(name))

    def category_mean(self, kind: str, name: str) -> float | None:
        """The mean of `category` alone, which is much cheaper."""
        values = [
            run.scores[kind].per_category.get(name) for run in self.runs if kind in run.scores
        ]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    def few_shot(self, name: str) -> Statistic | None:
        return statistic(run.few_shot.get(name) for run in self.runs)

    def _scored(self, kind: str, value: Callable[[Scores], float | None]) -> Statistic | None:
        return statistic(value(run.scores[kind]) for run in self.runs if kind in run.scores)


@dataclass(frozen=True)
class Drawn:
    """AP on draws of the validation images, the same ones for all runs.

    Attributes:
        count: of draws.
        scores: by a run's folder and IoU type, 0..1.
        missing: why a run has none, by its folder.
    """

    count: int
    scores: dict[Path, dict[str, Float[np.ndarray, " draws"]]]
    missing: dict[Path, str]


@dataclass(frozen=True)
class Section:
    """The runs of one recipe, and in what it deviates from the report's first.

    Attributes:
        drawn: None where no images were drawn.
    """

    number: int
    recipe: Recipe
    deviations: tuple[Deviation, ...]
    groups: tuple[RunGroup, ...]
    drawn: Drawn | None = None

    @cached_property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """IoU types that any of the runs was scored in."""
        return tuple(kind for kind in IOU_TYPES if any(kind in run.scores for run in self.runs))

    @cached_property
    def has_tide(self) -> bool:
        """Whether TIDE's errors are known of any run; they are not of LVIS's."""
        scores = [each for run in self.runs for each in run.scores.values()]
        return any(cost is not None for each in scores for cost in each.tide.values())

    @property
    def is_from_files(self) -> bool:
        """Whether detections from files were scored, and no detector is known."""
        return self.recipe[DETECTIONS] == FROM_FILE

    @property
    def categories(self) -> list[str]:
        return self.runs[0].categories

    @property
    def data_folders(self) -> list[str]:
        """The folders validated on, where that is more than one: as much of each path's end as
        tells them apart.
        """
        roots = {PurePath(str(run.evaluated_on["root"])) for run in self.runs}
        longest = max(len(root.parts) for root in roots)
        for length in range(1, longest + 1):
            ends = {PurePath(*root.parts[-length:]).as_posix() for root in roots}
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


def sections(runs: Sequence[Run]) -> list[Section]:
    """Puts runs into sections by recipe, in the order of the first run of each."""
    runs = without_common_digests(runs)
    first, letters = recipe_of(runs[0]), _letters()
    found = []
    for number, members in enumerate(_alike(runs, recipe_of), 1):
        recipe = recipe_of(members[0])
        groups = _groups(members, letters)
        found.append(Section(number, recipe, deviations(recipe, first), groups))
    return found


def initialisation_of(run: Run) -> str:
    """The config's, or the name of the file that the detections are from."""
    return run.detections_file or run.config["initialisation"]


def model_of(run: Run) -> str:
    """Such as "ViT-B", or of another size "ViT 128 x 4" (width x depth)."""
    if run.detections_file is not None:
        return "unknown"
    vit = run.config["model"]["vit"]
    size = size_of(vit)
    if size is not None:
        return f"ViT-{size.upper() if len(size) == 1 else size.capitalize()}"
    return f"ViT {vit['width']}\u2009\u00d7\u2009{vit['depth']}"


def epochs_of(run: Run) -> float | None:
    """The config's, or how long a training that may end early was; None where weights were
    evaluated as given."""
    return run.epochs if run.epochs is None or run.config["early_stop"] else run.config["epochs"]


def _alike(runs: Iterable[Run], identity: Callable[[Run], FlatConfig]) -> list[list[Run]]:
    """Runs of equal identity together."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(canonical(identity(run)), []).append(run)
    return list(found.values())


def _groups(runs: Sequence[Run], letters: Iterator[str]) -> tuple[RunGroup, ...]:
    members = sorted(_alike(runs, _identity), key=lambda alike: _order(alike[0]))
    members = [
        ({**_identity(alike[0]), "run of its seed": number}, once)
        for alike in members
        for number, once in enumerate(_once_a_seed(alike), 1)
    ]
    groups = []
    for identity, alike in members:
        first = alike[0]
        namesakes = [known for known, other in members if _label(other[0]) == _label(first)]
        published, why = comparison(first)
        groups.append(
            RunGroup(
                letter=next(letters),
                runs=tuple(alike),
                distinction=_distinction(identity, namesakes),
                published=published,
                unpublished=why,
                deviations=published_deviations(first, published) if published else (),
            )
        )
    return tuple(groups)


def _once_a_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """The first run of each seed, then the second ones, ..."""
    if runs[0].detections_file is not None:  # what seed it has is unknown
        return [list(runs)]
    of_seed: dict[Any, list[Run]] = {}
    for run in runs:
        of_seed.setdefault(run.config["seed"], []).append(run)
    times = zip_longest(*of_seed.values())
    return [[run for run in once if run is not None] for once in times]


def _identity(run: Run) -> FlatConfig:
    """All that a run's result depends on but the seed."""
    if run.detections_file is not None:
        return {"file": run.checkpoint_sha256}
    return {
        **result_part(run.config),
        "weights": (run.init or {}).get("sha256") or _file_name(run.config["init"]),
        "base run": _file_name(run.config["few_shot"]["base_run"]),
        "detector": _file_name(run.config.get("init_from")),
        "trained": run.epochs is not None,
    }


def _distinction(values: FlatConfig, namesakes: Sequence[FlatConfig]) -> str:
    return ", ".join(
        f"{key.rpartition('.')[2]} {_brief(values.get(key))}"
        for key in sorted({key for other in namesakes for key in other})
        if any(other.get(key) != values.get(key) for other in namesakes)
    )


def _brief(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    is_digest = isinstance(value, str) and len(value) == 64
    return text[:7] if is_digest else text


def _label(run: Run) -> tuple[Any, ...]:
    return initialisation_of(run), model_of(run), epochs_of(run)


def _order(run: Run) -> tuple[Any, ...]:
    """By size, then by initialisation as the paper lists them, then by length."""
    vit, initialisation = run.config["model"]["vit"], initialisation_of(run)
    return (
        vit["width"] * vit["width"] * vit["depth"],
        model_of(run),
        [*INITIALISATIONS, initialisation].index(initialisation),
        initialisation,
        run.config["epochs"],
        canonical(_identity(run)),
    )


def _file_name(path: object) -> str | None:
    return None if path is None else PurePath(str(path)).name


def _letters() -> Iterator[str]:
    """A ... Z, AA, AB ..."""
    for length in count(1):
        for letters in product(ascii_uppercase, repeat=length):
            yield "".join(letters)
