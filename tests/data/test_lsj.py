"""Large-scale jitter against stored Detectron2 outputs, and masks against full-size rasters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.dataset import Example
from jaxdet.data.image import ArrayImage
from jaxdet.data.lsj import (
    Placement,
    fit_placement,
    place_image,
    place_objects,
    place_points,
    sample_placement,
)


class Draws:
    """Stands for a generator whose next numbers in [0, 1) are known."""

    def __init__(self, *numbers: float):
        self.numbers = list(numbers)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self.numbers.pop(0)


def example_of(*masks, hw=(40, 60)) -> Example:
    return Example(
        lazy_image=ArrayImage(np.zeros((*hw, 3), np.uint8)),
        image_id=1,
        boxes=np.zeros((len(masks), 4), np.float32),
        labels=np.arange(len(masks), dtype=np.int32),
        masks=list(masks),
    )


def rectangle(x1, y1, x2, y2) -> np.ndarray:
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], np.float64)


def encode(mask: np.ndarray):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


@pytest.fixture(scope="module")
def lsj(reference):
    return reference("lsj.npz")


@pytest.mark.parametrize("case", range(4))
def test_equals_detectron2(lsj, case):
    canvas = int(lsj["target_size"])
    scale, flip, x, y = lsj[f"case{case}_params"]
    sampled = sample_placement(
        Draws(0.0 if flip else 0.9, 0.5, 0.5), *lsj["image"].shape[:2], canvas, (scale, scale)
    )
    assert sampled.resized_hw == tuple(lsj[f"case{case}_resized_hw"])
    assert sampled.flip == bool(flip)

    placement = dataclasses.replace(sampled, offset=(int(x), int(y)))
    image = place_image(ArrayImage(lsj["image"]), placement, canvas, 128)
    expected = lsj[f"case{case}_image"]
    assert image.dtype == expected.dtype
    assert np.abs(image.astype(int) - expected).mean() < 0.01
    corners = place_points(lsj["boxes"].astype(float).reshape(-1, 2, 2), placement)
    boxes = np.concatenate([corners.min(1), corners.max(1)], -1)
    np.testing.assert_allclose(boxes, lsj[f"case{case}_boxes_unclipped"], atol=1e-3, rtol=0)


def test_one_number_places_the_crop_along_both_axes():
    placement = sample_placement(Draws(0.9, 0.5, 0.25), 100, 200, 128, (2.0, 2.0))
    assert placement == Placement((100, 200), (128, 256), False, (32, 0))
    placement = sample_placement(Draws(0.1, 0.5, 0.25), 200, 200, 128, (1.5, 1.5))
    assert placement == Placement((200, 200), (192, 192), True, (16, 16))


def test_without_flip_the_same_draws_give_the_same_scale_and_crop():
    for seed in range(20):
        one, other = (
            sample_placement(np.random.default_rng(seed), 90, 120, 64, (0.1, 2), flip)
            for flip in (True, False)
        )
        assert dataclasses.replace(one, flip=False) == other


def test_samples_stay_on_the_image_and_use_the_whole_range():
    rng = np.random.default_rng(0)
    placements = [sample_placement(rng, 75, 100, 64, (0.1, 2.0)) for _ in range(500)]
    sides = np.array([placement.resized_hw for placement in placements])
    offsets = np.array([placement.offset[::-1] for placement in placements])
    assert (offsets >= 0).all()
    assert (offsets <= np.maximum(0, sides - 64)).all()
    assert sides[:, 1].min() < 12
    assert sides[:, 1].max() > 120
    assert 200 < sum(placement.flip for placement in placements) < 300


def test_a_very_long_image_keeps_at_least_one_pixel():
    assert fit_placement(1, 5000, 64).resized_hw == (1, 64)
    assert sample_placement(Draws(0.9, 0.0, 0.0), 5000, 1, 64, (0.1, 2)).resized_hw == (6, 1)


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
def test_fit_placement(hw, expected):
    assert fit_placement(*hw, 1024) == Placement(hw, expected, False, (0, 0))


def test_polygon_boxes_follow_the_visible_part():
    placement = Placement((40, 60), (80, 120), False, (20, 10))
    example = example_of(
        [rectangle(15, 10, 30, 20)],  # inside
        [rectangle(0, 0, 20, 10)],  # cut at the left and at the top
        [rectangle(0, 0, 9, 30)],  # left of the canvas
        [rectangle(0, 0, 60, 40)],  # around the canvas
        [rectangle(0, 0, 5, 5), rectangle(50, 30, 51, 35)],  # its second part is visible
    )
    boxes, labels, masks = place_objects(example, placement, 64, 8)
    np.testing.assert_allclose(boxes[0], (10, 10, 40, 30))
    np.testing.assert_allclose(boxes[1], (0, 0, 20, 10))
    np.testing.assert_allclose(boxes[2], (0, 0, 64, 64))
    assert labels.tolist() == [0, 1, 3]
    assert (masks == 1).all()

    boxes, labels, _ = place_objects(
        example, dataclasses.replace(placement, offset=(56, 16)), 64, 8
    )
    assert labels.tolist() == [0, 3, 4]
    np.testing.assert_allclose(boxes[2], (44, 44, 46, 54))


def test_flip_mirrors_polygons_and_run_lengths_alike():
    triangle = np.array([(5, 5), (25, 5), (5, 25)], np.float64)
    rle = coco_mask.merge(coco_mask.frPyObjects([triangle.ravel().tolist()], 40, 60))
    placement = Placement((40, 60), (80, 120), True, (0, 0))
    boxes, _, masks = place_objects(example_of([triangle], rle), placement, 128, 28)
    np.testing.assert_allclose(boxes[0], (70, 10, 110, 50))
    np.testing.assert_allclose(boxes[1], boxes[0], atol=2)
    assert not masks[0, -1, 0]  # the right angle is at the top right now
    assert masks[0, 0, -2]
    assert np.mean(masks[0] == masks[1]) > 0.93


@pytest.mark.parametrize(
    ("left_leg_ends", "expected"), [(20, (0, 0, 40, 40)), (-5, (30, 0, 40, 20))]
)
def test_an_arch_around_a_corner_of_the_canvas_does_not_reach_into_it(left_leg_ends, expected):
    # It comes in at the top, and at the left if that leg is long enough; the rest is outside.
    outer = [(left_leg_ends, 40), (-30, 40), (-30, -30), (40, -30), (40, 20)]
    inner = [(30, 20), (30, -20), (-20, -20), (-20, 30), (left_leg_ends, 30)]
    example = example_of([np.array(outer + inner, np.float64)], hw=(100, 100))
    placement = Placement((100, 100), (100, 100), False, (0, 0))
    boxes, _, masks = place_objects(example, placement, 100, 80)
    np.testing.assert_allclose(boxes, [expected])
    covered = np.zeros((100, 100), bool)
    covered[:20, 30:40] = True
    covered[30:40, : max(0, left_leg_ends)] = True
    assert overlap(paste(masks[0], boxes[0], 100, 100), covered) > 0.99


def test_a_line_across_the_border_is_no_part_of_an_object():
    line = np.array([(-5, 30), (25, 30), (-5, 30)], np.float64)
    example = example_of([line, rectangle(10, 10, 20, 20)], [line])
    placement = Placement((40, 60), (40, 60), False, (0, 0))
    boxes, labels, masks = place_objects(example, placement, 60, 8)
    np.testing.assert_allclose(boxes, [(10, 10, 20, 20)])
    assert labels.tolist() == [0]
    assert masks.all()


def test_run_length_boxes_follow_the_visible_part():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 15:30] = True
    out_of_sight = np.zeros((40, 60), bool)
    out_of_sight[:, :5] = True
    nothing = np.zeros((40, 60), bool)
    example = example_of(encode(mask), encode(out_of_sight), encode(nothing))
    placement = Placement((40, 60), (80, 120), False, (40, 10))
    boxes, labels, masks = place_objects(example, placement, 64, 8)
    np.testing.assert_allclose(boxes, [(0, 10, 20, 30)])
    assert labels.tolist() == [0]
    assert (masks == 1).all()


def test_run_length_mask_behind_a_gap_is_seen_only_where_it_is():
    # Its bounding box covers the canvas, its pixels do not.
    mask = np.zeros((40, 40), bool)
    mask[:, [0, 39]] = True
    placement = Placement((40, 40), (160, 160), False, (48, 48))
    boxes, _, masks = place_objects(example_of(encode(mask), hw=(40, 40)), placement, 64, 8)
    assert boxes.shape == (0, 4)
    assert masks.shape == (0, 8, 8)


def test_objects_in_no_polygon_at_all_give_empty_arrays():
    boxes, labels, masks = place_objects(example_of(), fit_placement(40, 60, 32), 32, 14)
    assert (boxes.shape, labels.shape, masks.shape) == ((0, 4), (0,), (0, 14, 14))
    assert (boxes.dtype, labels.dtype, masks.dtype) == (np.float32, np.int32, np.uint8)


def test_polygons_reproduce_stored_detectron2_masks(reference):
    stored = reference("masks.npz")
    height, width = (int(side) for side in stored["image_size"])
    polygons = stored["polygons"].reshape(len(stored["polygons"]), -1, 2)
    bitmaps = np.unpackbits(stored["polygon_bitmasks"], axis=-1)[:, :, :width]
    example = example_of(*([polygon] for polygon in polygons), hw=(height, width))
    placement = Placement((height, width), (height, width), False, (0, 0))
    boxes, labels, masks = place_objects(example, placement, max(height, width), 112)
    assert labels.tolist() == list(range(len(polygons)))
    for box, mask, bitmap in zip(boxes, masks, bitmaps, strict=True):
        assert overlap(paste(mask, box, height, width), bitmap) > 0.95


def test_real_objects_cover_what_they_cover_in_a_full_raster(shared):
    """Polygons and their run-length form, jittered, against the rasterised and resized whole."""
    dataset = CocoDataset(*find_coco(shared / "data" / "coco_train128", "train"))
    rng = np.random.default_rng(0)
    canvas, compared = 320, 0
    for index in range(0, len(dataset), 4):
        example = dataset[index]
        height, width = example.image.shape[:2]
        rles = [
            coco_mask.merge(coco_mask.frPyObjects([p.ravel() for p in mask], height, width))
            for mask in example.masks
        ]
        placement = sample_placement(rng, height, width, canvas, (0.5, 2.0))
        full = {}
        for label, rle in enumerate(rles):
            mask = coco_mask.decode(rle)[:, ::-1] if placement.flip else coco_mask.decode(rle)
            whole = place_image(
                ArrayImage(np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)),
                dataclasses.replace(placement, flip=False),
                canvas,
                0,
            )
            full[label] = whole[:, :, 0] >= 128
        numbered = dataclasses.replace(example, labels=np.arange(len(rles), dtype=np.int32))
        for masks in (example.masks, rles):
            boxes, labels, placed = place_objects(
                dataclasses.replace(numbered, masks=masks), placement, canvas, 112
            )
            assert set(labels) >= {label for label, mask in full.items() if mask.sum() > 50}
            for box, label, mask in zip(boxes, labels, placed, strict=True):
                if full[label].sum() < 400:
                    continue
                compared += 1
                assert overlap(paste(mask, box, canvas, canvas), full[label]) > 0.85
                rows, columns = np.nonzero(full[label])
                extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                np.testing.assert_allclose(box, extent, atol=4)
    assert compared > 100


def paste(mask: np.ndarray, box: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask's pixel nearest to each pixel centre of a height x width image."""
    pasted = np.zeros((height, width), bool)
    size = len(mask)
    rows = (np.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * size
    columns = (np.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * size
    row_inside = (rows >= 0) & (rows < size)
    column_inside = (columns >= 0) & (columns < size)
    pasted[np.ix_(row_inside, column_inside)] = mask[
        np.ix_(rows[row_inside].astype(int), columns[column_inside].astype(int))
    ]
    return pasted


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(bool), other.astype(bool)
    return (one & other).sum() / max(1, (one | other).sum())
