"""What an evaluation prints."""

from __future__ import annotations

import math

from jaxdet.evaluation.metric_names import MAIN_ERRORS
from jaxdet.evaluation.table import category_table, summary_lines, tide_lines


def metrics_of(count: int, *kinds: str):
    ap = {f"class {i}": i / 100 for i in range(count)}
    return {kind: {"per_category": ap} for kind in kinds}


def test_eighty_classes_fit_a_screen_in_the_data_s_order():
    table = category_table(metrics_of(80, "bbox", "segm"))
    assert len(table) <= 30
    assert max(map(len, table)) <= 100
    rows = len(table) - 1
    across = [f"class {i}" for row in range(rows) for i in range(row, 80, rows)]
    text = "\n".join(table[1:])
    places = [text.index(f"{name} ") for name in across]
    assert places == sorted(places)


def test_few_classes_without_masks_have_a_table():
    metrics = metrics_of(2, "bbox")
    metrics["bbox"]["per_category"]["class 1"] = math.nan
    assert category_table(metrics) == [
        "category   box   category   box",
        "class 0    0.0   class 1      -",
    ]
    assert len(category_table(metrics_of(1, "bbox", "segm"))) == 2


def test_names_from_a_file_cannot_break_the_table():
    metrics = {"bbox": {"per_category": {"a\x1b[31m\nb": 0.5, "x" * 200: 1.0}}}
    table = category_table(metrics)
    assert len(table) == 2
    assert all(line.isprintable() for line in table)
    assert "…" in table[1]


def test_errors_have_a_line_for_boxes_and_one_for_masks():
    gains = {"AP": 0.5, "main": dict.fromkeys(MAIN_ERRORS, 0.015)}
    gains["special"] = {"FalsePos": math.nan, "FalseNeg": 0.25}
    boxes, masks = tide_lines({"bbox": gains, "segm": gains})
    assert boxes.startswith("box  AP50 lost to Cls 1.5  Loc 1.5")
    assert masks.startswith("mask AP50 lost to")
    assert masks.endswith("FalsePos -  FalseNeg 25.0")


def test_lvis_shows_its_frequencies_and_no_categories():
    numbers = {"AP": 0.4, "AP50": 0.6, "AP75": 0.5, "APr": 0.25, "APc": math.nan, "APf": 0.5}
    lines = summary_lines({"bbox": {**numbers, "per_category": {"a": 0.4}}}, 20)
    assert lines == [
        "categories   box",
        "rare        25.0",
        "common         -",
        "frequent    50.0",
        "box  AP  40.0   AP50  60.0   AP75  50.0   (20 images)",
    ]
