"""Large-scale jitter: against stored Detectron2 outputs, and what it samples."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxdet.data.image import ArrayImage
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.transform import Transform, transform_image, transform_points


class Draws:
    """Stands for a generator whose next numbers in [0, 1) are known."""

    def __init__(self, *numbers: float):
        self.numbers = list(numbers)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self.numbers.pop(0)


@pytest.fixture(scope="module")
def lsj(reference):
    return reference("lsj.npz")


@pytest.mark.parametrize("case", range(4))
def test_equals_detectron2(lsj, case):
    image_size = int(lsj["target_size"])
    scale, flip, x, y = lsj[f"case{case}_params"]
    sampled = LargeScaleJitter(image_size, (scale, scale)).sample(
        Draws(0.0 if flip else 0.9, 0.5, 0.5), *lsj["image"].shape[:2]
    )
    assert sampled.resized_hw == tuple(lsj[f"case{case}_resized_hw"])
    assert sampled.flip == bool(flip)

    transform = dataclasses.replace(sampled, offset=(int(x), int(y)))
    image = transform_image(ArrayImage(lsj["image"]), transform, image_size, 128)
    expected = lsj[f"case{case}_image"]
    assert image.dtype == expected.dtype
    assert np.abs(image.astype(int) - expected).mean() < 0.01
    corners = transform_points(lsj["boxes"].astype(float).reshape(-1, 2, 2), transform)
    boxes = np.concatenate([corners.min(1), corners.max(1)], -1)
    np.testing.assert_allclose(boxes, lsj[f"case{case}_boxes_unclipped"], atol=1e-3, rtol=0)


def test_one_number_places_the_crop_along_both_axes():
    transform = LargeScaleJitter(128, (2.0, 2.0)).sample(Draws(0.9, 0.5, 0.25), 100, 200)
    assert transform == Transform((100, 200), (128, 256), False, (32, 0))
    transform = LargeScaleJitter(128, (1.5, 1.5)).sample(Draws(0.1, 0.5, 0.25), 200, 200)
    assert transform == Transform((200, 200), (192, 192), True, (16, 16))


def test_without_flip_the_same_draws_give_the_same_scale_and_crop():
    for seed in range(20):
        one, other = (
            LargeScaleJitter(64, flip=flip).sample(np.random.default_rng(seed), 90, 120)
            for flip in (True, False)
        )
        assert dataclasses.replace(one, flip=False) == other


def test_samples_stay_on_the_image_and_use_the_whole_range():
    rng = np.random.default_rng(0)
    jitter = LargeScaleJitter(64)
    transforms = [jitter.sample(rng, 75, 100) for _ in range(500)]
    sides = np.array([transform.resized_hw for transform in transforms])
    offsets = np.array([transform.offset[::-1] for transform in transforms])
    assert (offsets >= 0).all()
    assert (offsets <= np.maximum(0, sides - 64)).all()
    assert sides[:, 1].min() < 12
    assert sides[:, 1].max() > 120
    assert 200 < sum(transform.flip for transform in transforms) < 300


def test_a_very_long_image_keeps_at_least_one_pixel():
    jitter = LargeScaleJitter(64)
    assert jitter.fit(1, 5000).resized_hw == (1, 64)
    assert jitter.sample(Draws(0.9, 0.0, 0.0), 5000, 1).resized_hw == (6, 1)


@pytest.mark.parametrize(
    ("hw", "expected"),
    [
        ((480, 640), (768, 1024)),
        ((640, 427), (1024, 683)),
        ((375, 500), (768, 1024)),
        ((333, 500), (682, 1024)),
        ((50, 50), (1024, 1024)),
    ],
)
def test_evaluation_fits_the_longer_side(hw, expected):
    assert LargeScaleJitter(1024).fit(*hw) == Transform(hw, expected, False, (0, 0))
