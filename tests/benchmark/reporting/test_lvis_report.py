"""LVIS in the report: tables of its own, its frequencies, its published numbers; AP over size."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.report import write_report
from jaxdet.benchmark.reporting.figures import errors, sizes
from jaxdet.benchmark.reporting.tables import ap_table, frequency_table
from jaxdet.benchmark.reporting.text import recipe_title
from jaxdet.config.lvis import LVIS_CLASSES
from tests.benchmark.reporting.made_up import cells, sections_of
from tests.benchmark.reporting.page import Page

PARAMETERS = {"b": 115e6, "l": 335e6}


def on_lvis(size):
    """Makes an evaluation on LVIS of a result."""

    def edit(result):
        metrics = result["metrics"]
        del metrics["tide"]
        for numbers in metrics.values():
            numbers["per_category"] = {f"class {i}": 0.4 for i in range(LVIS_CLASSES)}
            numbers.update(APr=0.2, APc=0.3, APf=None if size == "l" else 0.5)
        result["images"] = {"train": 99_388, "val": 19_809}
        result["parameters"] = round(PARAMETERS[size])

    return edit


@pytest.fixture
def runs(write):
    return [
        *(write(f"lvis_{size}", f"lvis_{size}", 0.4, edit=on_lvis(size)) for size in PARAMETERS),
        write("cascade", "cascade_b", 0.5),
        write("vitdet", "vitdet_b_mae", 0.5),
    ]


def test_detectors_and_data_have_tables_of_their_own(runs):
    titles = [recipe_title(section) for section in sections_of(*runs)]
    assert sorted(title.split(", ")[:2] for title in titles) == [
        ["Cascade Mask R-CNN with simple pyramid", "COCO val2017"],
        ["Mask R-CNN with simple pyramid", "COCO val2017"],
        ["Mask R-CNN with simple pyramid", "LVIS v1 val"],
    ]


def test_runs_on_lvis_stand_beside_what_is_published_of_it(runs):
    (section,) = sections_of(*runs[:2])
    base, large = section.groups
    assert (base.published.box_ap, large.published.box_ap) == (40.1, 46.1)
    assert base.deviations == large.deviations == ()
    assert cells(ap_table(section), 0)["Box AP published"] == "40.1"
    table = frequency_table(section)
    found = cells(table, 1)
    assert (found["Box AP rare"], found["Box AP frequent"]) == ("20.0", "\u2013")
    assert found["Mask AP, rare published"] == "35.3"
    assert frequency_table(sections_of(runs[3])[0]) is None


def test_errors_that_are_not_known_have_no_chart(runs, tmp_path):
    (section,) = sections_of(*runs[:2])
    assert errors(section) == []
    html, markdown, _ = write_report(runs[:2], tmp_path / "out")
    texts = " ".join(Page(html.read_text("utf-8")).texts)
    assert "What errors cost" not in texts
    assert "Rare, common and frequent categories" in texts
    assert "LVIS's numbers for masks" in texts
    assert "AP by how frequent categories are" in markdown.read_text("utf-8")


def test_sizes_of_one_initialisation_make_a_line(runs):
    (section,) = sections_of(*runs[:2])
    box, mask = sizes(section)
    assert "Box AP over model size" in box.chart
    assert "40.0 at million parameters 335" in box.chart
    assert "35.6 at million parameters 335" in mask.chart
    assert sizes(sections_of(runs[3])[0]) == []
