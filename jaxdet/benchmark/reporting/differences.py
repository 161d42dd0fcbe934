"""The table of differences between initialisations, and how sure these are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxdet.benchmark.reporting.bootstrap import (
    LEVEL,
    Interval,
    over_images,
    over_images_and_seeds,
    over_seeds,
)
from jaxdet.benchmark.reporting.charts import signed
from jaxdet.benchmark.reporting.figures import comparisons
from jaxdet.benchmark.reporting.groups import Drawn, RunGroup, Section
from jaxdet.benchmark.reporting.tables import Cell, Column, Filled, Table, name_columns, table_of
from jaxdet.benchmark.reporting.text import DASH, KIND_NAMES, initialisation_name

Pair = tuple[RunGroup, RunGroup]

ONE_RUN = (
    "Nothing is bold in a column in which a number is of one run (n = 1): what another seed "
    "would change is not known."
)


def difference_table(section: Section) -> Table | None:
    """Each group less the first of its model; None where nothing says how sure that is."""
    pairs = comparisons(section)
    has_seeds = any(min(len(base.runs), len(other.runs)) > 1 for base, other in pairs)
    if not pairs or not (has_seeds or section.drawn):
        return None
    others = [other for _, other in pairs]
    against = [Cell(f"{base.letter} {initialisation_name(base)}") for base, _ in pairs]
    counts = [Cell(f"{len(other.runs)}, {len(base.runs)}") for base, other in pairs]
    columns: list[Filled] = [
        *name_columns(others),
        (Column("less", is_text=True), against),
        (Column("n", title="runs of either"), counts),
    ]
    for kind in section.kinds:
        columns += _compared(pairs, kind, section.drawn)
    caption = f"Differences in points, and where {LEVEL:.0%} of those drawn anew lie"
    return table_of(caption, columns)


def difference_notes(section: Section) -> list[str]:
    """What the table's intervals mean, and what they leave out."""
    notes = [
        "Over seeds: the runs of each side drawn anew, 10 000 times; needs two of either, and of "
        "fewer than five it says little. A run of one seed twice is not two seeds."
    ]
    if section.drawn is None:
        return [*notes, "jaxdet report --bootstrap=1000 draws the validation images as well."]
    notes.append(
        f"Over images: the validation images drawn anew, {section.drawn.count} times, the same "
        "ones for both sides, each run as it was trained. Over both: images and seeds."
    )
    names: dict[str, list[str]] = {}
    for folder, reason in section.drawn.missing.items():
        names.setdefault(reason, []).append(folder.name)
    return notes + [f"Not drawn: {reason} ({', '.join(each)})." for reason, each in names.items()]


def has_single(section: Section) -> bool:
    """Whether the section compares groups of which one is of one run."""
    counts = [len(group.runs) for group in section.groups]
    return len(counts) > 1 and min(counts) == 1


def _compared(pairs: Sequence[Pair], kind: str, drawn: Drawn | None) -> Iterator[Filled]:
    name = f"{KIND_NAMES[kind].capitalize()} AP"
    scores = [[_scores(each, kind) for each in pair] for pair in pairs]
    means = [None if 0 in map(len, pair) else np.diff([*map(np.mean, pair)])[0] for pair in scores]
    cells = [Cell(DASH if mean is None else signed(100 * mean)) for mean in means]
    yield Column("difference", name), cells
    yield Column("over seeds", name), _cells(over_seeds(*pair) for pair in scores)
    if drawn is not None:
        values = [[_drawn(each, kind, drawn) for each in pair] for pair in pairs]
        for text, interval in (
            ("over images", over_images),
            ("over both", over_images_and_seeds),
        ):
            yield (
                Column(text, name),
                _cells(
                    None if any(each is None for each in pair) else interval(*pair)
                    for pair in values
                ),
            )


def _cells(intervals: Iterable[Interval | None]) -> list[Cell]:
    return [
        Cell(DASH if each is None else " to ".join(signed(100 * end) for end in each))
        for each in intervals
    ]


def _scores(group: RunGroup, kind: str) -> np.ndarray:
    values = [run.scores[kind].coco["AP"] for run in group.runs if kind in run.scores]
    return np.array([value for value in values if value is not None])


def _drawn(group: RunGroup, kind: str, drawn: Drawn) -> np.ndarray | None:
    """Runs by draws; None where one of them has none, since the mean would be of other runs."""
    found = [drawn.scores.get(run.folder, {}).get(kind) for run in group.runs]
    return None if any(each is None for each in found) else np.stack(found)
