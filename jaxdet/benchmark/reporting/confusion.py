"""Which categories runs take for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jaxdet.benchmark.reporting.csv_text import csv_text
from jaxdet.benchmark.reporting.groups import RunGroup, Section
from jaxdet.benchmark.reporting.inspection_file import Inspection
from jaxdet.benchmark.reporting.text import initialisation_name

MOST_CATEGORIES = 12
NOTHING_FOUND, NOTHING_THERE = "missed", "nothing there"


class Count(NamedTuple):
    """How often, as a share of the row, and whether it is as it should be."""

    times: int
    share: float
    is_right: bool


class Matrix(NamedTuple):
    """Rows are what is there, columns what was found."""

    letter: str
    title: str
    columns: list[str]
    rows: list[tuple[str, list[Count]]]
    csv: str


def matrices(section: Section) -> list[Matrix]:
    """Of the first run of each group that has one, all of the same categories."""
    known = [(group, group.first.inspection) for group in section.groups]
    known = [(group, found) for group, found in known if found and found.confusion]
    if not known:
        return []
    shown = _most_confused([found for _, found in known], len(section.categories))
    return [_matrix(group, found, shown) for group, found in known]


def _most_confused(found: Sequence[Inspection], classes: int) -> list[int]:
    """The categories most often taken for another, or others for them, in the data's order."""
    confused: Counter[int] = Counter()
    for inspection in found:
        for pair, times in inspection.confusion.items():
            if pair[0] != pair[1]:
                # Misses and false alarms have a row and a column of their own: they count little.
                weight = times if classes not in pair else 1e-3 * times
                confused.update({each: weight for each in pair if each < classes})
    ranked = sorted(range(classes), key=lambda label: -confused[label])
    return sorted(ranked[:MOST_CATEGORIES])


def _matrix(group: RunGroup, found: Inspection, shown: Sequence[int]) -> Matrix:
    names, background = found.categories, len(found.categories)
    columns = [*shown, background]
    totals: Counter[int] = Counter()
    for (there, _), times in found.confusion.items():
        totals[there] += times
    rows = []
    for there in columns:
        name = NOTHING_THERE if there == background else names[there]
        counts = [
            Count(times, times / max(totals[there], 1), there == column)
            for column in columns
            for times in [found.confusion.get((there, column), 0)]
        ]
        rows.append((name, counts))
    labels = [*names, NOTHING_THERE]
    listed = [
        (labels[there], NOTHING_FOUND if column == background else names[column], times)
        for (there, column), times in sorted(found.confusion.items())
    ]
    return Matrix(
        group.letter,
        f"{group.letter} {initialisation_name(group)}, from score {found.score:.2f}",
        [*(names[label] for label in shown), NOTHING_FOUND],
        rows,
        csv_text([("there", "found", "times"), *listed]),
    )
