"""Ticks, labels and numbers of the charts."""

from __future__ import annotations

from itertools import pairwise

import pytest

from jaxdet.benchmark.reporting.charts import (
    Series,
    clipped,
    difference_chart,
    signed,
    spread,
    text_width,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (47.1, 50.2, [47, 48, 49, 50, 51]),
        (0, 0, [0, 1e-9]),
        (0.3, 0.3, None),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    found = ticks(low, high, 5)
    assert len(found) >= 2
    assert found[0] <= low <= high <= found[-1] + 1e-12
    if expected and high:
        assert found == pytest.approx(expected)


def test_labels_are_spread_in_order_without_touching():
    wanted = [50.0, 50.0, 51.0, 120.0, 49.0]
    places = spread(wanted, 16, 0, 200)
    ordered = sorted(places)
    assert min(b - a for a, b in pairwise(ordered)) >= 16 - 1e-9
    assert places[4] < places[0] < places[2] < places[3]
    assert places[3] == 120.0
    assert spread([10.0, 90.0], 16, 0, 100) == [10.0, 90.0]


def test_numbers_have_true_signs_and_no_negative_zero():
    assert [signed(value) for value in (0.44, -0.44, 0.04, -0.04)] == [
        "+0.4",
        "\u22120.4",
        "0.0",
        "0.0",
    ]


def test_long_names_are_cut_in_charts_and_whole_in_their_description():
    name = "a category whose name is longer than any chart is wide"
    assert text_width(clipped(name, 20)) <= text_width(20 * "x")
    chart = difference_chart([(name, 1.0)], Series("A"), identity="x", title="t")
    assert f">{name}</text>" not in chart
    assert name in chart
