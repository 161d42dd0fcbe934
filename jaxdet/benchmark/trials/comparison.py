"""Results of trials beside the published ones, as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from jaxdet.benchmark.reference import Published, sources
from jaxdet.benchmark.trials.outcome import Outcome

NONE = "-"


class ComparedResult(NamedTuple):
    """One result and what it sets out to reproduce, where that is published.

    Attributes:
        others: outcomes of other seeds; the table has the mean of all.
    """

    name: str
    outcome: Outcome
    published: Published | None
    others: tuple[Outcome, ...] = ()


def markdown(rows: Sequence[ComparedResult], title: str) -> str:
    """The table in Markdown, APs in points; below it, where the published numbers are from.

    Of several seeds: mean ± standard deviation of a sample, and their number.
    """
    lines = [
        f"| {title} | box AP | published | difference | mask AP | published | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes: list[str] = []
    for row in rows:
        reference, outcomes = row.published, (row.outcome, *row.others)
        mark = ""
        if reference is not None:
            note = _note(reference)
            notes += [] if note in notes else [note]
            mark = f" [{notes.index(note) + 1}]"
        box, mask = (
            _compared(aps, outcomes, published, mark)
            for aps, published in (
                ([each.box_ap for each in outcomes], reference and reference.box_ap),
                ([each.mask_ap for each in outcomes], reference and reference.mask_ap),
            )
        )
        lines.append(f"| {row.name} | {box} | {mask} |")
    if notes:
        lines += ["", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]
    return "\n".join(lines)


def _compared(
    aps: Sequence[float | None],
    outcomes: Sequence[Outcome],
    published: float | None,
    mark: str,
) -> str:
    known = [ap for ap in aps if ap is not None]
    diverged = sum(outcome.diverged is not None for outcome in outcomes)
    ap = statistics.fmean(known) if known else None
    own = "diverged" if diverged == len(outcomes) else NONE if ap is None else f"{100 * ap:.1f}"
    if known and len(outcomes) > 1:
        deviation = f" ± {100 * statistics.stdev(known):.1f}" if len(known) > 1 else ""
        own += f"{deviation} (n {len(known)}{f', {diverged} diverged' if diverged else ''})"
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
