"""Random crops of images without annotations."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

from jaxdet.config.shapes import pretraining
from jaxdet.data.loader import LoaderSettings
from jaxdet.data.shapes import ShapesDataset
from jaxdet.data.unlabelled import crop_batches, open_images, sample_crop


def test_crops_lie_inside_and_have_the_area_and_proportions_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([sample_crop(rng, 60, 90, (0.2, 0.6)) for _ in range(300)])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [90, 60]).all()
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    areas = width * height / (60 * 90)
    assert 0.19 < areas.min() < 0.25
    assert 0.5 < areas.max() < 0.62
    ratios = width / height
    assert 0.72 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.38


def test_a_very_long_image_is_cut_in_the_middle():
    rng = np.random.default_rng(0)
    assert sample_crop(rng, 10, 1000, (0.9, 1.0)) == (493, 0, 506, 10)
    assert sample_crop(rng, 1000, 10, (0.9, 1.0)) == (0, 493, 10, 506)


def test_rendered_images_hold_the_detectors_training_images_and_no_validation_image():
    config = pretraining()
    config.data.shapes.images = 30
    images = open_images(config.data)
    assert len(images) == 30
    train = ShapesDataset("train", 20, config.data.shapes.image_size)
    for index in (0, 7, 19):
        np.testing.assert_array_equal(images[index].pixels(), train[index].image)
    val = ShapesDataset("val", 20, config.data.shapes.image_size)
    own = [image.pixels() for image in (images[i] for i in range(30))]
    assert not any(
        np.array_equal(val[i].image, image) for i, image in itertools.product(range(20), own)
    )


def test_batches_from_a_folder_resume_where_they_were(tmp_path):
    rng = np.random.default_rng(0)
    for i, suffix in enumerate(("png", "JPG", "webp")):
        (tmp_path / f"{i}").mkdir()
        image = Image.fromarray(rng.integers(0, 256, (40, 50 + i, 3), np.uint8))
        image.save(tmp_path / f"{i}" / f"image.{suffix}")
    (tmp_path / "notes.txt").write_text("no image")
    config = pretraining()
    config.data.root = str(tmp_path)
    images = open_images(config.data)
    assert sorted(image.hw for image in (images[i] for i in range(3))) == [
        (40, 50),
        (40, 51),
        (40, 52),
    ]
    options = {"image_size": 16, "crop_area": (0.2, 1.0), "flip": True, "seed": 3}
    settings = LoaderSettings(2, threads=1)
    batches = crop_batches(images, settings, **options)
    first = [batch["image"] for batch in itertools.islice(batches, 4)]
    assert first[0].shape == (2, 16, 16, 3)
    assert first[0].dtype == np.uint8
    later = next(crop_batches(images, settings, **options, start_step=3))["image"]
    np.testing.assert_array_equal(later, first[3])
    assert not np.array_equal(first[0], first[1])
    halves = [
        next(crop_batches(images, LoaderSettings(2, 1, 0, rank, 2), **options))["image"]
        for rank in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate(halves), first[0])
