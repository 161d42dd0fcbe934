"""Repeat-factor sampling: Detectron2's factors, and a stream that a position alone decides."""

from __future__ import annotations

import json
import pickle
from itertools import islice

import numpy as np
import pytest

from jaxdet.data.repeats import RepeatedImages, image_counts, repeat_factors
from tests.data.test_loader import SquaresDataset, training


@pytest.fixture(scope="module")
def stored(reference):
    return reference("lvis_losses.npz")


@pytest.fixture(scope="module")
def labels(stored):
    return [np.array(each, np.int32) for each in json.loads(str(stored["repeat_input_json"]))]


@pytest.mark.parametrize("case", range(4))
def test_factors_are_detectron2s(stored, labels, case):
    threshold = float(stored["repeat_thresholds"][case])
    factors = repeat_factors(labels, 16, threshold)
    np.testing.assert_allclose(factors, stored[f"repeat_factors_{case}"], rtol=1e-6)


def test_images_count_once_for_a_class(labels):
    shown = [{*each.tolist()} for each in labels]
    expected = [sum(label in each for each in shown) for label in range(16)]
    np.testing.assert_array_equal(image_counts(labels, 16), expected)
    assert image_counts([np.zeros(0, np.int32)] * 2, 3).tolist() == [0, 0, 0]


def passes(repeated, count, start=0):
    length = repeated.pass_length
    positions = range(start * length, (start + count) * length)
    return np.array([repeated[position] for position in positions]).reshape(count, length)


@pytest.fixture(scope="module")
def factors(labels):
    return repeat_factors(labels, 16, 0.2)


def test_a_pass_has_each_image_as_often_as_its_factor_says(stored, factors):
    counts = np.stack(
        [
            np.bincount(one, minlength=len(factors))
            for one in passes(RepeatedImages(range(len(factors)), factors, 3), 1000)
        ]
    )
    assert (counts >= np.floor(factors)).all()
    assert (counts.sum(1) == np.ceil(factors.sum())).all()
    # A mean of 1000 roundings has a standard deviation of at most .016.
    np.testing.assert_allclose(counts.mean(0), factors, atol=0.07)
    np.testing.assert_allclose(counts.mean(0), stored["epoch_counts_3_mean_of_1000"], atol=0.09)


def test_every_pass_has_another_order(factors):
    first, second = passes(RepeatedImages(range(len(factors)), factors, 3), 2)
    assert (first != second).mean() > 0.9
    other = passes(RepeatedImages(range(len(factors)), factors, 4), 1)[0]
    assert (first != other).mean() > 0.9


def test_a_position_alone_says_which_image_comes(factors):
    repeated = RepeatedImages(range(len(factors)), factors, 3)
    expected = passes(repeated, 7)[5:]
    again = pickle.loads(pickle.dumps(RepeatedImages(range(len(factors)), factors, 3)))
    np.testing.assert_array_equal(passes(again, 2, start=5), expected)


def test_whole_factors_need_no_rounding():
    repeated = RepeatedImages(range(3), np.array([1.0, 3.0, 2.0]), 0)
    assert repeated.pass_length == 6
    for one in passes(repeated, 3):
        assert sorted(one.tolist()) == [0, 1, 1, 1, 2, 2]


class RareDataset(SquaresDataset):
    """Image 1 alone shows the second of two classes."""

    categories = (*SquaresDataset.categories, SquaresDataset.categories[0]._replace(id=4))

    def labels(self, index):
        return np.full(index % 4, index == 1, np.int32)


def image_ids(**changes):
    batches = islice(training(RareDataset(16), repeat_threshold=0.75, **changes), 3)
    return np.stack([batch["image_id"] for batch in batches])


def test_batches_are_the_same_however_they_are_made():
    # 12 of 16 images have objects: the factor of the rare one is sqrt(.75 * 12) = 3.
    whole = image_ids(batch_size=6)
    counts = np.bincount(whole.ravel()[:14] - 100, minlength=16)
    assert counts[1] == 3
    np.testing.assert_array_equal(image_ids(batch_size=6, threads=3), whole)
    later = image_ids(batch_size=6, start_step=2)
    np.testing.assert_array_equal(later[0], whole[2])
    hosts = [image_ids(batch_size=6, process_index=i, process_count=2) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(hosts, 1), whole)
