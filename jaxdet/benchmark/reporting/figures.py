"""What the report's charts show: AP over epochs and size, what errors cost, gains by category."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from jaxdet.benchmark.reporting.charts import (
    Curve,
    Series,
    bar_chart,
    difference_chart,
    line_chart,
)
from jaxdet.benchmark.reporting.csv_text import csv_text
from jaxdet.benchmark.reporting.groups import RunGroup, Section, Statistic
from jaxdet.benchmark.reporting.run import TIDE_ERRORS, Run
from jaxdet.benchmark.reporting.text import (
    ERROR_NAMES,
    KIND_NAMES,
    KIND_PLURALS,
    initialisation_label,
    series_of,
)

SHOWN_CATEGORIES = 5

AREAS = {"APs": "Small, < 32\u00b2", "APm": "Medium", "APl": "Large, > 96\u00b2"}
"""COCO's sizes, areas in pixels of the original image."""


class Figure(NamedTuple):
    """A chart with what is written above it, if anything, and its numbers as CSV."""

    caption: str
    chart: Markup
    csv: str


Lines = Sequence[tuple[Series, Sequence[Curve]]]


def line_figure(lines: Lines, caption: str = "", **chart: Any) -> Figure:
    """Curves; for the chart see `line_chart`."""
    rows = [
        (series.name, number, x, y)
        for series, found in lines
        for number, curve in enumerate(found, 1)
        for x, y in curve
    ]
    head = ("", "run", chart["x_label"], chart["y_label"])
    return Figure(caption, line_chart(lines, **chart), csv_text([head, *rows]))


def bar_figure(
    bars: Sequence[tuple[str, Sequence[float | None]]],
    series: Sequence[Series],
    caption: str,
    **chart: Any,
) -> Figure:
    """Bars; for the chart see `bar_chart`."""
    head = ("", *(each.name for each in series))
    rows = [(name, *values) for name, values in bars]
    return Figure(caption, bar_chart(bars, series, **chart), csv_text([head, *rows]))


def curves(section: Section) -> list[Figure]:
    """AP over epochs, of boxes and of masks, where there is more than the last."""
    figures = []
    for kind, name in KIND_NAMES.items():
        lines = []
        for group, series in zip(section.groups, series_of(section), strict=True):
            found = [curve for run in group.runs if (curve := _curve(run, name))]
            if found:
                lines.append((series, found))
        if any(len(curve) > 1 for _, found in lines for curve in found):
            label = f"{name.capitalize()} AP"
            figures.append(
                line_figure(
                    lines,
                    identity=f"curve-{kind}-{section.number}",
                    title=f"{label} over epochs",
                    x_label="epochs",
                    y_label=label,
                )
            )
    return figures


def _curve(run: Run, name: str) -> list[tuple[float, float]]:
    values = [(point.epoch, getattr(point, name)) for point in run.history]
    return [(epoch, 100 * value) for epoch, value in values if value is not None]


def sizes(section: Section) -> list[Figure]:
    """AP over the number of parameters, a line an initialisation, where there are several sizes.

    Of several lengths of fine-tuning the longest counts.
    """
    figures = []
    for kind, name in KIND_NAMES.items():
        label = f"{name.capitalize()} AP"
        lines = [line for line in _size_lines(section, kind) if len(line[1][0]) > 1]
        if lines:
            figures.append(
                line_figure(
                    lines,
                    identity=f"sizes-{kind}-{section.number}",
                    title=f"{label} over model size",
                    x_label="million parameters",
                    y_label=label,
                )
            )
    return figures


def _size_lines(section: Section, kind: str) -> list[tuple[Series, list[Curve]]]:
    found: dict[str, dict[float, RunGroup]] = {}
    for group in sorted(section.groups, key=lambda group: group.epochs or 0.0):
        if group.coco(kind) is not None and group.first.parameters is not None:
            points = found.setdefault(group.initialisation, {})
            points[group.first.parameters / 1e6] = group
    return [
        (
            Series(min(each.letter for each in points.values()), initialisation_label(name)),
            [[(size, 100 * points[size].coco(kind).mean) for size in sorted(points)]],
        )
        for name, points in found.items()
    ]


def errors(section: Section) -> list[Figure]:
    """What each type of error costs, in boxes and in masks; nothing where that is not known."""
    if not section.has_tide:
        return []
    figures = []
    for kind in section.kinds:
        bars = [
            (ERROR_NAMES[error], [_points(group.tide(kind, error)) for group in section.groups])
            for error in TIDE_ERRORS
        ]
        caption = KIND_PLURALS[kind].capitalize()
        figures.append(
            bar_figure(
                bars,
                series_of(section),
                f"{caption}, points of AP at IoU .5",
                identity=f"errors-{kind}-{section.number}",
                title=f"{caption}: AP lost to each type of error",
            )
        )
    return figures


def _points(share: Statistic | None) -> float | None:
    return None if share is None else 100 * share.mean


def gains(section: Section) -> list[Figure]:
    """The largest gains and losses by category of each pair of `comparisons`."""
    series = {each.letter: each for each in series_of(section)}
    figures = []
    for base, other in comparisons(section):
        rows = category_gains(base, other, section.categories)
        if rows:
            title = f"{_called(series[other.letter])} against {_called(series[base.letter])}"
            chart = difference_chart(
                rows,
                series[other.letter],
                identity=f"categories-{other.letter}",
                title=f"Box AP by category, {title}: largest gains and losses in points",
            )
            head = ("category", "gain in points of box AP")
            figures.append(Figure(title, chart, csv_text([head, *rows])))
    return figures


def _called(series: Series) -> str:
    return f"{series.letter} {series.label}"


def areas(section: Section) -> list[Figure]:
    """AP of small, medium and large objects, in boxes and in masks."""
    figures = []
    for kind in section.kinds:
        bars = [
            (text, [_points(group.coco(kind, name)) for group in section.groups])
            for name, text in AREAS.items()
        ]
        if any(value is not None for _, values in bars for value in values):
            caption = f"{KIND_NAMES[kind].capitalize()} AP, points"
            figures.append(
                bar_figure(
                    bars,
                    series_of(section),
                    caption,
                    identity=f"areas-{kind}-{section.number}",
                    title=f"{caption}, by the size of objects",
                )
            )
    return figures


def comparisons(section: Section) -> list[tuple[RunGroup, RunGroup]]:
    """Pairs whose categories are compared: each with the first of its model in the section, which
    is random initialisation where there is one."""
    firsts: dict[str, RunGroup] = {}
    pairs = [(firsts.setdefault(each.model, each), each) for each in section.groups]
    return [(base, each) for base, each in pairs if base is not each]


def category_gains(
    base: RunGroup, other: RunGroup, categories: Iterable[str]
) -> list[tuple[str, float]]:
    """The categories whose box AP gains and loses most, in points, best gains first."""
    found = []
    for name in categories:
        before, after = base.category_mean("bbox", name), other.category_mean("bbox", name)
        if before is not None and after is not None:
            found.append((name, 100 * (after - before)))
    found.sort(key=lambda gain: -gain[1])
    if len(found) <= 2 * SHOWN_CATEGORIES:
        return found
    return found[:SHOWN_CATEGORIES] + found[-SHOWN_CATEGORIES:]
