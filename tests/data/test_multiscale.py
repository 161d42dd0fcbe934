"""The multi-scale resize and crop: sizes, geometry and batches."""

from __future__ import annotations

import numpy as np

from jaxdet.data.image import ArrayImage
from jaxdet.data.loader import eval_batches, train_batches
from jaxdet.data.lsj import place_image, place_points
from jaxdet.data.multiscale import CROP_SIDES, CROPPED_SHORT_SIDES, Multiscale
from jaxdet.data.shapes import ShapesDataset

IMTED = Multiscale(tuple(range(480, 801, 32)), 1333)


def test_whole_images_get_a_listed_short_side_or_the_longest_long_one():
    rng = np.random.default_rng(0)
    placements = [IMTED.sample(rng, 480, 640, True) for _ in range(400)]
    whole = [placement for placement in placements if placement.crop_hw is None]
    assert 150 < len(whole) < 250
    assert {placement.resized_hw[0] for placement in whole} == set(IMTED.short_sides)
    assert all(
        placement.resized_hw[1] == round(p[0] * 4 / 3 + 1e-9)
        for placement in whole
        for p in [placement.resized_hw]
    )
    assert 150 < sum(placement.flip for placement in placements) < 250
    assert not any(IMTED.sample(rng, 480, 640, False).flip for _ in range(20))
    for _ in range(50):
        height, width = IMTED.sample(rng, 200, 1000, True).visible_hw(1344)
        assert max(height, width) <= 1333


def test_crops_lie_on_the_image_and_have_the_sides_of_the_recipe():
    rng = np.random.default_rng(1)
    crops = [p for p in (IMTED.sample(rng, 480, 640, True) for _ in range(400)) if p.crop_hw]
    for placement in crops:
        first_hw, crop_hw = [], []
        for short_side in CROPPED_SHORT_SIDES:
            ratio = placement.resized_hw[0] / short_side
            sides = placement.crop_hw[0] / ratio, placement.crop_hw[1] / ratio
            if all(abs(side - round(side)) < 0.51 for side in sides):
                first_hw.append(short_side)
                crop_hw.append(sides)
        assert first_hw
        x, y = placement.offset
        assert x >= 0
        assert y >= 0
        assert y + placement.crop_hw[0] <= placement.resized_hw[0] + 1e-6
        assert x + placement.crop_hw[1] <= placement.resized_hw[1] + 1e-6
        short, long = sorted(placement.crop_hw)
        assert short in IMTED.short_sides or long == IMTED.long_side
        assert max(min(CROP_SIDES) / 600, 0.5) <= placement.crop_hw[0] / placement.resized_hw[0]


def test_points_follow_the_pixels_of_a_crop():
    """A bright dot is found where place_points says."""
    rng = np.random.default_rng(2)
    dot = np.array([300.0, 200.0])
    pixels = np.zeros((480, 640, 3), np.uint8)
    pixels[198:202, 298:302] = 255
    found = 0
    for _ in range(60):
        placement = IMTED.sample(rng, 480, 640, True)
        image = place_image(ArrayImage(pixels), placement, 1344, 0)[:, :, 0].astype(float)
        x, y = place_points(dot, placement)
        height, width = placement.visible_hw(1344)
        if not (10 < x < width - 10 and 10 < y < height - 10):
            continue
        found += 1
        rows, columns = np.indices(image.shape) + 0.5
        centre = (columns * image).sum() / image.sum(), (rows * image).sum() / image.sum()
        np.testing.assert_allclose(centre, (x, y), atol=0.15)
        assert not image[height:].any()
        assert not image[:, width:].any()
    assert found > 20


def test_evaluation_size():
    assert IMTED.fit(480, 640).resized_hw == (800, 1067)
    assert IMTED.fit(640, 427).resized_hw == (1199, 800)
    assert IMTED.fit(200, 1000).resized_hw == (267, 1333)


def test_batches_say_which_part_of_the_canvas_is_image():
    multiscale = Multiscale((40, 48), 80)
    dataset = ShapesDataset("train", 12, 96)
    settings = {"image_size": 96, "multiscale": multiscale, "batch_size": 4, "threads": 0}
    batch = next(train_batches(dataset, max_instances=5, mask_size=14, seed=0, **settings))
    assert batch["image"].shape == (4, 96, 96, 3)
    assert (batch["image_hw"] <= 80).all()
    for boxes, valid, (height, width) in zip(
        batch["boxes"], batch["valid"], batch["image_hw"], strict=True
    ):
        assert (boxes[valid] <= (width, height, width, height)).all()
    for batch in eval_batches(dataset, **settings):
        real = batch["image_hw"][batch["is_real"]]
        assert ((real.min(axis=1) == 48) | (real.max(axis=1) == 80)).all()
