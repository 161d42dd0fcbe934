"""Results of trials beside the published ones, as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxdet.benchmark.reference import Published, sources
from jaxdet.benchmark.trials.outcome import Outcome

NONE = "-"


class ComparedResult(NamedTuple):
    """One result and what it sets out to reproduce, where that is published."""

    name: str
    outcome: Outcome
    published: Published | None


def markdown(rows: Sequence[ComparedResult], title: str) -> str:
    """The table in Markdown, APs in points; below it, where the published numbers are from."""
    lines = [
        f"| {title} | box AP | published | difference | mask AP | published | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes: list[str] = []
    for row in rows:
        reference, outcome = row.published, row.outcome
        mark = ""
        if reference is not None:
            note = _note(reference)
            notes += [] if note in notes else [note]
            mark = f" [{notes.index(note) + 1}]"
        box, mask = (
            _compared(ap, outcome.diverged, published, mark)
            for ap, published in (
                (outcome.box_ap, reference and reference.box_ap),
                (outcome.mask_ap, reference and reference.mask_ap),
            )
        )
        lines.append(f"| {row.name} | {box} | {mask} |")
    if notes:
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines)


def _compared(ap: float | None, diverged: str | None, published: float | None, mark: str) -> str:
    own = "diverged" if diverged else NONE if ap is None else f"{100 * ap:.1f}"
    if published is None:
        return f"{own} | {NONE} | {NONE}"
    difference = NONE if ap is None else f"{100 * ap - published:+.1f}"
    return f"{own} | {published:.1f}{mark} | {difference}"


def _note(reference: Published) -> str:
    source = sources()[reference.source]
    certainty = {
        f"{kind} AP {certainty}"
        for kind, certainty in (
            ("box", reference.box_certainty),
            ("mask", reference.mask_certainty),
        )
        if certainty
    }
    best = (
        ""
        if reference.epochs or reference.initialisation is None
        else "; the best of several lengths, which one is not said"
    )
    return (
        f"{source.title}, {reference.where} ({source.address}; "
        f"{', '.join(sorted(certainty))}{best})"
    )
