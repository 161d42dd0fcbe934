"""The report's tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jaxdet.benchmark.reporting.groups import Table
from jaxdet.benchmark.reporting.runs import Skipped
from jaxdet.benchmark.reporting.tables import (
    Cell,
    Grid,
    Head,
    ap_grid,
    complexity_grid,
    speed_grid,
    tide_grid,
)
from jaxdet.benchmark.reporting.text import (
    UNSURE,
    difference_text,
    recipe_title,
    validation,
)

SPECIAL = re.compile(r"([\\`*_\[\]<>|~#$&]|:(?=//))")


def markdown(tables: Sequence[Table], skipped: Sequence[Skipped]) -> str:
    """All tables of the report; per recipe, like the page."""
    parts = ["# Detection transfer"]
    if len(tables) > 1:
        parts.append(
            f"These runs are of {len(tables)} recipes. Numbers of different recipes are not "
            "comparable, so each recipe has tables of its own."
        )
    for table in tables:
        parts += _section(table, len(tables))
    if skipped:
        parts += [
            "## Left out",
            "\n".join(
                f"- {plain(each.folder.name)}: {plain(each.reason_without_path)}"
                for each in skipped
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _section(table: Table, of: int) -> list[str]:
    title = recipe_title(table.recipe)
    parts = [f"## Recipe {table.number}: {plain(title)}" if of > 1 else f"## {plain(title)}"]
    parts.append(f"Validated on {plain(validation(table.recipe))}. AP in points.")
    if table.differences:
        told = difference_text(table.differences, "recipe 1:")
        parts.append(f"Not comparable with recipe 1, which it differs from in: {plain(told)}.")
    grid = ap_grid(table)
    parts.append(_grid(grid))
    notes = []
    for i, note in enumerate(grid.notes, 1):
        link = f" [{plain(note.link[0])}]({note.link[1]})" if note.link else ""
        notes.append(f"{i}. {plain(note.text)}{link}")
    if notes:
        parts.append("\n".join(notes))
    errors = [tide_grid(table, kind) for kind in table.kinds]
    for each in (*errors, complexity_grid(table), speed_grid(table)):
        if each is not None:
            parts += [f"{plain(each.caption)}:", _grid(each)]
    return parts


def _grid(grid: Grid) -> str:
    heads = [plain(_head(head)) or " " for head in grid.heads]
    rules = ["---" if head.is_text else "---:" for head in grid.heads]
    rows = [heads, rules, *([_cell(cell) for cell in row] for row in grid.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _head(head: Head) -> str:
    return f"{head.group}, {head.text}" if head.group else head.text


def _cell(cell: Cell) -> str:
    text = "<br>".join(plain(line) for line in cell.text.split("\n"))
    if cell.is_best:
        text = f"**{text}**"
    if cell.mark:
        text += f" ({_meaning(cell.mark)})"
    return f"{text} <sup>{cell.note}</sup>" if cell.note else text


def _meaning(mark: str) -> str:
    return next(certainty for certainty, sign in UNSURE.items() if sign == mark)


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
