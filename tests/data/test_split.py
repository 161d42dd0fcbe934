"""Splits of a data set: disjoint, stratified, reproducible, copies on one side."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from jaxdet.data.coco_files import find_coco
from jaxdet.data.shapes import main as write_shapes
from jaxdet.data.split import assign, main, split_images


@pytest.fixture(scope="module")
def document():
    """200 images; class c is on about 1 of 2^c."""
    rng = np.random.default_rng(0)
    return {
        "images": [{"id": 7 * i} for i in range(200)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(5)],
        "annotations": [
            {"image_id": 7 * i, "category_id": c}
            for i in range(200)
            for c in range(5)
            if rng.random() < 0.5**c
        ],
    }


def images_of(document, category):
    return {a["image_id"] for a in document["annotations"] if a["category_id"] == category}


def test_every_class_has_its_share_of_images_on_either_side(document):
    val, train = split_images(document, [0.2, 0.8], seed=0)
    assert val.isdisjoint(train)
    assert val | train == {image["id"] for image in document["images"]}
    assert 38 <= len(val) <= 42
    for category in range(5):
        images = images_of(document, category)
        assert abs(len(images & val) - 0.2 * len(images)) <= 2, category
    rare = images_of(document, 4)
    assert abs(len(rare & val) - 0.2 * len(rare)) <= 1


def test_folds_share_out_all_images(document):
    folds = split_images(document, [0.25] * 4, seed=0)
    assert sorted(i for fold in folds for i in fold) == [7 * i for i in range(200)]
    for category in range(5):
        sizes = [len(images_of(document, category) & fold) for fold in folds]
        assert max(sizes) - min(sizes) <= 4, category


def test_the_split_follows_from_the_seed_and_not_from_the_order(document):
    val = split_images(document, [0.2, 0.8], seed=3)[0]
    backwards = {name: list(reversed(values)) for name, values in document.items()}
    assert split_images(backwards, [0.2, 0.8], seed=3)[0] == val
    assert split_images(document, [0.2, 0.8], seed=4)[0] != val


def test_images_that_belong_together_stay_together(document):
    together = [[0, 7, 14], [70, 77]]
    for seed in range(5):
        parts = split_images(document, [0.5, 0.5], seed, together)
        for group in together:
            assert any(part.issuperset(group) for part in parts)
        assert sum(map(len, parts)) == 200


def test_a_class_of_one_image_is_trained_on_and_empty_images_are_spread():
    parts = assign([frozenset({1}), *[frozenset()] * 9], [0.2, 0.8], seed=0)
    assert parts[0] == 1
    assert parts.count(0) == 2


@pytest.fixture
def root(tmp_path):
    shapes = tmp_path / "shapes"
    assert write_shapes([str(shapes), "--train-images=8", "--val-images=2", "--image-size=64"]) == 0
    file, images = find_coco(shapes, "train")
    root = tmp_path / "flat"
    root.mkdir()
    shutil.copy(file, root / "instances.json")
    shutil.copytree(images, root / "images")
    return root


def ids(folder, split):
    file, images = find_coco(folder, split)
    document = json.loads(file.read_text())
    assert all((images / image["file_name"]).is_file() for image in document["images"])
    return {image["id"] for image in document["images"]}


def test_a_folder_is_split_and_stays_as_it_was(root, capsys):
    listed = json.loads((root / "instances.json").read_text())["images"]
    first, second = (root / "images" / image["file_name"] for image in listed[:2])
    shutil.copy(first, second)
    before = sorted(path.name for path in root.rglob("*"))
    assert main([str(root), "--val=0.25"]) == 0
    out = root.parent / "flat_split"
    said = capsys.readouterr().out
    assert f"{out}: 6 training and 2 validation images" in said
    assert "1 image(s) are copies of others" in said
    parts = [ids(out, split) for split in ("train", "val")]
    assert sorted(i for part in parts for i in part) == [image["id"] for image in listed]
    assert any({image["id"] for image in listed[:2]} <= part for part in parts)
    assert sorted(path.name for path in root.rglob("*")) == before

    assert main([str(root), "--folds=4"]) == 0
    folds = [ids(root.parent / "flat_folds" / f"fold{i}", "val") for i in range(4)]
    assert sorted(i for fold in folds for i in fold) == [image["id"] for image in listed]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--val=1"], "--val=1 must be below 1"),
        (["--folds=1"], "--folds=1 must be at least 2"),
        (["--val=0.01"], "8 images cannot be split so that either side has one"),
        (["--seed=-1"], "--seed=-1 must be at least 0"),
        (["--val=0.2", "--folds=3"], "not allowed with"),
        (["--folds=99999999999999999999"], "must be at most 8, the number of images of"),
        (["--folds=9"], "--folds=9 must be at most 8"),
    ],
)
def test_what_cannot_be_split_is_one_sentence(root, capsys, flags, said):
    assert main([str(root), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (root.parent / "flat_folds").exists()


def test_nothing_is_written_before_all_parts_are_known_to_have_images(root, capsys):
    first, *others = sorted((root / "images").iterdir())
    for other in others:
        shutil.copy(first, other)
    assert main([str(root), "--folds=2"]) == 2
    assert "8 images cannot be split" in capsys.readouterr().err
    assert not (root.parent / "flat_folds").exists()


@pytest.mark.parametrize("place", [".", "inside", "images", "../link/inside"])
def test_the_data_set_is_not_written_into(root, capsys, place):
    (root.parent / "link").symlink_to(root)
    before = sorted(root.rglob("*"))
    assert main([str(root), f"--out={root / place}"]) == 2
    assert "must lie outside of" in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before


def test_pipes_among_the_images_are_not_read(root):
    for image in sorted((root / "images").iterdir())[:2]:
        image.unlink()
        os.mkfifo(image)
    assert main([str(root)]) == 0


def test_what_is_split_already_is_left_alone(root, capsys):
    assert main([str(root.parent / "shapes")]) == 2
    assert "has validation data already" in capsys.readouterr().err
