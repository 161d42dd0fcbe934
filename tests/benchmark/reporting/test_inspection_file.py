"""What is read of inspection.json, and what is not."""

from __future__ import annotations

import json

import pytest

from jaxdet.benchmark.report import write_report
from jaxdet.benchmark.reporting.confusion import NOTHING_FOUND, matrices
from jaxdet.benchmark.reporting.figures import areas
from jaxdet.benchmark.reporting.inspection_figures import histogram, precision_recall
from jaxdet.benchmark.reporting.pictures import pictures
from jaxdet.benchmark.reporting.result_file import read_run
from tests.benchmark.reporting.inspected import KEYS, inspect_run
from tests.benchmark.reporting.made_up import sections_of
from tests.benchmark.reporting.page import Page


@pytest.fixture
def inspected(write):
    def write_named(name, missed=0.3, seed=0, edit=None, **keys):
        folder = write(name, masks=False, seed=seed, **KEYS, **keys)
        return inspect_run(folder, missed, seed, edit)

    return write_named


def replaced(*path):
    """An edit that puts the last of the path in the place that the others lead to."""
    *keys, last, value = path

    def edit(content):
        for key in keys:
            content = content[key]
        content[last] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        replaced("version", 2),
        replaced("checkpoint_sha256", "of another result"),
        replaced("categories", ["a", "b"]),
        replaced("images", 0, "hw", [0, 64]),
        replaced("images", 0, "objects", [[4, 0, 0, 1, 1, True]]),
        replaced("images", 0, "objects", [[0, 0, 0, -1, 1, True]]),
        replaced("images", 0, "detections", [[0, 0.9, 0, 0, 1, "right"]]),
        replaced("images", 0, "detections", [[0, 0.9, 0, 0, 1, 1, "fine"]]),
        replaced("images", 0, "detections", [[0, float("nan"), 0, 0, 1, 1, "right"]]),
        replaced("images", 5),
        replaced("precision", "bbox", "0.5", [0.5, 1.5]),
        replaced("confusion", [[0, 5, 1]]),
        replaced("confusion", [[0, 1, -1]]),
        replaced("score", None),
        lambda content: content.clear(),
    ],
)
def test_what_is_damaged_or_of_another_result_is_left_out(inspected, edit):
    assert read_run(inspected("sound")).inspection is not None
    assert read_run(inspected("damaged", edit=edit)).inspection is None


def test_runs_without_an_inspection_are_reported_and_named(inspected, write, tmp_path):
    paths = [inspected("a"), write("b", masks=False, initialisation="mae", seed=1, **KEYS)]
    html, _, skipped = write_report(paths, tmp_path / "out")
    assert skipped == []
    text = " ".join(html.read_text("utf-8").split())
    assert "and pictures of B: no inspection.json of that result" in text


def test_curves_confusions_and_counts_are_those_of_the_file(inspected):
    def known(content):
        content["confusion"] = [[0, 0, 6], [0, 1, 2], [1, 4, 3], [4, 2, 1]]
        content["precision"]["bbox"] = {"0.5": [0.9, 0.8, 0.0], "0.5:0.95": [0.6, 0.0, 0.0]}
        content["objects"] = {"train": [10, 30, 0, 0], "val": [1, 0, 3, 0]}

    (section,) = sections_of(inspected("a", edit=known))
    (matrix,) = matrices(section)
    assert matrix.columns == ["disc", "box", "triangle", "star", NOTHING_FOUND]
    name, counts = matrix.rows[0]
    assert name == "disc"
    assert [each.times for each in counts] == [6, 2, 0, 0, 0]
    assert counts[0].is_right
    assert counts[1].share == 0.25
    assert "nothing there,triangle,1\n" in matrix.csv
    first, _ = precision_recall(section)
    assert first.csv.splitlines()[1:] == ["A  Random,1,0,90", "A  Random,1,50,80"]
    assert histogram(section).csv.splitlines() == [
        "category,train,val",
        "box,30,0",
        "disc,10,1",
        "triangle,0,3",
        "star,0,0",
    ]
    assert "Small, < 32\u00b2" in areas(section)[0].csv


def test_runs_are_shown_on_the_images_on_which_they_differ_most(inspected):
    paths = [inspected("a", 0.0), inspected("b", 0.5, initialisation="mae", seed=1)]
    (section,) = sections_of(*paths)
    shown = pictures(section)
    assert len(shown.compared) == 6
    truth, random, mae = shown.compared[0].panels
    assert (truth.title, random.title, mae.title) == ("Ground truth", "A Random", "B MAE")
    assert random.note.endswith("0 wrong, 0 missed")
    assert shown.csv.splitlines()[2] == f'{shown.compared[0].title},A Random,"{random.note}"'
    errors = [
        len(each.wrong) + len(each.missed)
        for each in section.groups[1].first.inspection.images.values()
    ]
    perfect, bad = shown.worst
    assert (perfect.false_count, perfect.missed_count) == (0, 0)
    assert bad.false_count + bad.missed_count == sum(errors) > 0
    scores = [float(each.title.split()[-1]) for each in bad.false]
    assert scores == sorted(scores, reverse=True)
    assert len(bad.csv.splitlines()) == 1 + len(bad.false) + len(bad.missed)
    shares = [float(each.note.split()[0]) for each in bad.missed]
    assert shares == sorted(shares, reverse=True)


def test_images_that_are_gone_are_said_in_one_line(inspected, tmp_path):
    folder = inspected("a")
    result = json.loads((folder / "result.json").read_text("utf-8"))
    result["evaluated_on"] |= {"name": "coco", "root": str(tmp_path / "gone")}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    html, _, _ = write_report([folder], tmp_path / "out")
    text = html.read_text("utf-8")
    assert text.count("No pictures: the images validated on are not where they were.") == 1
    assert "Precision and recall" in text
    assert not [tag for tag, _ in Page(text).elements if tag == "image"]


HOSTILE = '"><script>alert(1)</script>'


def test_names_of_an_inspection_stay_text(inspected, tmp_path):
    def name_files(content):
        for image in content["images"]:
            image["file"] = HOSTILE

    folder = inspected("a", edit=name_files)
    html, _, _ = write_report([folder], tmp_path / "out")
    page = Page(html.read_text("utf-8"))
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert HOSTILE in page.texts
