"""The tables of what models cost."""

from __future__ import annotations

from jaxdet.benchmark.reporting.cost_tables import complexity_table
from tests.benchmark.reporting.made_up import cells, sections_of


def test_complexity_has_one_row_for_models_of_the_same_structure(write):
    paths = [write(name, name, 0.5) for name in ("vitb_random", "vitb_mae", "vitl_mae")]
    (section,) = sections_of(*paths)
    table = complexity_table(section)
    assert [row[0].text for row in table.rows] == ["A\u2013B", "C"]
    assert cells(table, 0)["Multiply-adds, 10\u2079 in all"] == "853"
    assert cells(table, 0)["Parameters"] == "116"
