"""The report's tables as rows of cells, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from jaxdet.benchmark.reporting.charts import decimal, signed
from jaxdet.benchmark.reporting.csv_text import csv_text
from jaxdet.benchmark.reporting.groups import RunGroup, Section, Statistic
from jaxdet.benchmark.reporting.run import TIDE_ERRORS
from jaxdet.benchmark.reporting.text import (
    CERTAINTY_NAMES,
    DASH,
    ERROR_NAMES,
    KIND_NAMES,
    KIND_PLURALS,
    UNSURE,
    initialisation_name,
    points,
    published_value,
    source_link,
    source_note,
)
from jaxdet.evaluation.metric_names import FREQUENCIES

MOST_CATEGORIES = 2000
"""Rows of a table of categories: more than public sets have, and a browser still opens the page."""


@dataclass(frozen=True)
class Column:
    """A column's name, the group of columns it is in, an explanation, and whether it is of text."""

    text: str
    group: str = ""
    title: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Cell:
    """What is in a row and column; lines of text are divided by newlines.

    Attributes:
        note: number of the footnote, 0 for none.
        mark: how unsure a published number is: a sign, with `title` saying it.
        letter: of the group whose runs the cell leads to.
        is_best: whether it is the best of its column.
        is_code: whether it is a digest.
    """

    text: str
    title: str = ""
    note: int = 0
    mark: str = ""
    letter: str = ""
    is_best: bool = False
    is_code: bool = False


@dataclass(frozen=True)
class Footnote:
    """A footnote, and the title and address of its source if it has one."""

    text: str
    link: tuple[str, str] | None = None


@dataclass(frozen=True)
class Table:
    """Columns, and rows of as many cells."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[Footnote, ...] = ()

    @property
    def column_groups(self) -> list[tuple[str, int]]:
        """The groups of neighbouring columns and how many these are; empty where none has one."""
        if not any(column.group for column in self.columns):
            return []
        groups = groupby(self.columns, lambda column: column.group)
        return [(group, len(list(columns))) for group, columns in groups]

    @property
    def csv(self) -> str:
        """What it shows, as CSV."""
        head = [f"{each.group} {each.text}".strip() for each in self.columns]
        return csv_text([head, *([cell.text for cell in row] for row in self.rows)])


Filled = tuple[Column, Sequence[Cell]]
"""A column with its cells."""


def table_of(caption: str, columns: Iterable[Filled], notes: Iterable[Footnote] = ()) -> Table:
    """A table of columns that are all as long."""
    names, cells = zip(*columns, strict=True)
    return Table(caption, names, tuple(zip(*cells, strict=True)), tuple(notes))


def name_columns(groups: Sequence[RunGroup]) -> list[Filled]:
    """The columns that say which group a row is of."""
    return [
        (Column("", is_text=True), [Cell(each.letter, letter=each.letter) for each in groups]),
        (Column("Initialisation", is_text=True), [Cell(initialisation_name(g)) for g in groups]),
        (Column("Model", is_text=True), [Cell(each.model) for each in groups]),
    ]


def ap_table(section: Section) -> Table:
    """AP by group, the published number and the difference beside it."""
    groups, notes = section.groups, []
    columns = [*name_columns(groups), (Column("Epochs"), [_epochs(each) for each in groups])]
    for kind in section.kinds:
        columns += _compared(groups, kind, notes)
    for classes in ("base", "novel"):
        values = [each.few_shot(f"{classes}_bbox") for each in groups]
        if any(values):
            column = Column(f"{classes.capitalize()} classes", "Box AP of")
            columns.append((column, best_marked(values)))
    if any(len(each.runs) > 1 for each in groups):
        column = Column("n", title="runs, which differ in the seed at most")
        columns.append((column, [Cell(str(len(each.runs))) for each in groups]))
    column = Column("Config \u00b7 weights", title="SHA-256, first digits", is_text=True)
    columns.append((column, [_digests(each) for each in groups]))
    return table_of("", columns, notes)


def coco_table(section: Section, kind: str) -> Table:
    """All of COCO's or LVIS's numbers for boxes or masks."""
    scores = [run.scores[kind] for run in section.runs if kind in run.scores]
    names = dict.fromkeys(name for each in scores for name in each.coco)
    columns = [
        (Column(name), best_marked([each.coco(kind, name) for each in section.groups]))
        for name in names
    ]
    metric = "LVIS" if "APr" in names else "COCO"
    caption = f"{metric}'s numbers for {KIND_PLURALS[kind]}, in points"
    return table_of(caption, [*name_columns(section.groups), *columns])


def frequency_table(section: Section) -> Table | None:
    """LVIS's AP of rare, common and frequent categories; None for other metrics."""
    groups, columns = section.groups, []
    for kind in section.kinds:
        for frequency, name in FREQUENCIES.items():
            values = [each.coco(kind, f"AP{frequency}") for each in groups]
            if any(values):
                group = f"{KIND_NAMES[kind].capitalize()} AP"
                columns.append((Column(name, group), best_marked(values)))
    if not columns:
        return None
    rare = [each.published and each.published.rare_mask_ap for each in groups]
    if any(rare):
        cells = [Cell(DASH if ap is None else decimal(ap)) for ap in rare]
        columns.append((Column("published", "Mask AP, rare"), cells))
    return table_of(
        "AP by how frequent categories are, in points", [*name_columns(groups), *columns]
    )


def tide_table(section: Section, kind: str) -> Table:
    """Absolute AP lost to each type of error."""
    columns = [
        (
            Column(error, title=ERROR_NAMES[error]),
            [Cell(points(each.tide(kind, error))) for each in section.groups],
        )
        for error in TIDE_ERRORS
    ]
    caption = f"AP of {KIND_PLURALS[kind]} at IoU .5 lost to each type of error, in points"
    return table_of(caption, [*name_columns(section.groups), *columns])


def category_table(section: Section, kind: str) -> Table:
    """AP of every category."""
    groups = section.groups
    columns = (
        Column("Category", is_text=True),
        *(Column(each.letter, title=initialisation_name(each)) for each in groups),
    )
    names = section.categories[:MOST_CATEGORIES]
    rows = tuple(
        (Cell(name), *best_marked([each.category(kind, name) for each in groups])) for name in names
    )
    caption = f"{KIND_NAMES[kind].capitalize()} AP by category"
    if len(names) < len(section.categories):
        caption += f", the first {len(names)} of {len(section.categories)}"
    return Table(caption, columns, rows)


def best_marked(values: Sequence[Statistic | None]) -> list[Cell]:
    """Cells of numbers; those that print as the best are marked, where others do not.

    Beside a number of one run nothing is: it may be the best by its seed alone.
    """
    cells = [Cell(points(value)) for value in values]
    shown = [None if value is None else round(100 * value.mean, 1) for value in values]
    different = {number for number in shown if number is not None}
    is_single = any(value is not None and value.count < 2 for value in values)
    if len(different) < 2 or is_single:
        return cells
    return [
        replace(cell, is_best=number == max(different))
        for cell, number in zip(cells, shown, strict=True)
    ]


def _compared(groups: Sequence[RunGroup], kind: str, notes: list[Footnote]) -> Iterable[Filled]:
    name = f"{KIND_NAMES[kind].capitalize()} AP"
    yield Column("ours", name), best_marked([each.coco(kind) for each in groups])
    yield Column("published", name), [_published(each, kind, notes) for each in groups]
    if any(each.published for each in groups):
        column = Column("difference", name, "ours less published, in points")
        yield column, [_difference(each, kind) for each in groups]


def _epochs(group: RunGroup) -> Cell:
    if group.epochs is None:
        return Cell(DASH, "evaluated as given, not trained in this run")
    return Cell(f"{group.epochs:g}")


def _published(group: RunGroup, kind: str, notes: list[Footnote]) -> Cell:
    value, certainty = published_value(group.published, kind)
    if group.published is None:
        return Cell(DASH, note=_number_of(Footnote(f"{group.unpublished}."), notes))
    note = _number_of(Footnote(source_note(group), source_link(group.published)), notes)
    if value is None:
        return Cell(DASH, "not published", note=note)
    return Cell(decimal(value), CERTAINTY_NAMES[certainty], note, UNSURE.get(certainty, ""))


def _number_of(note: Footnote, notes: list[Footnote]) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def _difference(group: RunGroup, kind: str) -> Cell:
    ours, (published, _) = group.coco(kind), published_value(group.published, kind)
    if ours is None or published is None:
        return Cell(DASH)
    return Cell(signed(100 * ours.mean - published))


def _digests(group: RunGroup) -> Cell:
    runs = [(run.config_sha256, run.checkpoint_sha256) for run in group.runs]
    return Cell(
        "\n".join(f"{config[:7]} \u00b7 {weights[:7]}" for config, weights in runs),
        "\n".join(f"config {config}, weights {weights}" for config, weights in runs),
        letter=group.letter,
        is_code=True,
    )
