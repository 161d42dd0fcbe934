"""Few-shot data sets: who is in them, and what is wrong with the files they are made of."""

from __future__ import annotations

import json

import pytest

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.fewshot import base_classes, counts, few_objects, main, merged_objects
from jaxdet.data.shapes import ShapesDataset
from jaxdet.data.shapes import main as write_shapes
from jaxdet.errors import UserError


@pytest.fixture(scope="module")
def document():
    return ShapesDataset("train", 40, 64).ground_truth()


def ids(document):
    return {annotation["id"] for annotation in document["annotations"]}


def test_base_classes_keep_their_objects_and_all_images(document):
    base = base_classes(document, ["star"])
    assert [category["name"] for category in base["categories"]] == ["disc", "box", "triangle"]
    assert base["images"] == document["images"]
    expected = [a for a in document["annotations"] if a["category_id"] != 4]
    assert base["annotations"] == expected


def test_novel_classes_must_be_there_and_not_all(document):
    with pytest.raises(UserError, match=r"--novel names 'moon', .* it has box, disc, star, tri"):
        base_classes(document, ["moon", "star"])
    with pytest.raises(UserError, match="names all classes"):
        base_classes(document, ["disc", "box", "triangle", "star"])


@pytest.mark.parametrize("shots", [1, 5])
def test_each_class_gets_its_shots(document, shots):
    few = few_objects(document, shots, seed=0)
    assert counts(few) == {"disc": shots, "box": shots, "triangle": shots, "star": shots}
    assert few["categories"] == document["categories"]
    assert ids(few) <= ids(document)
    assert len(ids(few)) == 4 * shots
    images = {image["id"] for image in few["images"]}
    assert images == {annotation["image_id"] for annotation in few["annotations"]}


def test_the_draw_follows_from_seed_and_class(document):
    few = few_objects(document, 5, seed=0)
    assert few == few_objects(document, 5, seed=0)
    assert ids(few) != ids(few_objects(document, 5, seed=1))
    without_stars = few_objects(base_classes(document, ["star"]), 5, seed=0)
    assert ids(without_stars) == {a["id"] for a in few["annotations"] if a["category_id"] != 4}


def test_a_class_with_too_few_gives_all_and_crowds_and_empty_boxes_none(document):
    discs = [a for a in document["annotations"] if a["category_id"] == 1]
    flawed = {
        discs[0]["id"]: {**discs[0], "iscrowd": 1},
        discs[1]["id"]: {**discs[1], "bbox": [0, 0, 0, 5]},
        discs[2]["id"]: {k: v for k, v in discs[2].items() if k != "segmentation"},
    }
    annotations = [flawed.get(a["id"], a) for a in document["annotations"]]
    few = few_objects({**document, "annotations": annotations}, 1000, seed=0)
    assert ids(few) == ids(document) - flawed.keys()


def test_an_image_is_cut_where_no_other_suffices():
    annotation = {"image_id": 1, "category_id": 7, "iscrowd": 0, "bbox": [0, 0, 2, 2]}
    annotation["segmentation"] = [[0, 0, 2, 0, 2, 2]]
    document = {
        "images": [{"id": 1}],
        "categories": [{"id": 7, "name": "x"}],
        "annotations": [{**annotation, "id": i} for i in range(5)],
    }
    assert len(ids(few_objects(document, 3, seed=0))) == 3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Shapes as a folder in COCO's format."""
    folder = tmp_path_factory.mktemp("fewshot") / "shapes"
    assert (
        write_shapes([str(folder), "--train-images=30", "--val-images=4", "--image-size=64"]) == 0
    )
    return folder


def test_two_folders_are_written_that_open_as_data_sets(root, tmp_path, capsys):
    out = tmp_path / "few"
    assert main([f"--root={root}", "--novel=star,box", "--shots=3", "--seed=2", str(out)]) == 0
    assert "4 classes of 3 (disc) to 3 objects" in capsys.readouterr().out
    base, few = (
        {split: CocoDataset(*find_coco(folder, split)) for split in ("train", "val")}
        for folder in (out / "base", out / "3shot_seed2")
    )
    original = CocoDataset(*find_coco(root, "val"))
    assert [c.name for c in base["train"].categories] == ["disc", "triangle"]
    assert base["train"].categories == base["val"].categories
    assert few["train"].categories == few["val"].categories == original.categories
    assert few["val"].ground_truth() == original.ground_truth()
    assert few["train"].report.objects == 12
    assert (few["val"][0].image == original[0].image).all()
    # Nothing is written over.
    assert main([f"--root={root}", "--novel=star", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_files_of_single_classes_are_merged_by_id(root, tmp_path, capsys):
    train = CocoDataset(*find_coco(root, "train")).ground_truth()
    few = few_objects(train, 2, seed=0)
    files = []
    for category in train["categories"]:
        mine = [a for a in few["annotations"] if a["category_id"] == category["id"]]
        # As FsDet has them, with another year's file names and without the list of categories.
        images = [{"id": a["image_id"], "file_name": f"COCO_{a['image_id']}.jpg"} for a in mine]
        files.append(tmp_path / f"full_box_2shot_{category['name']}_trainval.json")
        files[-1].write_text(json.dumps({"images": images, "annotations": mine}))
    merged = merged_objects(train, [*files, files[0]])
    assert ids(merged) == ids(few)
    assert merged["images"] == few["images"]
    out = tmp_path / "merged"
    assert main([f"--root={root}", "--merge", *map(str, files), "--", str(out)]) == 0
    assert CocoDataset(*find_coco(out, "train")).report.objects == 8

    strange = tmp_path / "strange.json"
    for content, reason in (
        ({"annotations": [{"id": 1, "image_id": 10**6, "category_id": 1}]}, r"image_id 1000000"),
        ({"annotations": [{"id": 1, "image_id": 1, "category_id": 9}]}, r"category_id 9"),
        ({"annotations": [7]}, r"annotations\[0\] has image_id None"),
        ({"images": []}, "no list 'annotations'"),
    ):
        strange.write_text(json.dumps(content))
        with pytest.raises(UserError, match=reason):
            merged_objects(train, [strange])
    strange.write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        merged_objects(train, [strange])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "give either --novel"),
        (["--novel=star", "--merge", "x.json", "--"], "give either --novel"),
        (["--novel=star", "--shots=0"], "--shots must be at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_rejected(root, tmp_path, capsys, options, reason):
    assert main([f"--root={root}", *options, str(tmp_path / "out")]) == 2
    assert reason in capsys.readouterr().err
