"""Prepared sets: the examples of the folder they were made of, whatever happened on the way."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from pycocotools import mask as coco_mask

from jaxdet.data import prepare, prepared
from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.loader import trained_images
from jaxdet.data.prepared import PreparedDataset, prepared_folder
from jaxdet.data.source import open_dataset
from jaxdet.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def write_set(root: Path, images: int) -> Path:
    """A folder in COCO's layout: polygons, one a line, run-length codes, a crowd, empty images."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    listed, annotations = [], []
    for number in range(images):
        name = f"ä {number}.{'png' if number % 3 == 1 else 'jpg'}"
        height, width = (int(side) for side in rng.integers(20, 40, 2))
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
        listed.append({"id": 100 + number, "file_name": name, "height": height, "width": width})
        code = coco_mask.encode(np.asfortranarray(pixels[:, :, 0] > 128, np.uint8))
        code["counts"] = code["counts"].decode()
        masks = [[[1.5, 2, 12.25, 3, 12, 13]], code, code, [[1, 1, 2, 2]], [[1, 1, 9, 9, 5, 5]]]
        for kind in range(number % 6):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + number,
                    "category_id": (7, 3)[kind % 2],
                    "bbox": [1.5, 2, 10.75, 11],
                    "area": 50,
                    "iscrowd": int(kind == 2),
                    "segmentation": masks[kind],
                }
            )
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    document = {"images": listed, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(document))
    return root


def build(source: Path, target: Path, *more: str) -> int:
    """The command in this process, which has imported what a new one would need seconds for."""

    def threads(workers: int, mp_context: object) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(workers)

    arguments = ["--splits", "train", "--workers", "1", "--images-per-shard", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "ProcessPoolExecutor", threads)
        return prepare.main([str(source), str(target), *arguments, *more])


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("prepare")
    source = write_set(folder / "source", 10)
    assert build(source, folder / "target") == 0
    return source, folder / "target"


def test_examples_are_those_of_the_folder(built):
    source, target = built
    plain = CocoDataset(*find_coco(source, "train"))
    dataset = pickle.loads(pickle.dumps(PreparedDataset(prepared_folder(target), "train")))
    assert len(dataset) == len(plain) == 10
    assert dataset.categories == plain.categories
    assert dataset.image_ids == plain.image_ids
    assert dataset.ground_truth() == plain.ground_truth()
    assert plain.findings() in dataset.summary()
    for index in range(10):
        one, other = plain[index], dataset[index]
        assert plain.has_objects(index) == dataset.has_objects(index)
        np.testing.assert_array_equal(plain.labels(index), dataset.labels(index))
        assert one.image_id == other.image_id
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert len(one.masks) == len(other.masks)
        for mask, same in zip(one.masks, other.masks, strict=True):
            np.testing.assert_equal(mask, same)


def test_background_and_objects_without_masks_are_those_of_the_folder(built, tmp_path):
    source, target = built
    plain = CocoDataset(*find_coco(source, "train"), masks=False)
    folder = prepared_folder(target)
    dataset = PreparedDataset(folder, "train", masks=False)
    for index in range(len(plain)):
        one, other = plain[index], dataset[index]
        assert plain.has_objects(index) == dataset.has_objects(index)
        assert plain.is_background(index) == dataset.is_background(index)
        np.testing.assert_array_equal(plain.labels(index), dataset.labels(index))
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        for mask, same in zip(one.masks, other.masks, strict=True):
            np.testing.assert_equal(mask, same)
    assert trained_images(dataset, 1.0) == 10
    assert trained_images(PreparedDataset(folder, "train"), 0.0) == 8

    old = tmp_path / "old"
    shutil.copytree(folder, old)
    with np.load(old / "train.index.npz") as index:
        known = {name: index[name] for name in ("image_ids", "sizes", "has_objects")}
    np.savez(old / "train.index.npz", **known)
    with pytest.raises(UserError, match="which images are background; run jaxdet data prepare"):
        trained_images(PreparedDataset(old, "train"), 0.5)
    with pytest.raises(UserError, match=r"has_boxes.*run jaxdet data prepare again"):
        PreparedDataset(old, "train", masks=False)


def test_images_that_were_annotated_upright_stay_so(tmp_path):
    source = write_set(tmp_path / "source", 4)
    document = json.loads((source / "instances.json").read_text())
    note = Image.Exif()
    note[0x0112] = 6
    for image in document["images"]:
        path = source / "images" / image["file_name"]
        with Image.open(path) as stored:
            stored.load()
            stored.save(path, exif=note)
        image["height"], image["width"] = image["width"], image["height"]
    document["annotations"][0]["segmentation"] = None  # a box alone
    for annotation in document["annotations"]:
        if isinstance(annotation["segmentation"], dict):
            annotation["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    (source / "instances.json").write_text(json.dumps(document))
    assert build(source, tmp_path / "target") == 2
    assert build(source, tmp_path / "target", "--orientation=exif") == 0
    plain = CocoDataset(*find_coco(source, "train"), orientation="exif", masks=False)
    dataset = PreparedDataset(prepared_folder(tmp_path / "target"), "train", masks=False)
    assert dataset.orientation == "exif"
    for index in range(4):
        np.testing.assert_array_equal(plain[index].image, dataset[index].image)
        for mask, same in zip(plain[index].masks, dataset[index].masks, strict=True):
            np.testing.assert_equal(mask, same)


def test_records_are_the_files_bytes_and_tfds_reads_them(built):
    source, target = built
    builder = tfds.builder("coco_instances", data_dir=target)
    records = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    listed = json.loads((source / "instances.json").read_bytes())["images"]
    assert len(records) == len(listed)
    for record, image in zip(records, listed, strict=True):
        assert record["image/id"] == image["id"]
        assert record["image/file_name"].decode() == image["file_name"]
        assert record["image"] == (source / "images" / image["file_name"]).read_bytes()
    crowds = [bool(c) for record in records for c in record["objects"]["is_crowd"]]
    assert sum(crowds) == 4
    assert builder.info.features["objects"]["label"].names == ["cat", "dog"]


def test_a_config_finds_the_prepared_set_by_itself(built):
    _, target = built
    data = ConfigDict(
        {"name": "coco", "root": str(target), "train_annotations": None, "train_images": None}
        | {"val_annotations": None, "val_images": None, "orientation": "stored"}
        | {"empty_images": 0.0}
    )
    assert isinstance(open_dataset(data, "train"), PreparedDataset)
    other = data.copy_and_resolve_references()
    other.orientation = "exif"
    with pytest.raises(UserError, match=r"config\.data\.orientation must be 'stored', as .* was"):
        open_dataset(other, "train")
    with pytest.raises(UserError, match=r"no complete val split .* run jaxdet data prepare"):
        open_dataset(data, "val")


def test_training_needs_neither_tensorflow_nor_tfds(built):
    script = (
        "import sys\n"
        "sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None\n"
        "from jaxdet.data.prepared import PreparedDataset, prepared_folder\n"
        f"print(len(PreparedDataset(prepared_folder({str(built[1])!r}), 'train')[3].masks))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.stdout.strip() == "2", done.stderr


def test_finished_shards_are_kept_and_damaged_or_outdated_ones_are_not(built, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(built[0], source)
    shutil.copytree(built[1], target)
    folder = prepared_folder(target)
    paths = [folder / prepared.record_file("train", shard, 3) for shard in range(3)]
    stamps = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    assert build(source, target) == 0
    again = [path.stat().st_mtime_ns for path in paths]
    assert [one == other for one, other in zip(stamps, again, strict=True)] == [True, False, True]

    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    assert build(source, target) == 0
    assert paths[0].stat().st_mtime_ns != again[0]
    plain, rebuilt = CocoDataset(*find_coco(source, "train")), PreparedDataset(folder, "train")
    for index in range(4):
        np.testing.assert_array_equal(plain[index].image, rebuilt[index].image)

    document = json.loads((source / "instances.json").read_bytes())
    document["annotations"].pop()
    (source / "instances.json").write_text(json.dumps(document))
    assert build(source, target) == 0
    assert paths[2].stat().st_mtime_ns != again[2]


def test_an_image_that_changed_is_noticed(built, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(built[0], source)
    shutil.copytree(built[1], target)
    folder = prepared_folder(target)
    paths = [folder / prepared.record_file("train", shard, 3) for shard in range(3)]
    stamps = [path.stat().st_mtime_ns for path in paths]
    plain = CocoDataset(*find_coco(source, "train"))
    path, (height, width) = plain.file(4)
    Image.new("RGB", (width, height), "red").save(path)
    assert build(source, target) == 0
    again = [path.stat().st_mtime_ns for path in paths]
    assert [one == other for one, other in zip(stamps, again, strict=True)] == [True, False, True]
    rebuilt = PreparedDataset(folder, "train")
    np.testing.assert_array_equal(plain[4].image, rebuilt[4].image)
    assert rebuilt.annotations_sha256 == plain.annotations_sha256


def test_resumes_after_sigkill(tmp_path):
    source = write_set(tmp_path / "source", 300)
    target = tmp_path / "target"
    command = [sys.executable, "-m", "jaxdet.data.prepare", str(source), str(target)]
    command += ["--splits", "train", "--workers", "1", "--images-per-shard", "10"]
    killed = subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.DEVNULL, start_new_session=True
    )
    folder = target / prepared.NAME / prepared.VERSION
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*-of-00030"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*-of-00030")}
    assert 2 <= len(finished) < 30
    with pytest.raises(UserError, match="no complete train split"):
        PreparedDataset(folder, "train")
    assert build(source, target, "--images-per-shard", "10") == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    assert not list(folder.glob("*.partial"))
    assert len(PreparedDataset(folder, "train")) == 300


def test_an_unreadable_image_stops_it_with_its_name(tmp_path, capsys):
    source = write_set(tmp_path / "source", 5)
    (source / "images" / "ä 3.jpg").write_bytes(b"")
    assert build(source, tmp_path / "target") == 2
    assert "ä 3.jpg cannot be read as an image" in capsys.readouterr().err


def test_a_missing_shard_or_a_damaged_record_is_an_error(built, tmp_path):
    folder = tmp_path / prepared.NAME / prepared.VERSION
    shutil.copytree(prepared_folder(built[1]), folder)
    shard = folder / prepared.record_file("train", 1, 3)
    shard.unlink()
    with pytest.raises(UserError, match=r"00001-of-00003 is missing; run jaxdet data prepare"):
        PreparedDataset(folder, "train")
