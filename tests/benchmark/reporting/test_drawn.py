"""Runs' scores on draws of their validation images, by the files that they left."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxdet.benchmark.report import main
from jaxdet.benchmark.reporting.differences import difference_table
from jaxdet.benchmark.reporting.drawn import with_draws
from jaxdet.data.shapes import ShapesDataset
from jaxdet.evaluation.coco import evaluate_coco
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from tests.benchmark.reporting.made_up import cells, sections_of

IMAGES, SIZE = 8, 64


@pytest.fixture(scope="module")
def document():
    return ShapesDataset("val", IMAGES, SIZE).ground_truth()


@pytest.fixture
def write_scored(write, document):
    """Writes a run whose detections are the objects, a share of them `missed`."""

    def write_named(name: str, missed: float, *, seed: int, start: str = "random"):
        generator = np.random.default_rng(seed)
        results = [
            {
                "image_id": each["image_id"],
                "category_id": each["category_id"],
                "bbox": each["bbox"],
                "score": float(generator.random()),
            }
            for each in document["annotations"]
            if generator.random() >= missed
        ]
        inputs = EvalInputs(GroundTruth(document, ("bbox",)), results)
        metrics = evaluate_coco(inputs)["bbox"]

        def edit(result):
            result["metrics"]["bbox"]["AP"] = metrics["AP"]
            result["images"]["val"] = IMAGES

        shapes = {"data__shapes__val_images": IMAGES, "data__shapes__image_size": SIZE}
        folder = write(name, seed=seed, masks=False, edit=edit, initialisation=start, **shapes)
        (folder / "detections.json").write_text(json.dumps(results), encoding="utf-8")
        return folder

    return write_named


def test_differences_have_intervals_over_images_and_seeds(write_scored, tmp_path):
    for seed in (0, 1):
        write_scored(f"random{seed}", 0.5, seed=seed)
        write_scored(f"mae{seed}", 0.1, seed=seed, start="mae")
    (section,) = sections_of(tmp_path)
    section = with_draws(section, 200)
    assert section.drawn.missing == {}
    mae = section.groups[1]
    scores = section.drawn.scores[mae.first.folder]["bbox"]
    assert scores.mean() == pytest.approx(mae.first.scores["bbox"].coco["AP"], abs=0.05)
    assert 0 < scores.std() < 0.2
    row = cells(difference_table(section), 0)
    assert (row["Initialisation"], row["less"], row["n"]) == ("MAE", "A Random", "2, 2")
    assert row["Box AP difference"].startswith("+")
    widths = []
    for column in ("over images", "over seeds", "over both"):
        low, high = (
            float(end.replace("\u2212", "-")) for end in row[f"Box AP {column}"].split(" to ")
        )
        assert low <= float(row["Box AP difference"]) <= high
        widths.append(high - low)
    assert widths[2] > max(widths[:2])


def test_one_run_each_is_compared_over_images_alone(write_scored, tmp_path, capsys):
    write_scored("random", 0.5, seed=0)
    write_scored("mae", 0.1, seed=1, start="mae")
    (section,) = sections_of(tmp_path)
    assert difference_table(section) is None
    row = cells(difference_table(with_draws(section, 20)), 0)
    assert row["Box AP over seeds"] == row["Box AP over both"] == "\u2013"
    assert " to " in row["Box AP over images"]
    assert main([str(tmp_path), f"--out={tmp_path / 'out'}", "--bootstrap=20"]) == 0
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text("utf-8")
        assert "the validation images drawn anew, 20 times" in text
        assert "Nothing is bold" in text


def test_what_cannot_be_drawn_is_named_and_costs_nothing_else(write_scored, tmp_path):
    ways = {
        "kept": lambda path: None,
        "gone": lambda path: path.unlink(),
        "broken": lambda path: path.write_text("[{"),
        "other": lambda path: path.write_text("[]"),
    }
    for seed, (name, change) in enumerate(ways.items()):
        change(write_scored(name, 0.3, seed=seed) / "detections.json")
    (section,) = sections_of(tmp_path)
    drawn = with_draws(section, 3).drawn
    assert {folder.name for folder in drawn.scores} == {"kept"}
    assert {folder.name: reason for folder, reason in drawn.missing.items()} == {
        "gone": "there is no detections.json",
        "broken": "detections.json cannot be read or is of other images",
        "other": "detections.json does not give the AP of result.json",
    }


def test_missing_annotations_are_named(write, tmp_path):
    write("a", "vitb_mae", 0.5, data__root=str(tmp_path / "gone"))
    (section,) = sections_of(tmp_path)
    (reason,) = with_draws(section, 3).drawn.missing.values()
    assert reason == "the annotations validated on are not where they were"
