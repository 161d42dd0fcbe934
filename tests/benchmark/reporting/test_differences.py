"""Differences between initialisations by several seeds, and what is bold."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.report import write_report
from jaxdet.benchmark.reporting.differences import difference_table
from jaxdet.benchmark.reporting.tables import ap_table
from tests.benchmark.reporting.made_up import cells, sections_of


def write_seeds(write, seeds: dict[str, tuple[float, ...]]) -> None:
    for initialisation, aps in seeds.items():
        for seed, ap in enumerate(aps):
            write(f"{initialisation}{seed}", ap=ap, seed=seed, initialisation=initialisation)


def test_seeds_give_differences_and_the_best_is_bold(write, tmp_path):
    write_seeds(write, {"random": (0.3, 0.3), "mae": (0.4, 0.44)})
    (section,) = sections_of(tmp_path)
    row = cells(difference_table(section), 0)
    assert row["Box AP difference"] == "+12.0"
    assert row["Box AP over seeds"] == "+9.2 to +14.8"
    assert row["n"] == "2, 2"
    assert "Box AP over images" not in row
    assert any(cell.is_best for row in ap_table(section).rows for cell in row)
    for path in write_report([tmp_path / "runs"], tmp_path / "out")[:2]:
        text = path.read_text("utf-8")
        assert "+9.2 to +14.8" in text
        assert "A run of one seed twice is not two seeds" in text
        assert "Nothing is bold" not in text


@pytest.mark.parametrize("mae", [(0.4,), (0.4, 0.44)])
def test_nothing_is_bold_beside_one_run_and_the_page_says_so(write, tmp_path, mae):
    write_seeds(write, {"random": (0.3,), "mae": mae})
    html, markdown, _ = write_report([tmp_path / "runs"], tmp_path / "out")
    (section,) = sections_of(tmp_path)
    assert difference_table(section) is None
    for text in (html.read_text("utf-8"), markdown.read_text("utf-8")):
        assert "Nothing is bold in a column in which a number is of one run (n = 1)" in text
        assert "Bold and underlined" not in text
        assert "**" not in text
        assert 'class="best"' not in text
