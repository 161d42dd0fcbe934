"""What a well-formed set says that cannot be meant is found, with its cause; no sound set is."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdet.data import check
from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.loader import trained_images
from jaxdet.errors import UserError

SIDE = 64


def write(root: Path, change=lambda document: None, *, seed=0, images="images", file=None) -> dict:
    """Eight images of two objects each; `change` may spoil the document."""
    rng = np.random.default_rng(seed)
    (root / images).mkdir(parents=True)
    document = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }
    for number in range(8):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(root / images / f"{number}.png")
        document["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE}
        )
        for category in (1, 2):
            x, y = rng.integers(20, 40, 2).tolist()
            w, h = rng.integers(6, 24, 2).tolist()
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
    change(document)
    path = root / (file or "instances.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return document


def boxes(change):
    def spoil(document):
        for annotation in document["annotations"]:
            annotation["bbox"] = change(*annotation["bbox"])

    return spoil


def masks(change):
    def spoil(document):
        for annotation in document["annotations"]:
            annotation["segmentation"] = change(annotation["segmentation"])

    return spoil


def both(*changes):
    return lambda document: [change(document) for change in changes]


def crowds(document):
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1


def no_masks(document):
    masks(lambda _: [])(document)


SPOILT = [
    ("corners", boxes(lambda x, y, w, h: [x, y, x + w, y + h]), "right and bottom corner"),
    ("centre", boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]), "look like the centre"),
    ("swapped", boxes(lambda x, y, w, h: [y, x, h, w]), "x and y look swapped"),
    ("y first", boxes(lambda x, y, w, h: [y, x, y + h, x + w]), r"\(top, left, bottom, right\)"),
    ("fractions", boxes(lambda *box: [v / SIDE for v in box]), "16 of 16 boxes are fractions"),
    (
        "mask fractions",
        masks(lambda polygons: [[v / SIDE for v in polygons[0]]]),
        "masks look like fractions",
    ),
    ("another size", boxes(lambda *box: [v / 2 for v in box]), r"factors 2 and 2"),
    (
        "all of another size",
        both(
            boxes(lambda *box: [v * 4 for v in box]),
            masks(lambda polygons: [[v * 4 for v in polygons[0]]]),
        ),
        "reach out of their image .* an image of another size",
    ),
    (
        "corners without masks",
        both(no_masks, boxes(lambda x, y, w, h: [x, y, x + w, y + h])),
        "reach out of their image .* right and bottom corner",
    ),
    ("crowds", crowds, "all 16 annotations are crowd regions"),
    ("nothing", lambda document: document["annotations"].clear(), "no image has an annotation"),
]


@pytest.mark.parametrize(("change", "expected"), [row[1:] for row in SPOILT], ids=lambda v: "")
def test_a_file_that_cannot_be_meant_is_an_error(tmp_path, capsys, change, expected):
    write(tmp_path, change)
    assert check.main([str(tmp_path)]) == 1
    errors = [line for line in capsys.readouterr().out.splitlines() if "error: " in line]
    assert any(re.search(expected, line) for line in errors), errors


def test_sound_sets_raise_no_doubt(tmp_path, shared):
    write(tmp_path)
    assert CocoDataset(*find_coco(tmp_path, "train")).doubts() == []
    for folder in ("coco_train128", "coco_val50"):
        doubts = CocoDataset(*find_coco(shared / "data" / folder, "train")).doubts()
        assert not any(doubt.is_error for doubt in doubts)
        assert not any("disagree" in str(doubt) for doubt in doubts)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: [a.update(iscrowd=1) for a in d["annotations"][::2]], "8 of 16 .* crowd"),
        (lambda d: d["annotations"][0].update(bbox=[1, 1, 0.5, 5]), "1 of 16 .* under a pixel"),
        (lambda d: d["annotations"].__delitem__(slice(4)), "2 of 8 images have no annotation"),
        (lambda d: d["categories"].append({"id": 3, "name": "green"}), r"no object .*green"),
        (lambda d: [a.update(bbox=None) for a in d["annotations"]], "16 .* taken from the mask"),
        (boxes(lambda *box: [str(v) for v in box]), "16 annotations .* written as text"),
        (no_masks, "none of 16 annotations has a usable mask; .*heads.mask=False"),
        (lambda d: None, "the same images train and validate"),
    ],
)
def test_what_may_be_meant_is_a_warning(tmp_path, capsys, change, expected):
    write(tmp_path, change)
    assert check.main([str(tmp_path)]) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning: " in line]
    assert any(re.search(expected, line) for line in warnings), warnings


def test_train_and_validation_are_compared(tmp_path, capsys):
    write(tmp_path, images="train", file="annotations/instances_train.json")
    write(
        tmp_path,
        lambda document: document["categories"].append({"id": 3, "name": "green"}),
        images="val",
        file="annotations/instances_val.json",
    )
    assert check.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "only the validation file has 'green' (id 3)" in printed
    assert "8 of 8 validation images are training images too (first: 0.png is 0.png" in printed
    pairs = [str(tmp_path / name) for name in ("annotations/instances_train.json", "train")]
    assert check.main(pairs) == 0
    assert check.main(pairs[:1] * 3) == 2


LAYOUTS = [
    ("Roboflow", "train/_annotations.coco.json", "train", "valid/_annotations.coco.json", "valid"),
    ("CVAT", "annotations/instances_default.json", "images/default", None, None),
    (
        "Datumaro",
        *("annotations/instances_train.json", "images/train"),
        *("annotations/instances_val.json", "images/val"),
    ),
    ("FiftyOne", "labels.json", "data", None, None),
    ("FiftyOne splits", "train/labels.json", "train/data", "val/labels.json", "val/data"),
    ("Label Studio", "result.json", "images", None, None),
    ("labelme", "annotations.json", "JPEGImages", None, None),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout[0])
def test_layouts_of_annotation_tools(tmp_path, layout):
    _, train, train_images, val, val_images = layout
    for file, images in ((train, train_images), (val or train, val_images or train_images)):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("{}")
        (tmp_path / images).mkdir(parents=True, exist_ok=True)
    assert find_coco(tmp_path, "train") == (tmp_path / train, tmp_path / train_images)
    expected = tmp_path / (val or train), tmp_path / (val_images or train_images)
    assert find_coco(tmp_path, "val") == expected


def test_a_layout_of_nobody_names_the_keys(tmp_path):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(UserError, match=r"it has mine\.json; .*config\.data\.val_annotations"):
        find_coco(tmp_path, "val")


@pytest.mark.parametrize(
    ("listed", "on_disk"),
    [
        ("Bär.png", unicodedata.normalize("NFD", "Bär.png")),
        ("a.png", "a.PNG"),
        ("images\\a.png", "a.png"),
        ("images/a.png", "a.png"),
        ("..\\..\\label-studio\\media\\upload\\4\\a.png", "a.png"),
        ("/data/upload/4/a.png", "a.png"),
    ],
)
def test_names_spelled_otherwise_are_matched(tmp_path, listed, on_disk):
    document = write(tmp_path, lambda d: d["images"][0].update(file_name=listed))
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / on_disk)
    dataset = CocoDataset(*find_coco(tmp_path, "train"))
    assert dataset[0].image.shape == (SIDE, SIDE, 3)
    (doubt,) = dataset.doubts()
    assert doubt.what.startswith("1 image files are spelled otherwise")
    assert dataset.ground_truth()["annotations"] == document["annotations"]


def test_a_name_that_two_files_may_mean_is_missing(tmp_path):
    write(tmp_path, lambda d: d["images"][0].update(file_name="A.png"))
    (tmp_path / "images" / "0.png").rename(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.PNG").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 8 images"):
        CocoDataset(*find_coco(tmp_path, "train"))


@pytest.mark.parametrize("group", ["signs", "red"])
def test_a_grouping_category_is_left_out(tmp_path, group):
    def grouped(document):
        for category in document["categories"]:
            category["supercategory"] = group
        document["categories"].insert(0, {"id": 0, "name": group, "supercategory": "none"})

    write(tmp_path, grouped)
    dataset = CocoDataset(*find_coco(tmp_path, "train"))
    assert [category.name for category in dataset.categories] == ["red", "blue"]
    assert [doubt.what for doubt in dataset.doubts()] == [
        f"the category {group!r} has no objects and groups the others: left out"
    ]


def test_boxes_alone_are_trained_on_where_masks_are_not(tmp_path):
    document = write(tmp_path, no_masks)
    files = find_coco(tmp_path, "train")
    assert not CocoDataset(*files).has_objects(0)
    dataset = CocoDataset(*files, masks=False)
    x, y, w, h = document["annotations"][0]["bbox"]
    np.testing.assert_array_equal(dataset[0].boxes[0], [x, y, x + w, y + h])
    assert len(dataset[0].masks) == 2
    assert dataset.findings().endswith("skipped: nothing")


def test_a_share_of_the_background_is_kept(tmp_path):
    """An image whose annotations are not trained on is no background."""

    def emptied(document):
        document["annotations"] = document["annotations"][:6]  # of three images
        document["annotations"][0]["iscrowd"] = document["annotations"][1]["iscrowd"] = 1

    write(tmp_path, emptied)
    dataset = CocoDataset(*find_coco(tmp_path, "train"))
    counts = [trained_images(dataset, share) for share in (0.0, 0.4, 1.0)]
    assert counts == [2, 4, 7]
