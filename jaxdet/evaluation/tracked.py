"""An evaluation's numbers as tables for trackers, as shares of 1 like those of result.json."""

from __future__ import annotations

import math
from typing import Any

from jaxdet.evaluation.table import KINDS
from jaxdet.training.trackers.tracker import Table


def metric_table(metrics: dict[str, Any]) -> Table:
    """COCO's or LVIS's metrics down the rows, boxes and masks in columns."""
    kinds = [kind for kind, _ in KINDS if kind in metrics]
    names = [name for name, value in metrics[kinds[0]].items() if isinstance(value, int | float)]
    rows = [[name, *(_number(metrics[kind].get(name)) for kind in kinds)] for name in names]
    return Table(["metric", *kinds], rows)


def per_category_table(metrics: dict[str, Any]) -> Table:
    """The AP of every category, in the data's order, of boxes and masks."""
    kinds = [kind for kind, _ in KINDS if kind in metrics]
    aps = [metrics[kind]["per_category"] for kind in kinds]
    rows = [[name, *(_number(each[name]) for each in aps)] for name in aps[0]]
    return Table(["category", *kinds], rows)


def _number(value: float | None) -> float | None:
    """None where there is no ground truth, hence no number."""
    return None if value is None or math.isnan(value) else float(value)
