"""Tables for trackers have the numbers of an evaluation, and none where there is none."""

from __future__ import annotations

import math

from jaxdet.evaluation.tracked import metric_table, per_category_table

METRICS = {
    "bbox": {"AP": 0.25, "APs": math.nan, "per_category": {"b": 0.5, "a": math.nan}},
    "segm": {"AP": 0.125, "APs": math.nan, "per_category": {"b": 0.25, "a": 0.0}},
    "tide": {"bbox": {}},
}


def test_metrics_of_boxes_and_masks():
    table = metric_table(METRICS)
    assert table.columns == ["metric", "bbox", "segm"]
    assert table.rows == [["AP", 0.25, 0.125], ["APs", None, None]]


def test_categories_in_the_data_s_order():
    table = per_category_table({"bbox": METRICS["bbox"]})
    assert table == (["category", "bbox"], [["b", 0.5], ["a", None]])
    assert per_category_table(METRICS).rows == [["b", 0.5, 0.25], ["a", None, 0.0]]
