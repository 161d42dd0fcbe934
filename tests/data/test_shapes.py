"""The built-in shapes: deterministic, correctly annotated, cheap to evaluate."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxdet.data.shapes import MIN_VISIBLE_PIXELS, ShapesDataset
from jaxdet.errors import UserError

NUM_IMAGES = 60


@pytest.fixture(scope="module")
def dataset() -> ShapesDataset:
    return ShapesDataset("train", NUM_IMAGES)


def assert_same(a, b):
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.labels, b.labels)
    assert a.masks == b.masks


def test_an_index_always_gives_the_same_example(dataset):
    again = pickle.loads(pickle.dumps(dataset))
    for index in (NUM_IMAGES - 1, 0, 17):
        assert_same(dataset[index], again[index])
    assert_same(dataset[-1], dataset[NUM_IMAGES - 1])


def test_the_number_of_images_does_not_change_them(dataset):
    assert_same(dataset[3], ShapesDataset("train", 4)[3])


def test_splits_seeds_and_indices_differ(dataset):
    others = [ShapesDataset("val", 1)[0], ShapesDataset("train", 1, seed=1)[0], dataset[1]]
    for other in others:
        assert not np.array_equal(dataset[0].image, other.image)


@pytest.mark.parametrize("image_size", [64, 128, 200])
def test_examples_keep_the_data_contract(image_size):
    dataset = ShapesDataset("val", 25, image_size=image_size)
    for index in range(len(dataset)):
        example = dataset[index]
        height, width, channels = example.image.shape
        assert channels == 3
        assert example.image.dtype == np.uint8
        assert round(0.75 * image_size) <= min(height, width)
        assert max(height, width) <= image_size
        assert example.image_id == dataset.image_ids[index]
        assert dataset.has_objects(index)
        assert 1 <= len(example.labels) <= 5
        assert example.labels.dtype == np.int32
        assert set(example.labels.tolist()) <= {0, 1, 2, 3}
        assert example.boxes.shape == (len(example.labels), 4)
        assert example.boxes.dtype == np.float32
        assert len(example.masks) == len(example.labels)
        assert all(rle["size"] == [height, width] for rle in example.masks)


def test_boxes_are_tight_around_visible_masks_that_do_not_overlap(dataset):
    for index in range(NUM_IMAGES):
        example = dataset[index]
        masks = mask_api.decode(list(example.masks))
        assert masks.sum(axis=2).max() == 1
        assert masks.sum(axis=(0, 1)).min() >= MIN_VISIBLE_PIXELS
        for box, mask in zip(example.boxes, masks.transpose(2, 0, 1), strict=True):
            rows, columns = np.nonzero(mask)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(box, expected)


def test_masks_lie_on_the_rendered_objects(dataset):
    """Across a mask's border the colour changes; inside the mask it varies little."""
    for index in range(20):
        example = dataset[index]
        image = example.image.astype(float)
        for rle in example.masks:
            inside = mask_api.decode(rle).astype(bool)
            core = inside.copy()
            for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
                core &= np.roll(inside, step, axis)
            colour = np.median(image[core], axis=0)
            distance = np.linalg.norm(image - colour, axis=2)
            assert np.mean(distance[core] < 80) > 0.95
            assert np.mean(distance[core]) < np.mean(distance[~inside])


def test_objects_occlude_each_other_and_come_in_every_class_and_size(dataset):
    examples = [dataset[index] for index in range(NUM_IMAGES)]
    labels = np.concatenate([example.labels for example in examples])
    boxes = np.concatenate([example.boxes for example in examples])
    assert np.bincount(labels, minlength=4).min() > 0.15 * len(labels)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert sides.min() < 20
    assert 55 < sides.max() <= 0.55 * 128 + 2
    pairs = sum(
        np.count_nonzero(np.triu(mask_api.iou(xywh, xywh, np.zeros(len(xywh), np.uint8)), k=1))
        for xywh in (
            np.c_[example.boxes[:, :2], example.boxes[:, 2:] - example.boxes[:, :2]].astype(float)
            for example in examples
        )
    )
    assert pairs > NUM_IMAGES


def test_ground_truth_agrees_with_the_examples(dataset):
    ground_truth = dataset.ground_truth()
    assert dataset.ground_truth() is ground_truth
    assert json.loads(json.dumps(ground_truth)) == ground_truth
    assert [category["id"] for category in ground_truth["categories"]] == [1, 2, 3, 4]
    assert len({annotation["id"] for annotation in ground_truth["annotations"]}) == len(
        ground_truth["annotations"]
    )
    for index, image in enumerate(ground_truth["images"]):
        example = dataset[index]
        assert image["id"] == example.image_id
        assert (image["height"], image["width"]) == example.image.shape[:2]
        annotations = [a for a in ground_truth["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] - 1 for a in annotations] == example.labels.tolist()
        for annotation, box, rle in zip(annotations, example.boxes, example.masks, strict=True):
            x1, y1, x2, y2 = box.tolist()
            assert annotation["bbox"] == [x1, y1, x2 - x1, y2 - y1]
            assert annotation["segmentation"]["counts"].encode() == rle["counts"]
            assert annotation["area"] == mask_api.area(rle)
            assert annotation["iscrowd"] == 0


def test_an_index_past_the_end_is_rejected(dataset):
    with pytest.raises(IndexError):
        dataset[NUM_IMAGES]


@pytest.mark.parametrize(
    "arguments",
    [("test", 1), ("train", 0), ("train", 1, 32), ("train", 1, 128, -1)],
)
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(UserError, match="shapes: "):
        ShapesDataset(*arguments)
