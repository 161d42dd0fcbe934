"""The charts of what inspections hold: precision over recall, and how many objects there are."""

from __future__ import annotations

import statistics

from jaxdet.benchmark.reporting.charts import Curve, Series
from jaxdet.benchmark.reporting.csv_text import csv_text
from jaxdet.benchmark.reporting.figures import Figure, bar_figure, line_figure
from jaxdet.benchmark.reporting.groups import RunGroup, Section
from jaxdet.benchmark.reporting.text import KIND_NAMES, grouped, series_of

IOUS = {"0.5": "IoU .5", "0.5:0.95": "IoU .5 to .95"}
"""The curves that are shown; the area under the last is AP."""

SHOWN_CATEGORIES = 16

SPLITS = {"train": ("training", 7), "val": ("validation", 6)}
"""Their names and colours, which are of no run where there are less than seven."""


def precision_recall(section: Section) -> list[Figure]:
    """Precision over recall, means over categories and over the runs of a group."""
    figures = []
    for kind in section.kinds:
        for iou, name in IOUS.items():
            lines = [
                (series, [curve])
                for group, series in zip(section.groups, series_of(section), strict=True)
                if (curve := _curve(group, kind, iou))
            ]
            if lines:
                caption = f"{KIND_NAMES[kind].capitalize()} precision at {name}, %"
                figures.append(
                    line_figure(
                        lines,
                        identity=f"precision-{kind}-{len(figures)}-{section.number}",
                        title=f"{caption} over recall",
                        x_label="recall, %",
                        y_label=caption,
                        marked_every=20,
                    )
                )
    return figures


def _curve(group: RunGroup, kind: str, iou: str) -> Curve:
    """Up to the greatest recall that is reached."""
    found = [run.inspection.precision.get(kind, {}) for run in group.runs if run.inspection]
    curves = [each[iou] for each in found if iou in each]
    if not curves or len({len(curve) for curve in curves}) > 1:
        return []
    means = [statistics.fmean(values) for values in zip(*curves, strict=True)]
    last = max((i for i, value in enumerate(means) if value > 0), default=0)
    step = 100 / (len(means) - 1)
    return [(i * step, 100 * value) for i, value in enumerate(means[: last + 1])]


def histogram(section: Section) -> Figure | None:
    """What share of the objects each category has, the most frequent first."""
    known = [run.inspection for run in section.runs if run.inspection]
    # That with most splits: an evaluation after the training does not know the training images.
    counts = max((each.objects for each in known), key=len, default={})
    totals = {split: sum(counts[split]) for split in SPLITS if sum(counts.get(split, []))}
    if not totals:
        return None
    first = next(iter(totals))
    order = sorted(range(len(section.categories)), key=lambda i: -counts[first][i])
    rows = [
        (section.categories[i], [100 * counts[split][i] / totals[split] for split in totals])
        for i in order
    ]
    series = [
        Series(SPLITS[split][0], f"{grouped(total)} objects", SPLITS[split][1])
        for split, total in totals.items()
    ]
    named = ", ".join(f"{each.label} in {each.letter}" for each in series)
    shown = rows[:SHOWN_CATEGORIES]
    more = f"; the {len(shown)} most frequent of {len(rows)}" if len(shown) < len(rows) else ""
    figure = bar_figure(
        shown,
        series,
        f"Share of the objects, %: {named}{more}",
        identity=f"objects-{section.number}",
        title="Share of the objects by category",
    )
    listed = [(section.categories[i], *(counts[split][i] for split in totals)) for i in order]
    return figure._replace(csv=csv_text([("category", *totals), *listed]))
