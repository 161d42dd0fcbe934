"""Objects on the canvas: boxes and masks of what is visible, against full-size rasters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.dataset import Example
from jaxdet.data.image import ArrayImage
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.training_masks import pasted_mask
from jaxdet.data.transform import Transform, transform_image
from jaxdet.data.transform_objects import Objects, transform_objects


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


def test_polygon_boxes_follow_the_visible_part():
    transform = Transform((40, 60), (80, 120), False, (20, 10))
    example = example_of(
        [rectangle(15, 10, 30, 20)],  # inside
        [rectangle(0, 0, 20, 10)],  # cut at the left and at the top
        [rectangle(0, 0, 9, 30)],  # left of the canvas
        [rectangle(0, 0, 60, 40)],  # around the canvas
        [rectangle(0, 0, 5, 5), rectangle(50, 30, 51, 35)],  # its second part is visible
    )
    objects = transform_objects(example, transform, 64, 14)
    boxes, labels = objects.boxes, objects.labels
    np.testing.assert_allclose(boxes[0], (10, 10, 40, 30))
    np.testing.assert_allclose(boxes[1], (0, 0, 20, 10))
    np.testing.assert_allclose(boxes[2], (0, 0, 64, 64))
    assert labels.tolist() == [0, 1, 3]
    assert objects.outlined.all()
    assert_fill_their_boxes(objects, 64)

    boxes, labels, *_ = transform_objects(
        example, dataclasses.replace(transform, offset=(56, 16)), 64, 8
    )
    assert labels.tolist() == [0, 3, 4]
    np.testing.assert_allclose(boxes[2], (44, 44, 46, 54))


def test_flip_mirrors_polygons_and_run_lengths_alike():
    triangle = np.array([(5, 5), (25, 5), (5, 25)], np.float64)
    rle = coco_mask.merge(coco_mask.frPyObjects([triangle.ravel().tolist()], 40, 60))
    transform = Transform((40, 60), (80, 120), True, (0, 0))
    objects = transform_objects(example_of([triangle], rle), transform, 128, 28)
    np.testing.assert_allclose(objects.boxes[0], (70, 10, 110, 50))
    np.testing.assert_allclose(objects.boxes[1], objects.boxes[0], atol=2)
    assert objects.outlined.tolist() == [True, False]
    outlined, covered = shown(objects, 80, 120)
    assert not outlined[48, 72]  # the right angle is at the top right now
    assert outlined[12, 108]
    assert overlap(outlined, covered) > 0.93


@pytest.mark.parametrize(
    ("left_leg_ends", "expected"), [(20, (0, 0, 40, 40)), (-5, (30, 0, 40, 20))]
)
def test_an_arch_around_a_corner_of_the_canvas_does_not_reach_into_it(left_leg_ends, expected):
    # It comes in at the top, and at the left if that leg is long enough; the rest is outside.
    outer = [(left_leg_ends, 40), (-30, 40), (-30, -30), (40, -30), (40, 20)]
    inner = [(30, 20), (30, -20), (-20, -20), (-20, 30), (left_leg_ends, 30)]
    example = example_of([np.array(outer + inner, np.float64)], hw=(100, 100))
    transform = Transform((100, 100), (100, 100), False, (0, 0))
    objects = transform_objects(example, transform, 100, 80)
    np.testing.assert_allclose(objects.boxes, [expected])
    covered = np.zeros((100, 100), bool)
    covered[:20, 30:40] = True
    covered[30:40, : max(0, left_leg_ends)] = True
    assert overlap(shown(objects, 100, 100)[0], covered) > 0.99


def test_a_line_across_the_border_is_no_part_of_an_object():
    line = np.array([(-5, 30), (25, 30), (-5, 30)], np.float64)
    example = example_of([line, rectangle(10, 10, 20, 20)], [line])
    transform = Transform((40, 60), (40, 60), False, (0, 0))
    objects = transform_objects(example, transform, 60, 14)
    np.testing.assert_allclose(objects.boxes, [(10, 10, 20, 20)])
    assert objects.labels.tolist() == [0]
    assert_fill_their_boxes(objects, 60)


def test_run_length_boxes_follow_the_visible_part():
    mask = np.zeros((40, 60), bool)
    mask[10:20, 15:30] = True
    out_of_sight = np.zeros((40, 60), bool)
    out_of_sight[:, :5] = True
    nothing = np.zeros((40, 60), bool)
    example = example_of(encode(mask), encode(out_of_sight), encode(nothing))
    transform = Transform((40, 60), (80, 120), False, (40, 10))
    objects = transform_objects(example, transform, 64, 8)
    np.testing.assert_allclose(objects.boxes, [(0, 10, 20, 30)])
    assert objects.labels.tolist() == [0]
    assert not objects.outlined.any()
    assert_fill_their_boxes(objects, 64)


def test_run_length_mask_behind_a_gap_is_seen_only_where_it_is():
    # Its bounding box covers the canvas, its pixels do not.
    mask = np.zeros((40, 40), bool)
    mask[:, [0, 39]] = True
    transform = Transform((40, 40), (160, 160), False, (48, 48))
    objects = transform_objects(example_of(encode(mask), hw=(40, 40)), transform, 64, 8)
    assert objects.boxes.shape == (0, 4)
    assert objects.masks.shape == (0, 8, 8)


@pytest.mark.parametrize("flip", [False, True])
def test_run_length_masks_have_the_pixels_of_the_resized_raster(flip):
    """As in Detectron2: each pixel of the canvas has the value at its centre."""
    mask = np.random.default_rng(0).random((40, 60)) < 0.5
    transform = Transform((40, 60), (58, 87), flip, (30, 11))
    objects = transform_objects(example_of(encode(mask)), transform, 48, 64)
    resized = Image.fromarray(mask[:, ::-1] if flip else mask).resize((87, 58), Image.NEAREST)
    np.testing.assert_array_equal(shown(objects, 48, 48)[0][:47], np.array(resized)[11:, 30:78])


def test_a_run_length_mask_between_the_centres_of_pixels_fills_its_box():
    mask = np.zeros((40, 60), bool)
    mask[20, 31] = True
    transform = Transform((40, 60), (4, 6), False, (0, 0))
    objects = transform_objects(example_of(encode(mask)), transform, 8, 8)
    assert shown(objects, 8, 8)[0].sum() == 1


def test_outlines_of_too_many_points_become_coverage():
    angles = np.linspace(0, 2 * np.pi, 600, endpoint=False)
    disc = 20 + 15 * np.stack([np.cos(angles), np.sin(angles)], 1)
    transform = Transform((40, 60), (160, 240), False, (0, 0))
    example = example_of([disc], [disc[::2]])
    objects = transform_objects(example, transform, 240, 112)
    assert objects.outlined.tolist() == [False, True]
    assert overlap(*shown(objects, 160, 240)) > 0.98


def test_objects_in_no_polygon_at_all_give_empty_arrays():
    objects = transform_objects(example_of(), LargeScaleJitter(32).fit(40, 60), 32, 14)
    assert [values.shape for values in objects] == [(0, 4), (0,), (0, 14, 14), (0,)]
    assert [values.dtype for values in objects] == [np.float32, np.int32, np.uint8, bool]


def test_polygons_reproduce_stored_detectron2_masks(reference):
    stored = reference("masks.npz")
    height, width = (int(side) for side in stored["image_size"])
    polygons = stored["polygons"].reshape(len(stored["polygons"]), -1, 2)
    bitmaps = np.unpackbits(stored["polygon_bitmasks"], axis=-1)[:, :, :width]
    example = example_of(*([polygon] for polygon in polygons), hw=(height, width))
    transform = Transform((height, width), (height, width), False, (0, 0))
    objects = transform_objects(example, transform, max(height, width), 112)
    assert objects.labels.tolist() == list(range(len(polygons)))
    for mask, bitmap in zip(shown(objects, height, width), bitmaps, strict=True):
        np.testing.assert_array_equal(mask, bitmap)


def test_real_objects_cover_what_they_cover_in_a_full_raster(shared):
    """Polygons and their run-length form, jittered, against the rasterised and resized whole."""
    dataset = CocoDataset(*find_coco(shared / "data" / "coco_train128", "train"))
    rng = np.random.default_rng(0)
    image_size, compared = 320, 0
    for index in range(0, len(dataset), 4):
        example = dataset[index]
        height, width = example.image.shape[:2]
        rles = [
            coco_mask.merge(coco_mask.frPyObjects([p.ravel() for p in mask], height, width))
            for mask in example.masks
        ]
        transform = LargeScaleJitter(image_size, (0.5, 2.0)).sample(rng, height, width)
        full = {}
        for label, rle in enumerate(rles):
            mask = coco_mask.decode(rle)[:, ::-1] if transform.flip else coco_mask.decode(rle)
            whole = transform_image(
                ArrayImage(np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)),
                dataclasses.replace(transform, flip=False),
                image_size,
                0,
            )
            full[label] = whole[:, :, 0] >= 128
        numbered = dataclasses.replace(example, labels=np.arange(len(rles), dtype=np.int32))
        for masks in (example.masks, rles):
            objects = transform_objects(
                dataclasses.replace(numbered, masks=masks), transform, image_size, 112
            )
            labels, pasted = objects.labels, shown(objects, image_size, image_size)
            assert set(labels) >= {label for label, mask in full.items() if mask.sum() > 50}
            for box, label, mask in zip(objects.boxes, labels, pasted, strict=True):
                if full[label].sum() < 400:
                    continue
                compared += 1
                assert overlap(mask, full[label]) > 0.9
                rows, columns = np.nonzero(full[label])
                extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                np.testing.assert_allclose(box, extent, atol=4)
    assert compared > 100


def shown(objects: Objects, height: int, width: int) -> list[np.ndarray]:
    return [
        pasted_mask(mask, outlined, box, (height, width))
        for box, _, mask, outlined in zip(*objects, strict=True)
    ]


def assert_fill_their_boxes(objects: Objects, image_size: int) -> None:
    for mask, box in zip(shown(objects, image_size, image_size), objects.boxes, strict=True):
        x1, y1, x2, y2 = box.astype(int)
        assert mask[y1:y2, x1:x2].all()
        assert mask.sum() == (y2 - y1) * (x2 - x1)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(bool), other.astype(bool)
    return (one & other).sum() / max(1, (one | other).sum())
