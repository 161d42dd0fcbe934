"""A detector on images of any kind: it finds what the evaluation found, from a checkpoint alone."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from jaxdet.config.mask_rcnn import check
from jaxdet.data.dataset import Category
from jaxdet.errors import UserError
from jaxdet.inference.detector import load, load_converted
from jaxdet.inference.prediction_files import read_categories
from jaxdet.models.paths import path_name
from jaxdet.training.checkpoint import Checkpoints
from tests.tiny import get_config, without


def test_arrays_files_and_images_of_any_kind_are_read(detector, evaluated, files):
    array = evaluated[0][0]
    path = files / "0.png"
    kinds = [array, path, str(path), Image.fromarray(array)]
    for prediction in detector.predict(kinds):
        assert without(prediction.results, "image_id") == without(evaluated[1][0], "image_id")
        np.testing.assert_array_equal(prediction.image, array)


def test_a_prediction_speaks_in_arrays_of_its_image(detector, photo):
    found = detector.predict(photo)
    count = len(found.results)
    assert found.boxes.shape == (count, 4)
    assert found.masks.shape == (count, photo.height, photo.width)
    assert found.masks.dtype == bool
    assert (np.diff(found.scores) <= 0).all()
    x, y, width, height = found.results[0]["bbox"]
    np.testing.assert_allclose(found.boxes[0], [x, y, x + width, y + height])
    np.testing.assert_array_equal(found.masks[0], rle.decode(found.results[0]["segmentation"]))
    ids = [detector.categories[label].id for label in found.labels]
    assert ids == [result["category_id"] for result in found.results]
    assert found.names == [detector.categories[label].name for label in found.labels]

    middle = float(np.median(found.scores))
    np.testing.assert_array_equal(
        found.above(middle).scores, [score for score in found.scores if score >= middle]
    )
    nothing = found.above(1.1)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.masks.shape == (0, photo.height, photo.width)
    assert nothing.names == []


def test_a_prediction_draws_what_is_above_the_score(detector, photo):
    found = detector.predict(photo)
    plain = np.asarray(found.draw(1.1))
    drawn = np.asarray(found.draw(0.0))
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    assert found._repr_png_().startswith(b"\x89PNG")


def test_images_of_any_size_and_mode_are_read(detector, photo, tmp_path):
    """Grey, transparent, with a palette, sixteen bits, much too large, a single row."""
    photo.convert("L").save(tmp_path / "grey.jpg")
    photo.convert("RGBA").save(tmp_path / "transparent.png")
    photo.convert("P").save(tmp_path / "palette.gif")
    Image.fromarray(np.full((40, 30), 40_000, np.uint16)).save(tmp_path / "sixteen.png")
    photo.resize((900, 700)).save(tmp_path / "large.webp")
    photo.resize((50, 1)).save(tmp_path / "row.bmp")
    paths = sorted(tmp_path.iterdir())
    for path, found in zip(paths, detector.predict(paths), strict=True):
        with Image.open(path) as image:
            assert found.image.shape == (image.height, image.width, 3)
        height, width = found.image.shape[:2]
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert found.draw(0.0).width >= width


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_the_camera_was_held(detector, photo, orientation, tmp_path):
    """Where the note is followed, detections lie on the upright image: those of the same pixels
    without it. Where not, they lie on the pixels as they are stored."""
    turns = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = photo
    for turn in turns[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "stored.png", exif=exif)
    turned, upright = detector.predict([tmp_path / "stored.png", photo], orientation="exif")
    assert detector.orientation == "stored"
    as_stored = detector.predict(tmp_path / "stored.png")
    np.testing.assert_array_equal(as_stored.image, np.asarray(stored))
    np.testing.assert_array_equal(turned.image, upright.image)
    assert without(turned.results, "image_id") == without(upright.results, "image_id")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
        (None, "a NoneType"),
    ],
)
def test_what_is_no_image_is_rejected(detector, image, expected):
    with pytest.raises(UserError, match=expected):
        detector.predict(image)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda meta: meta["config"]["model"].update(halo=1), "halo"),
        (lambda meta: meta["config"]["model"]["vit"].pop("width"), r"vit\.width was None"),
        (lambda meta: meta["config"].update(image_size="wide"), "image_size"),
        (lambda meta: meta.pop("categories"), "categories"),
        (lambda meta: meta["category_ids"].pop(), "differ in length"),
    ],
)
def test_a_checkpoint_of_another_version_is_rejected(finished, monkeypatch, change, expected):
    stored = Checkpoints.meta

    def changed(self, step):
        meta = stored(self, step)
        change(meta)
        return meta

    monkeypatch.setattr(Checkpoints, "meta", changed)
    with pytest.raises(UserError, match=f"another version of jaxdet .*{expected}.*; use that"):
        load(finished[0].workdir)


def test_weights_trained_with_cudnn_s_attention_run_without_a_gpu(finished, monkeypatch):
    stored = Checkpoints.meta

    def changed(self, step):
        meta = stored(self, step)
        meta["config"]["model"]["vit"]["attention"] = "cudnn"
        return meta

    monkeypatch.setattr(Checkpoints, "meta", changed)
    assert load(finished[0].workdir).config.model.vit.attention == "auto"


def test_a_converted_detector_needs_no_run(detector, photo, tmp_path):
    config = get_config()
    config.initialisation = "supervised"
    check(config)
    arrays = {
        path_name(path): np.asarray(leaf)
        for tree in (detector.params, detector.stats)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    init = tmp_path / "detector.npz"
    np.savez(init, **arrays)
    expected = detector.predict(photo)
    numbered = load_converted(init, config, batch=8)
    assert [category.name for category in numbered.categories][-1] == "class 4"
    assert numbered.predict(photo).results == expected.results

    listed = [Category(9, "nine"), Category(3, "three"), Category(5, "five"), Category(7, "seven")]
    names = tmp_path / "categories.json"
    names.write_text(json.dumps({"categories": [one._asdict() for one in listed]}))
    categories = read_categories(names)
    named = load_converted(init, config, categories, batch=8)
    assert [category.id for category in named.categories] == [3, 5, 7, 9]
    with pytest.raises(UserError, match="has 4 classes, but 3 categories are given"):
        load_converted(init, config, categories[:3])
    np.savez(init, **{"backbone.pos_embed": arrays["backbone.pos_embed"]})
    with pytest.raises(UserError, match="must hold a whole detector"):
        load_converted(init, config)
