"""Rectangles that images are padded to, and the order in which batches of one shape come."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdet.data.canvases import Row, canvas_of, rows_of
from jaxdet.data.dataset import Example
from jaxdet.data.image import ArrayImage
from jaxdet.data.loader import LoaderSettings, eval_batches
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.multiscale import Multiscale

LSJ = LargeScaleJitter(128)


@pytest.mark.parametrize(
    ("hw", "multiple", "expected"),
    [
        ((480, 640), 0, (128, 128)),
        ((480, 640), 32, (96, 128)),
        ((427, 640), 32, (96, 128)),  # 85.4 rows
        ((640, 480), 32, (128, 96)),
        ((500, 500), 32, (128, 128)),
        ((1, 640), 32, (32, 128)),
        ((480, 640), 96, (96, 128)),  # 192 is more than the square
        ((480, 640), 4096, (128, 128)),
    ],
)
def test_a_canvas_is_the_smallest_of_its_multiples(hw, multiple, expected):
    assert canvas_of(LSJ, hw, multiple) == expected


def test_imted_s_images_are_padded_as_they_are_resized():
    """800 x 1067 pixels, which the published code pads to a multiple of 32."""
    assert canvas_of(Multiscale(1344, (480, 800), 1333), (480, 640), 32) == (800, 1088)


class Images:
    """Images of given sizes; each is grey of its index."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        image = ArrayImage(np.full((*self.sizes[index], 3), index + 1, np.uint8))
        return Example(image, 100 + index, np.zeros((0, 4)), np.zeros(0, int), ())


def test_squares_keep_the_dataset_s_order_and_need_no_image():
    images = type("Closed", (), {"__len__": lambda self: 3})()
    square = (128, 128)
    assert rows_of(images, [LSJ], 2) == [[Row(i, square) for i in (0, 1, 2, None)]]


def test_images_of_one_shape_share_batches():
    images = Images((60, 80), (80, 60), (60, 80), (64, 64), (60, 80))
    wide, tall, square = (96, 128), (128, 96), (128, 128)
    (rows,) = rows_of(images, [LSJ], 2, 32)
    assert rows == [
        *(Row(3, square), Row(None, square)),
        *(Row(1, tall), Row(None, tall)),
        *(Row(0, wide), Row(2, wide), Row(4, wide), Row(None, wide)),
    ]
    first, second = rows_of(images, [LSJ, LargeScaleJitter(64)], 2, 64)
    assert [row.index for row in first] == [row.index for row in second]
    assert {(one.canvas, other.canvas) for one, other in zip(first, second, strict=True)} == {
        ((128, 128), (64, 64))
    }


@pytest.mark.parametrize("threads", [0, 2])
def test_batches_have_the_shape_of_their_images(threads):
    images = Images((60, 80), (80, 60), (60, 80))
    (rows,) = rows_of(images, [LSJ], 2, 32)
    tall, wide = eval_batches(images, LSJ, LoaderSettings(2, threads), rows)
    assert tall["image"].shape == (2, 128, 96, 3)
    assert tall["image_id"].tolist() == [101, -1]
    assert tall["is_real"].tolist() == [True, False]
    assert not tall["image"][1].any()
    assert wide["image"].shape == (2, 96, 128, 3)
    assert wide["image_id"].tolist() == [100, 102]
    assert wide["image_hw"].tolist() == [[96, 128]] * 2
    assert (wide["image"][1] == 3).all()


def test_each_host_gets_its_rows_of_every_batch():
    images = Images((60, 80), (80, 60), (60, 80), (80, 60), (80, 60))
    (rows,) = rows_of(images, [LSJ], 4, 32)
    hosts = [list(eval_batches(images, LSJ, LoaderSettings(4, 0, 0, i, 2), rows)) for i in (0, 1)]
    for batches in zip(*hosts, strict=True):
        assert len({batch["image"].shape for batch in batches}) == 1
    found = [
        batch["image_id"].tolist() for batches in zip(*hosts, strict=True) for batch in batches
    ]
    assert found == [[101, 103], [104, -1], [100, 102], [-1, -1]]
