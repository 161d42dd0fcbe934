"""A real user's mess, one kind after the other: what a run says of it, and what the report says."""

from __future__ import annotations

import functools
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdet.data import check
from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.loader import LoaderSettings, train_batches
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.errors import UserError

HEIGHT, WIDTH = 20, 30
SQUARE = [2, 3, 12, 3, 12, 13, 2, 13]
FINE = None

Change = Callable[[Path, dict], None]


def write_set(root: Path) -> dict:
    """Two sound images with an object each; returns the document."""
    (root / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for name in ("1.jpg", "2.jpg"):
        Image.fromarray(pixels).save(root / "images" / name)
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in (1, 2)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": 7,
                "bbox": [2, 3, 10, 10],
                "segmentation": [SQUARE],
                "area": 100,
                "iscrowd": 0,
            }
            for i in (1, 2)
        ],
        "categories": [{"id": 7, "name": "train"}, {"id": 90, "name": "toothbrush"}],
    }


def image(mode: str, name: str = "1.jpg", size=(WIDTH, HEIGHT), **options) -> Change:
    """The first image in another mode, perhaps under another name."""

    def change(root: Path, document: dict) -> None:
        (root / "images" / "1.jpg").unlink()
        document["images"][0]["file_name"] = name
        (root / "images" / name).parent.mkdir(exist_ok=True)
        Image.new(mode, size).save(root / "images" / name, **options)

    return change


def turned(root: Path, document: dict) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image("RGB", exif=exif)(root, document)


def content(make: Callable[[bytes], bytes]) -> Change:
    def change(root: Path, document: dict) -> None:
        path = root / "images" / "1.jpg"
        path.write_bytes(make(path.read_bytes()))

    return change


def missing(root: Path, document: dict) -> None:
    (root / "images" / "1.jpg").unlink()


@functools.cache
def bomb_content() -> bytes:
    """14,000 x 14,000 pixels in a small file: more than Pillow decodes."""
    file = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def hidden_bomb(root: Path, document: dict) -> None:
    """A decompression bomb, listed as a small image."""
    (root / "images" / "1.jpg").write_bytes(bomb_content())


def bomb(root: Path, document: dict) -> None:
    """The same, listed as it is."""
    hidden_bomb(root, document)
    document["images"][0].update(height=14_000, width=14_000)


def outside(name: str) -> Change:
    def change(root: Path, document: dict) -> None:
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "secret.jpg")
        document["images"][0]["file_name"] = name

    return change


def linked_outside(root: Path, document: dict) -> None:
    missing(root, document)
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "secret.jpg")
    (root / "images" / "1.jpg").symlink_to(root / "secret.jpg")


def fields(key: str, **changes) -> Change:
    return lambda root, document: document[key][0].update(changes)


def lvis(root: Path, document: dict) -> None:
    (root / "images" / "train2017").mkdir()
    (root / "images" / "1.jpg").rename(root / "images" / "train2017" / "1.jpg")
    entry = document["images"][0]
    del entry["file_name"]
    entry.update(
        coco_url="http://images.cocodataset.org/train2017/1.jpg",
        neg_category_ids=[90],
        not_exhaustive_category_ids=[],
    )
    del document["annotations"][0]["iscrowd"]


TABLE: list[tuple[str, Change, str | None, str | None]] = [
    # what, how it is made, the error (None: none), what is skipped and counted (None: nothing)
    ("nothing", lambda root, document: None, FINE, None),
    ("missing image", missing, "1 of 2 images .* are not in", None),
    ("truncated JPEG", content(lambda b: b[:-200]), "cannot be read as an image .*; replace", None),
    ("empty file", content(lambda b: b""), "cannot be read as an image .*; replace", None),
    ("no image", content(lambda b: b"text" * 99), "cannot be read as an image", None),
    ("CMYK", image("CMYK"), FINE, None),
    ("grey", image("L"), FINE, None),
    ("16 bits", image("I;16", "1.png"), FINE, None),
    ("palette", image("P", "1.png"), FINE, None),
    ("see-through", image("RGBA", "1.png"), FINE, None),
    ("EXIF-rotated", turned, FINE, None),
    ("other size", image("RGB", size=(31, 20)), "has 20 x 31 pixels .* lists 20 x 30", None),
    ("turned", image("RGB", size=(20, 30)), "save it upright", None),
    ("bomb", bomb, "14000 x 14000 pixels, more than .*; scale or tile it", None),
    ("hidden bomb", hidden_bomb, "196000000 pixels.*; replace", None),
    ("unicode name", image("RGB", "größe 像.jpg"), FINE, None),
    ("name upwards", outside("../secret.jpg"), "leads out of", None),
    ("absolute name", outside("/etc/passwd"), "leads out of", None),
    ("link outwards", linked_outside, "leads out of", None),
    ("box outside", fields("annotations", bbox=[25, 15, 50, 50]), FINE, None),
    ("outline outside", fields("annotations", segmentation=[[40, 5, 50, 5, 50, 9]]), FINE, None),
    ("NaN box", fields("annotations", bbox=[math.nan, 0, 5, 5]), FINE, "1 with a box taken from"),
    (
        "NaN outline",
        fields("annotations", segmentation=[[math.nan, 3, 12, 3, 12, 13]]),
        FINE,
        "not a list of finite numbers",
    ),
    ("image id twice", fields("images", id=2), r"images\[1\] has id 2 a second time", None),
    ("annotation id twice", fields("annotations", id=2), "has id 2 a second time", None),
    ("id as text", fields("images", id="1"), r"images\[0\] has id '1'; make it a whole", None),
    ("image_id as text", fields("annotations", image_id="1"), "has image_id '1'", None),
    ("category as text", fields("annotations", category_id="7"), "has category_id '7'", None),
    ("unlisted category", fields("annotations", category_id=8), "which is not listed; add", None),
    (
        "mask of another size",
        fields("annotations", segmentation={"size": [9, 9], "counts": [5, 76]}),
        FINE,
        "not of the image's size",
    ),
    ("empty segmentation", fields("annotations", segmentation=[]), FINE, "1 with no segmentation"),
    ("LVIS", lvis, FINE, None),
]


@pytest.fixture(params=TABLE, ids=[row[0] for row in TABLE])
def case(request, tmp_path) -> tuple[Path, str | None, str | None]:
    _, change, error, skipped = request.param
    document = write_set(tmp_path)
    change(tmp_path, document)
    (tmp_path / "instances.json").write_text(json.dumps(document))
    return tmp_path, error, skipped


def load(root: Path) -> CocoDataset:
    """What a run does: opens the set and samples every image once."""
    dataset = CocoDataset(*find_coco(root, "train"))
    settings = LoaderSettings(1, threads=0)
    batches = train_batches(
        dataset, LargeScaleJitter(32), settings, max_instances=2, mask_size=14, seed=0
    )
    for _ in range(2):
        next(batches)
    return dataset


def test_a_run_survives_it_or_says_what_to_fix(case):
    root, error, skipped = case
    if error is not None:
        with pytest.raises(UserError, match=error) as caught:
            load(root)
        assert "\n" not in str(caught.value)
        assert ";" in str(caught.value)
        return
    summary = load(root).summary()
    assert (skipped or "skipped: nothing") in summary


def test_the_report_says_it_too(case, capsys):
    root, error, skipped = case
    assert check.main([str(root)]) == (error is not None)
    printed = capsys.readouterr().out
    if error is None:
        assert printed.endswith("no errors\n")
        assert (skipped or "skipped: nothing") in printed
    else:
        errors = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert any(re.search(error, line) for line in errors)


def test_many_faults_are_all_reported_in_one_go(tmp_path, capsys):
    document = write_set(tmp_path)
    document["images"] += [
        {"id": 3, "file_name": "3.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 4, "file_name": "../4.jpg", "height": HEIGHT, "width": WIDTH},
        {"id": 4, "file_name": "5.jpg", "height": 0, "width": WIDTH},
    ]
    document["annotations"][0]["category_id"] = 1
    document["annotations"].append({**document["annotations"][1], "id": 9, "bbox": [1, 1, 0, 0]})
    document["categories"].append({"id": 7, "name": "again"})
    (tmp_path / "images" / "2.jpg").write_bytes(b"")
    (tmp_path / "instances.json").write_text(json.dumps(document))
    assert check.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    for part in (
        "images[4] (5.jpg) has height 0",
        "categories[2] has id 7 a second time",
        "annotations[0] has category_id 1, which is not listed",
        "'../4.jpg', which leads out of",
        "1 of 4 images",
        "2.jpg cannot be read as an image",
        "1 with a box of zero size (first: annotation 9)",
        "6 errors",
    ):
        assert part in printed


def test_a_folder_that_is_none(tmp_path, capsys):
    assert check.main([str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().out
    (tmp_path / "images").mkdir()
    (tmp_path / "instances.json").write_text("{")
    assert check.main([str(tmp_path)]) == 1
    assert "is not valid JSON" in capsys.readouterr().out


def test_lvis_is_found_in_the_folder_of_coco(tmp_path):
    document = write_set(tmp_path)
    for entry in document["images"]:
        name = entry.pop("file_name")
        entry["coco_url"] = f"http://images.cocodataset.org/val2017/{name}"
    (tmp_path / "images").rename(tmp_path / "val2017")
    (tmp_path / "lvis_v1_train.json").write_text(json.dumps(document))
    dataset = CocoDataset(*find_coco(tmp_path, "train"))
    assert len(dataset) == 2
    assert dataset[1].image.shape == (HEIGHT, WIDTH, 3)


def test_lvis_validates_on_images_of_both_of_coco_s_folders(tmp_path):
    document = write_set(tmp_path)
    for entry, folder in zip(document["images"], ("train2017", "val2017"), strict=True):
        name = entry.pop("file_name")
        entry |= {
            "coco_url": f"http://images.cocodataset.org/{folder}/{name}",
            "neg_category_ids": [1],
            "not_exhaustive_category_ids": [],
        }
        (tmp_path / folder).mkdir()
        (tmp_path / "images" / name).rename(tmp_path / folder / name)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "lvis_v1_val.json").write_text(json.dumps(document))
    dataset = CocoDataset(*find_coco(tmp_path, "val"))
    assert [dataset[index].image.shape for index in range(2)] == [(HEIGHT, WIDTH, 3)] * 2
    assert [image["neg_category_ids"] for image in dataset.ground_truth()["images"]] == [[1]] * 2
