"""What is compared with the published numbers, and what is not."""

from __future__ import annotations

from jaxdet.benchmark.report import write_report
from jaxdet.benchmark.reporting.cost_tables import cost_tables
from jaxdet.benchmark.reporting.tables import ap_table
from tests.benchmark.reporting.made_up import cells, sections_of
from tests.benchmark.reporting.page import Page


def test_the_published_number_and_the_difference_stand_beside_ours(write, tmp_path):
    write("mae", "vitb_mae", 0.512)
    write("random", "vitb_random", 0.4871)
    (section,) = sections_of(tmp_path)
    table = ap_table(section)
    random_row, mae = cells(table, 0), cells(table, 1)
    assert (mae["Box AP ours"], mae["Box AP published"], mae["Box AP difference"]) == (
        "51.2",
        "50.3",
        "+0.9",
    )
    assert (mae["Mask AP published"], mae["Mask AP difference"]) == ("44.9", "+0.7")
    assert (random_row["Box AP published"], random_row["Box AP difference"]) == (
        "48.9",
        "\u22120.2",
    )
    by_column = dict(zip([(c.group, c.text) for c in table.columns], table.rows[0], strict=True))
    assert by_column["Box AP", "published"].mark == ""
    assert by_column["Mask AP", "published"].mark == "?"
    note = table.notes[by_column["Mask AP", "published"].note - 1]
    assert "mask AP recalled, not read again" in note.text
    assert note.link[1] == "https://arxiv.org/abs/2111.11429"


def test_imted_is_compared_with_its_own_numbers(write):
    (section,) = sections_of(write("a", "imted_mask:b", 0.5))
    (group,) = section.groups
    assert (group.published.system, group.published.box_ap) == ("imTED", 53.3)
    assert group.deviations == ()
    assert cells(ap_table(section), 0)["Mask AP published"] == "46.4"


def test_shapes_are_never_compared(write, tmp_path):
    write("a")
    html, _, _ = write_report([tmp_path], tmp_path / "out")
    (section,) = sections_of(tmp_path)
    table = ap_table(section)
    assert cells(table, 0)["Box AP published"] == "\u2013"
    assert "Box AP difference" not in cells(table, 0)
    assert [note.text for note in table.notes] == [
        "Validated on shapes; published numbers are of COCO val2017."
    ]
    assert table.notes[0].text in html.read_text("utf-8")


def test_nor_are_other_sets_in_coco_s_format_parts_of_coco_and_few_shots(write):
    def own(result):
        for kind in ("bbox", "segm"):
            names = result["metrics"][kind]["per_category"]
            result["metrics"][kind]["per_category"] = {f"my {name}": names[name] for name in names}

    def part(result):
        result["images"]["val"] = 500

    paths = [
        write("own", "vitb_mae", 0.5, edit=own),
        write("part", "vitb_mae", 0.5, edit=part),
        write("few", "vitb_mae", 0.5, few_shot__novel=("dog",)),
        write("unknown", "vitb_mae", 0.5, epochs=13.0),
    ]
    for path in paths:
        (section,) = sections_of(path)
        (group,) = section.groups
        assert group.published is None
        assert group.unpublished


def test_in_what_a_run_is_not_the_published_recipe_is_said(write, tmp_path):
    paths = [write("a", "vitb_mae", 0.5), write("b", "vitb_mae", 0.5, batch_size=16)]
    one, two = sections_of(*paths)
    assert one.groups[0].deviations == ()
    assert two.groups[0].deviations == (("batch_size", 16, 64),)
    assert "batch_size 16 (published: 64)" in ap_table(two).notes[0].text

    def tenth(result):
        result["images"]["train"] = 11_700

    (section,) = sections_of(write("c", "vitdet_b_mae", 0.5, edit=tenth))
    assert [key for key, *_ in section.groups[0].deviations] == ["training images"]


def test_converted_weights_are_said_to_be_evaluated_as_given(write, tmp_path):
    def converted(result):
        result.update(evaluated="converted detector", epochs=None, step=0)

    (section,) = sections_of(write("a", "vitdet_b_mae", 0.516, edit=converted))
    assert cells(ap_table(section), 0)["Epochs"] == "\u2013"
    assert "not trained in this run" in ap_table(section).notes[0].text


def test_detections_from_a_file_are_not_given_the_config_s_model(write, tmp_path):
    def from_file(result):
        result.update(
            evaluated="file of detections",
            checkpoint="/somewhere/theirs.json",
            epochs=None,
            step=0,
            parameters=None,
            device=None,
            evaluation={"seconds": {"detect": None, "score": 1.0}, "images_per_second": None},
        )
        result["images"]["train"] = None

    ours = write("ours", "vitb_mae", 0.5)
    theirs = write("theirs", "vitb_mae", 0.6, seed=1, edit=from_file)
    one, two = sections_of(ours, theirs)
    assert two.deviations == (
        ("detections", "from a file", "by this detector"),
        ("training images", None, 117_266),
    )
    (group,) = two.groups
    assert (group.initialisation, group.model) == ("theirs.json", "unknown")
    assert group.published is None
    assert one.groups[0].published is not None
    assert cost_tables(two) == []
    html, markdown, _ = write_report([ours, theirs], tmp_path / "out")
    Page(html.read_text("utf-8"))
    assert "what made them is not known" in markdown.read_text("utf-8")
