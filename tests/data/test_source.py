"""What a config says of data."""

from __future__ import annotations

import shutil

import pytest

from jaxdet.config.mask_rcnn import benchmark
from jaxdet.data.loader import LoaderSettings
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.multiscale import Multiscale
from jaxdet.data.shapes import ShapesDataset
from jaxdet.data.shapes import main as write_shapes
from jaxdet.data.source import augmentation_of, loader_settings, open_dataset
from jaxdet.errors import UserError


@pytest.fixture
def config():
    return benchmark("b", "random", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=1.0)


def test_augmentation_and_loader(config):
    assert augmentation_of(config) == LargeScaleJitter(1024, (0.1, 2.0), True)
    config.update(image_size=800)
    config.data.update(augmentation="multiscale", short_sides=(480, 512), long_side=800, flip=False)
    assert augmentation_of(config) == Multiscale(800, (480, 512), 800, flip=False)
    config.data.update(threads=3, workers=2)
    assert loader_settings(config.data, 8, 1, 4) == LoaderSettings(8, 3, 2, 1, 4)


def test_evaluation_reads_the_annotations_once(config, tmp_path):
    folder = tmp_path / "shapes"
    write_shapes([str(folder), "--train-images=2", "--val-images=3", "--image-size=64"])
    config.data.root = str(folder)
    train, val = (open_dataset(config.data, split) for split in ("train", "val"))
    shutil.rmtree(folder / "annotations")
    truth = val.ground_truth()
    assert truth["annotations"] == ShapesDataset("val", 3, 64).ground_truth()["annotations"]
    with pytest.raises(UserError, match="no such annotation file"):
        train.ground_truth()
