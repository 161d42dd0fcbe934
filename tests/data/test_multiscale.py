"""The multi-scale resize and crop: sizes, geometry and batches."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxdet.data.image import ArrayImage
from jaxdet.data.loader import LoaderSettings, eval_batches, train_batches
from jaxdet.data.multiscale import CROP_SIDES, CROPPED_SHORT_SIDES, Multiscale
from jaxdet.data.shapes import ShapesDataset
from jaxdet.data.transform import transform_image, transform_points

IMTED = Multiscale(1344, tuple(range(480, 801, 32)), 1333)


def test_whole_images_get_a_listed_short_side_or_the_longest_long_one():
    rng = np.random.default_rng(0)
    transforms = [IMTED.sample(rng, 480, 640) for _ in range(400)]
    whole = [transform for transform in transforms if transform.crop_hw is None]
    assert 150 < len(whole) < 250
    assert {transform.resized_hw[0] for transform in whole} == set(IMTED.short_sides)
    assert all(
        transform.resized_hw[1] == round(p[0] * 4 / 3 + 1e-9)
        for transform in whole
        for p in [transform.resized_hw]
    )
    assert 150 < sum(transform.flip for transform in transforms) < 250
    unflipped = dataclasses.replace(IMTED, flip=False)
    assert not any(unflipped.sample(rng, 480, 640).flip for _ in range(20))
    for _ in range(50):
        height, width = IMTED.sample(rng, 200, 1000).visible_hw(1344)
        assert max(height, width) <= 1333


def test_crops_lie_on_the_image_and_have_the_sides_of_the_recipe():
    rng = np.random.default_rng(1)
    crops = [p for p in (IMTED.sample(rng, 480, 640) for _ in range(400)) if p.crop_hw]
    for transform in crops:
        first_hw, crop_hw = [], []
        for short_side in CROPPED_SHORT_SIDES:
            ratio = transform.resized_hw[0] / short_side
            sides = transform.crop_hw[0] / ratio, transform.crop_hw[1] / ratio
            if all(abs(side - round(side)) < 0.51 for side in sides):
                first_hw.append(short_side)
                crop_hw.append(sides)
        assert first_hw
        x, y = transform.offset
        assert x >= 0
        assert y >= 0
        assert y + transform.crop_hw[0] <= transform.resized_hw[0] + 1e-6
        assert x + transform.crop_hw[1] <= transform.resized_hw[1] + 1e-6
        short, long = sorted(transform.crop_hw)
        assert short in IMTED.short_sides or long == IMTED.long_side
        assert max(min(CROP_SIDES) / 600, 0.5) <= transform.crop_hw[0] / transform.resized_hw[0]


def test_points_follow_the_pixels_of_a_crop():
    """A bright dot is found where transform_points says."""
    rng = np.random.default_rng(2)
    dot = np.array([300.0, 200.0])
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[198:202, 298:302] = 255
    found = 0
    for _ in range(60):
        transform = IMTED.sample(rng, 480, 640)
        image = transform_image(ArrayImage(pixels), transform, 1344, 0)[:, :, 0].astype(float)
        x, y = transform_points(dot, transform)
        height, width = transform.visible_hw(1344)
        if not (10 < x < width - 10 and 10 < y < height - 10):
            continue
        found += 1
        positions = np.arange(1344) + 0.5
        centre = [np.average(positions, weights=image.sum(axis)) for axis in (0, 1)]
        np.testing.assert_allclose(centre, (x, y), atol=0.15)
        assert not image[height:].any()
        assert not image[:, width:].any()
    assert found > 20


def test_evaluation_size():
    assert IMTED.fit(480, 640).resized_hw == (800, 1067)
    assert IMTED.fit(640, 427).resized_hw == (1199, 800)
    assert IMTED.fit(200, 1000).resized_hw == (267, 1333)


def test_batches_say_which_part_of_the_canvas_is_image():
    given = ShapesDataset("train", 12, 96), Multiscale(96, (40, 48), 80), LoaderSettings(4, 0)
    batch = next(train_batches(*given, max_instances=5, mask_size=14, seed=0))
    assert batch["image"].shape == (4, 96, 96, 3)
    assert (batch["image_hw"] <= 80).all()
    for boxes, valid, (height, width) in zip(
        batch["boxes"], batch["valid"], batch["image_hw"], strict=True
    ):
        assert (boxes[valid] <= (width, height, width, height)).all()
    for batch in eval_batches(*given):
        real = batch["image_hw"][batch["is_real"]]
        assert ((real.min(axis=1) == 48) | (real.max(axis=1) == 80)).all()
