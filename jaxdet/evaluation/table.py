"""An evaluation's numbers as text for a terminal."""

from __future__ import annotations

import math
from typing import Any

from jaxdet.evaluation.metric_names import FREQUENCIES, MAIN_ERRORS

KINDS = (("bbox", "box"), ("segm", "mask"))
"""COCO's IoU types and what they are called."""

NAME_WIDTH = 16
LINE_WIDTH = 100
GAP = "   "


def summary_lines(metrics: dict[str, Any], images: int) -> list[str]:
    """All that a terminal shows of an evaluation on so many images."""
    is_lvis = all("APr" in metrics[kind] for kind, _ in KINDS if kind in metrics)
    lines = frequency_table(metrics) if is_lvis else category_table(metrics)
    lines += tide_lines(metrics.get("tide", {}))
    for kind, name in KINDS:
        if kind not in metrics:
            continue
        numbers = metrics[kind]
        lines.append(
            f"{name:4} AP {points(numbers['AP'])}   AP50 {points(numbers['AP50'])}   "
            f"AP75 {points(numbers['AP75'])}   ({images} images)"
        )
        if "few_shot" in metrics:
            lines.append(f"{name:4} AP of {few_shot_summary(metrics['few_shot'], kind)}")
    return lines


def few_shot_summary(numbers: dict[str, float], kind: str) -> str:
    """The APs of base and novel classes of one IoU type in a few words."""
    return ", ".join(
        f"{classes} classes {100 * numbers[f'{classes}_{kind}']:.1f}"
        for classes in ("base", "novel")
    )


def category_table(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """The AP of every category in points, in the data's order, down the columns of a table.

    Args:
        metrics: as `jaxdet.evaluation.coco.evaluate_coco` returns them, of boxes, masks or both.
    """
    kinds = [(kind, name) for kind, name in KINDS if kind in metrics]
    names = list(metrics[kinds[0][0]]["per_category"])
    width = min(max(map(len, ["category", *names])), NAME_WIDTH)
    head = " ".join([f"{'category':{width}}", *(f"{name:>5}" for _, name in kinds)])
    cells = [
        " ".join(
            [
                f"{_shortened(category, width):{width}}",
                *(points(metrics[kind]["per_category"][category]) for kind, _ in kinds),
            ]
        )
        for category in names
    ]
    columns = max(1, min(len(cells), (LINE_WIDTH + len(GAP)) // (len(head) + len(GAP))))
    rows = math.ceil(len(cells) / columns)
    heads = [head] * math.ceil(len(cells) / rows)
    return [GAP.join(line).rstrip() for line in (heads, *(cells[row::rows] for row in range(rows)))]


def frequency_table(metrics: dict[str, dict[str, Any]]) -> list[str]:
    """LVIS's AP of rare, common and frequent categories in points; its categories are too many."""
    kinds = [(kind, name) for kind, name in KINDS if kind in metrics]
    lines = [" ".join([f"{'categories':10}", *(f"{name:>5}" for _, name in kinds)])]
    for frequency, name in FREQUENCIES.items():
        cells = (points(metrics[kind][f"AP{frequency}"]) for kind, _ in kinds)
        lines.append(" ".join([f"{name:10}", *cells]))
    return lines


def tide_lines(tide: dict[str, dict[str, Any]]) -> list[str]:
    """What each type of error costs, in points of AP at IoU .5: a line for boxes, one for masks."""
    lines = []
    for kind, name in KINDS:
        if kind in tide:
            gains = {error: tide[kind]["main"][error] for error in MAIN_ERRORS}
            gains |= tide[kind]["special"]
            parts = [f"{error} {points(gain).strip()}" for error, gain in gains.items()]
            lines.append(f"{name:4} AP50 lost to {'  '.join(parts)}")
    return lines


def points(value: float) -> str:
    """A number of 0..1 in points, five characters wide; a dash where there is none."""
    return f"{100 * value:5.1f}" if math.isfinite(value) else f"{'-':>5}"


def _shortened(name: str, width: int) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return printable if len(printable) <= width else printable[: width - 1] + "…"
