"""Batches: shapes, determinism, splitting over hosts, resuming, errors out of threads."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
from typing import Any

import numpy as np
import pytest

from jaxdet.data import loader
from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.dataset import Category, Example
from jaxdet.data.image import ArrayImage
from jaxdet.data.loader import LoaderSettings
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.training_masks import pasted_mask
from jaxdet.errors import UserError

IMAGE_SIZE, MAX_INSTANCES, MASK_SIZE = 48, 4, 14


class SquaresDataset:
    """Grey images whose brightness is their index, with index % 4 squares as objects."""

    categories = (Category(3, "square"),)

    def __init__(self, size: int = 10, broken: int | None = None):
        self.image_ids = [100 + index for index in range(size)]
        self.broken = broken

    def __len__(self) -> int:
        return len(self.image_ids)

    def doubts(self):
        return ()

    def is_background(self, index: int) -> bool:
        return not self.has_objects(index)

    def has_objects(self, index: int) -> bool:
        return index % 4 > 0

    def __getitem__(self, index: int) -> Example:
        if index == self.broken:
            raise UserError(f"image {index} cannot be read; replace it")
        corners = 10.0 * np.arange(index % 4)
        squares = [np.array([(c, c), (c + 8, c), (c + 8, c + 8), (c, c + 8)]) for c in corners]
        return Example(
            lazy_image=ArrayImage(np.full((30 + index, 40, 3), index, np.uint8)),
            image_id=self.image_ids[index],
            boxes=np.stack([corners, corners, corners + 8, corners + 8], 1).astype(np.float32),
            labels=np.zeros(len(corners), np.int32),
            masks=[[square] for square in squares],
        )

    def ground_truth(self) -> dict[str, Any]:
        raise NotImplementedError


def training(dataset=None, **changes):
    """Batches of four by a seed of 7; any field of the settings can be changed."""
    return loader.train_batches(
        dataset or SquaresDataset(),
        fields(LargeScaleJitter, {"image_size": IMAGE_SIZE}, changes),
        fields(LoaderSettings, {"batch_size": 4, "threads": 0}, changes),
        **{"max_instances": MAX_INSTANCES, "mask_size": MASK_SIZE, "seed": 7} | changes,
    )


def fields(settings, defaults, changes):
    """A settings object with those changes that concern it, which are taken out."""
    own = {field.name for field in dataclasses.fields(settings)} & changes.keys()
    return settings(**defaults | {name: changes.pop(name) for name in own})


def evaluation(dataset, threads=0, **settings):
    settings = LoaderSettings(settings.pop("batch_size", 4), threads, **settings)
    return loader.eval_batches(dataset, LargeScaleJitter(IMAGE_SIZE), settings)


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_training_batch_has_the_promised_arrays():
    (batch,) = take(training(), 1)
    expected = {
        "image": (np.uint8, (4, IMAGE_SIZE, IMAGE_SIZE, 3)),
        "image_hw": (np.int32, (4, 2)),
        "boxes": (np.float32, (4, MAX_INSTANCES, 4)),
        "labels": (np.int32, (4, MAX_INSTANCES)),
        "masks": (np.uint8, (4, MAX_INSTANCES, MASK_SIZE, MASK_SIZE)),
        "outlined": (np.bool_, (4, MAX_INSTANCES)),
        "valid": (np.bool_, (4, MAX_INSTANCES)),
        "image_id": (np.int64, (4,)),
    }
    assert {name: (array.dtype, array.shape) for name, array in batch.items()} == expected
    assert (batch["image_hw"] == IMAGE_SIZE).all()
    assert not batch["boxes"][~batch["valid"]].any()
    assert not batch["masks"][~batch["valid"]].any()
    sides = batch["boxes"][batch["valid"]][:, 2:] - batch["boxes"][batch["valid"]][:, :2]
    assert (sides > 0).all()


def test_unscaled_batch_holds_the_objects_where_the_image_has_them():
    dataset = SquaresDataset(2)
    (batch,) = take(
        training(dataset, batch_size=1, image_size=40, scale_range=(1, 1), flip=False), 1
    )
    np.testing.assert_array_equal(batch["boxes"][0, 0], [0, 0, 8, 8])
    assert batch["valid"].tolist() == [[True, False, False, False]]
    assert batch["outlined"].tolist() == batch["valid"].tolist()
    pasted = pasted_mask(batch["masks"][0, 0], True, batch["boxes"][0, 0], (40, 40))
    np.testing.assert_array_equal(np.argwhere(pasted), np.argwhere(np.ones((8, 8))))
    assert (batch["image"][0, :31] == 1).all()
    assert (batch["image"][0, 31:] == loader.TRAINING_PAD).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads):
    assert_same(take(training(), 5), take(training(threads=threads), 5))


def test_resuming_equals_skipping():
    assert_same(take(training(), 7)[4:], take(training(start_step=4, threads=2), 3))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_split_the_same_batches(hosts):
    shares = [
        take(training(start_step=2, process_index=host, process_count=hosts), 4)
        for host in range(hosts)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(take(training(start_step=2), 4), joined)


def test_seed_changes_order_and_jitter():
    one, other = (take(training(seed=seed), 3) for seed in (1, 2))
    assert any((a["image"] != b["image"]).any() for a, b in zip(one, other, strict=True))


def test_every_epoch_gives_each_image_with_objects_once_in_a_new_order():
    dataset = SquaresDataset(9)  # 6 of them with objects: 1, 2, 3, 5, 6, 7
    batches = take(
        training(dataset, batch_size=6, image_size=64, scale_range=(1, 1), flip=False), 6
    )
    orders = [batch["image"][:, 0, 0, 0].tolist() for batch in batches]
    assert all(sorted(order) == [1, 2, 3, 5, 6, 7] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert loader.trained_images(dataset) == 6


def test_jitter_differs_between_epochs():
    batches = take(training(SquaresDataset(2), batch_size=1), 8)
    assert len({batch["boxes"].tobytes() for batch in batches}) > 4


def test_more_than_max_instances_keeps_a_random_choice():
    dataset = SquaresDataset(4)
    batches = take(
        training(
            dataset, batch_size=3, image_size=40, max_instances=1, scale_range=(1, 1), flip=False
        ),
        12,
    )
    kept = {
        box[0, 0]
        for batch in batches
        for box, pixel in zip(batch["boxes"], batch["image"][:, 0, 0, 0], strict=True)
        if pixel == 3
    }
    assert all(batch["valid"].all() for batch in batches)
    assert kept == {0, 10, 20}


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_gives_each_image_once_and_marks_padding(threads):
    dataset = SquaresDataset(10)
    batches = list(evaluation(dataset, threads))
    assert len(batches) == 3
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert whole["image"].dtype == np.uint8
    assert whole["image"].shape == (12, IMAGE_SIZE, IMAGE_SIZE, 3)
    assert whole["image_id"].dtype == np.int64
    assert whole["is_real"].tolist() == [True] * 10 + [False] * 2
    assert whole["image_id"].tolist() == [*dataset.image_ids, -1, -1]
    heights = np.arange(30, 40)
    np.testing.assert_array_equal(whole["original_hw"][:10], [(h, 40) for h in heights])
    np.testing.assert_array_equal(
        whole["image_hw"][:10], [(int(h * IMAGE_SIZE / 40 + 0.5), IMAGE_SIZE) for h in heights]
    )
    for index, (image, (height, _)) in enumerate(
        zip(whole["image"][:10], whole["image_hw"], strict=False)
    ):
        assert (image[:height] == index).all()
        assert (image[height:] == loader.EVALUATION_PAD).all()


def test_evaluation_is_split_over_hosts():
    dataset = SquaresDataset(9)
    whole = list(evaluation(dataset))
    shares = [list(evaluation(dataset, process_index=host, process_count=2)) for host in range(2)]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(whole, joined)


@pytest.mark.parametrize("threads", [0, 2])
def test_user_error_of_the_dataset_comes_through_as_it_is(threads):
    dataset = SquaresDataset(10, broken=2)
    for batches in (
        training(dataset, threads=threads),
        evaluation(dataset, threads),
    ):
        with pytest.raises(UserError) as caught:
            take(batches, 3)
        assert str(caught.value) == "image 2 cannot be read; replace it"


def test_no_image_with_objects_is_a_user_error():
    with pytest.raises(UserError, match="no image"):
        training(SquaresDataset(1))


@pytest.mark.parametrize(("batch_size", "hosts"), [(0, 1), (-4, 1), (6, 4)])
def test_batch_that_cannot_be_split_evenly_is_a_user_error(batch_size, hosts):
    with pytest.raises(UserError, match=f"batch size {batch_size} must be a positive multiple"):
        LoaderSettings(batch_size, process_count=hosts)


def test_real_images_give_the_same_batches_with_threads_and_after_pickling(shared):
    dataset = CocoDataset(*find_coco(shared / "data" / "coco_train128", "train"))
    settings = {"image_size": 160, "max_instances": 30, "mask_size": 28}
    plain = take(training(dataset, **settings), 3)
    assert_same(plain, take(training(dataset, threads=2, **settings), 3))
    assert_same(plain, take(training(pickle.loads(pickle.dumps(dataset)), **settings), 3))
    outlined = np.concatenate([batch["outlined"][batch["valid"]] for batch in plain])
    assert outlined.mean() > 0.9  # few have too many points for masks of 28 x 28 bytes
    for batch in plain:
        boxes = batch["boxes"][batch["valid"]]
        assert len(boxes)
        assert (boxes[:, :2] < boxes[:, 2:]).all()
        assert boxes.min() >= 0
        assert boxes.max() <= 160
        assert batch["labels"].max() < len(dataset.categories)


def test_transforms_can_be_pickled_for_worker_processes():
    jitter = LargeScaleJitter(IMAGE_SIZE)
    transform = loader._TrainingExample(jitter, MAX_INSTANCES, MASK_SIZE)
    assert pickle.loads(pickle.dumps(transform)) == transform
    pickle.loads(pickle.dumps(loader._EvaluationExample(SquaresDataset(), jitter, [])))


def test_fitted_batches_are_every_image_with_objects_as_evaluation_has_it():
    dataset = SquaresDataset()
    settings = LoaderSettings(4, threads=1)
    augmentation = LargeScaleJitter(IMAGE_SIZE)
    batches = list(
        loader.fitted_batches(dataset, augmentation, settings, max_instances=2, mask_size=MASK_SIZE)
    )
    shown = [101, 102, 103, 105, 106, 107, 109]
    assert np.concatenate([batch["image_id"] for batch in batches]).tolist() == [*shown, 101]
    assert np.concatenate([batch["is_real"] for batch in batches]).tolist() == [*[True] * 7, False]
    first = batches[0]
    height, width = first["image"][0].shape[:2]
    assert height == width == IMAGE_SIZE
    scale = IMAGE_SIZE / 40
    np.testing.assert_allclose(
        first["boxes"][0, 0], [0, 0, 8 * scale, 8 * 37 / 31], rtol=1e-6
    )  # of 31 x 40 pixels
    assert first["valid"].sum(1).tolist() == [1, 2, 2, 1]  # of three objects two are kept
    again = next(
        loader.fitted_batches(dataset, augmentation, settings, max_instances=2, mask_size=MASK_SIZE)
    )
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)
