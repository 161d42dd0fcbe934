"""The report's tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxdet.benchmark.reporting.cost_tables import cost_tables
from jaxdet.benchmark.reporting.differences import (
    ONE_RUN,
    difference_notes,
    difference_table,
    has_single,
)
from jaxdet.benchmark.reporting.groups import Section
from jaxdet.benchmark.reporting.run import SkippedRun
from jaxdet.benchmark.reporting.tables import (
    Cell,
    Column,
    Table,
    ap_table,
    frequency_table,
    tide_table,
)
from jaxdet.benchmark.reporting.text import UNSURE, deviations_text, recipe_title, validation

SPECIAL = re.compile(r"([\\`*_\[\]<>|~#$&]|:(?=//))")


def markdown(sections: Sequence[Section], skipped: Sequence[SkippedRun]) -> str:
    """All tables of the report; per recipe, like the page."""
    parts = ["# Detection transfer"]
    if len(sections) > 1:
        parts.append(
            f"These runs are of {len(sections)} recipes. Numbers of different recipes are not "
            "comparable, so each recipe has tables of its own."
        )
    for section in sections:
        parts += _section(section, len(sections))
    if skipped:
        entries = [f"- {plain(s.folder.name)}: {plain(s.reason_without_path)}" for s in skipped]
        parts += ["## Left out", "\n".join(entries)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, of: int) -> list[str]:
    number = f"Recipe {section.number}: " if of > 1 else ""
    parts = [
        f"## {number}{plain(recipe_title(section))}",
        f"Validated on {plain(validation(section))}. AP in points.",
    ]
    if section.deviations:
        theirs = deviations_text(section.deviations, "recipe 1:")
        parts.append(f"Not comparable with recipe 1, which it differs from in: {plain(theirs)}.")
    ap = ap_table(section)
    parts.append(_table(ap))
    notes = []
    for i, note in enumerate(ap.notes, 1):
        link = f" [{plain(note.link[0])}]({note.link[1]})" if note.link else ""
        notes.append(f"{i}. {plain(note.text)}{link}")
    if notes:
        parts.append("\n".join(notes))
    if has_single(section):
        parts.append(plain(ONE_RUN))
    differences = difference_table(section)
    if differences is not None:
        parts += [f"{plain(differences.caption)}:", _table(differences)]
        parts.append(plain(" ".join(difference_notes(section))))
    tables = [tide_table(section, kind) for kind in section.kinds if section.has_tide]
    frequencies = frequency_table(section)
    if frequencies is not None:
        tables = [frequencies, *tables]
    for table in (*tables, *cost_tables(section)):
        parts += [f"{plain(table.caption)}:", _table(table)]
    return parts


def _table(table: Table) -> str:
    names = [plain(_name(column)) or " " for column in table.columns]
    rules = ["---" if column.is_text else "---:" for column in table.columns]
    rows = [names, rules, *([_cell(cell) for cell in row] for row in table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _name(column: Column) -> str:
    return f"{column.group}, {column.text}" if column.group else column.text


def _cell(cell: Cell) -> str:
    text = "<br>".join(plain(line) for line in cell.text.split("\n"))
    if cell.is_best:
        text = f"**{text}**"
    if cell.mark:
        certainty = next(certainty for certainty, sign in UNSURE.items() if sign == cell.mark)
        text += f" ({certainty})"
    return f"{text} <sup>{cell.note}</sup>" if cell.note else text


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
