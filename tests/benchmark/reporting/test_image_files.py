"""Images of a validation set, found by what its inspection calls them."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from jaxdet.benchmark.reporting import image_files
from jaxdet.benchmark.reporting.image_files import NoImageError, image_opener
from jaxdet.benchmark.reporting.inspection_file import InspectedImage
from jaxdet.files import file_sha256

DATA = {"name": "coco", "val_annotations": None, "val_images": None, "orientation": "stored"}


@pytest.fixture
def opener(tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "instances.json").write_text(json.dumps({}))
    picture = Image.new("RGB", (30, 20), (200, 10, 10))
    picture.save(tmp_path / "set" / "images" / "a.png")
    picture.save(tmp_path / "secret.png")
    return opener_of(tmp_path / "set")


def opener_of(root, **data):
    sha256 = file_sha256(root / "instances.json")
    return image_opener({**DATA, "root": str(root), **data}, sha256)


def listed(file, height=20, width=30):
    return InspectedImage(1, file, (height, width), (), ())


def test_an_image_is_opened(opener):
    assert opener(listed("a.png")).getpixel((3, 3)) == (200, 10, 10)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (listed("b.png"), "cannot be read"),
        (listed("a.png", 30, 20), "another size"),
        (listed("../../secret.png"), "leads out"),
        (listed(None), "leads out"),
    ],
)
def test_others_are_refused(opener, image, reason):
    with pytest.raises(NoImageError, match=reason):
        opener(image)


def test_an_absolute_name_is_refused(opener, tmp_path):
    with pytest.raises(NoImageError, match="leads out"):
        opener(listed(str(tmp_path / "secret.png")))


def test_an_image_that_is_too_large_is_said_to_be(opener, monkeypatch):
    monkeypatch.setattr(image_files, "LARGEST_IMAGE", 599)
    with pytest.raises(NoImageError, match="it is too large"):
        opener(listed("a.png"))


@pytest.mark.parametrize(
    ("sha256", "reason"), [(None, "does not say which"), ("0" * 64, "not those validated on")]
)
def test_images_of_other_annotations_are_not_opened(opener, tmp_path, sha256, reason):
    with pytest.raises(NoImageError, match=reason):
        image_opener({**DATA, "root": str(tmp_path / "set")}, sha256)


def test_images_turned_by_their_metadata_are_turned(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "instances.json").write_text("{}")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(folder / "a.jpg", exif=exif)
    turned = opener_of(tmp_path, orientation="exif")
    assert turned(listed("a.jpg", 30, 20)).size == (20, 30)
