"""The charts of losses over epochs, on training and, where it was asked for, validation images."""

from __future__ import annotations

from dataclasses import replace

from jaxdet.benchmark.reporting.figures import Figure, line_figure
from jaxdet.benchmark.reporting.groups import Section
from jaxdet.benchmark.reporting.text import loss_label, series_of

VALIDATION = "val/"


def losses(section: Section) -> list[Figure]:
    """The whole loss, then each of its parts, where runs have logged them."""
    names = dict.fromkeys(name for run in section.runs for name in run.losses)
    names = [name for name in names if not name.startswith(VALIDATION)]
    return [figure for name in names if (figure := _loss(section, name))]


def _loss(section: Section, name: str) -> Figure | None:
    lines = []
    for group, series in zip(section.groups, series_of(section), strict=True):
        held_out = replace(series, label="validation", dashes="2 3")
        for each, key in ((series, name), (held_out, VALIDATION + name)):
            curves = [run.losses[key] for run in group.runs if key in run.losses]
            if curves:
                lines.append((each, curves))
    if not any(len(curve) > 1 for _, curves in lines for curve in curves):
        return None
    label = loss_label(name)
    return line_figure(
        lines,
        identity=f"{name}-{section.number}",
        title=f"{label} over epochs",
        x_label="epochs",
        y_label=label,
        marked_every=10,
        decimals=3,
    )
