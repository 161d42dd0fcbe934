"""Intervals of made-up scores whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from jaxdet.benchmark.reporting.bootstrap import (
    image_draws,
    over_images,
    over_images_and_seeds,
    over_pairs,
    over_seeds,
)


def test_draws_are_of_as_many_images_and_always_the_same():
    draws = image_draws(50, 400)
    assert draws.shape == (400, 50)
    assert set(draws.sum(1)) == {50}
    # Each image is Binomial(50, 1/50) times in a draw.
    assert draws.var() == pytest.approx(0.98, rel=0.05)
    np.testing.assert_array_equal(draws, image_draws(50, 400))


def test_two_seeds_against_seeds_that_agree():
    # Both drawn are the lower, or the higher, in a quarter of the draws each.
    interval = over_seeds(np.array([0.3, 0.3]), np.array([0.4, 0.44]))
    assert interval == pytest.approx((0.12 - 0.02 * 2**0.5, 0.12 + 0.02 * 2**0.5))


def test_many_seeds_have_the_normal_interval():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.40, 0.01, 200), rng.normal(0.42, 0.02, 300)
    error = (first.var(ddof=1) / 200 + second.var(ddof=1) / 300) ** 0.5
    difference = second.mean() - first.mean()
    interval = over_seeds(first, second)
    expected = (difference - 1.96 * error, difference + 1.96 * error)
    assert interval == pytest.approx(expected, abs=0.1 * error)


@pytest.mark.parametrize("runs", [(1, 3), (3, 1), (1, 1)])
def test_one_run_says_nothing_of_seeds(runs):
    first, second = (np.full(each, 0.5) for each in runs)
    assert over_seeds(first, second) is None
    assert over_images_and_seeds(first[:, None], second[:, None]) is None
    assert over_images(first[:, None], second[:, None]) == (0, 0)


def test_images_are_drawn_for_both_alike():
    images = np.random.default_rng(2).normal(0.5, 0.2, 100)
    draws = image_draws(100, 4000) / 100
    first = draws @ images
    same_gain = over_images(first[None], (draws @ (images + 0.03))[None])
    assert same_gain == pytest.approx((0.03, 0.03))
    error = images.std() / 10
    alone = over_images(np.zeros((1, 4000)), first[None])
    expected = (images.mean() - 1.96 * error, images.mean() + 1.96 * error)
    assert alone == pytest.approx(expected, abs=0.1 * error)


def test_images_and_seeds_add_their_variances():
    rng = np.random.default_rng(3)
    seeds = rng.normal(0, 0.02, 100)
    images = rng.normal(0, 0.002, 4000)
    second = seeds[:, None] + images
    error = (seeds.var(ddof=1) / 100 + images.var()) ** 0.5
    low, high = over_images_and_seeds(np.zeros((2, 4000)), second)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.07)


def test_what_a_seed_does_to_both_is_not_in_the_difference_of_pairs():
    seeds = np.random.default_rng(4).normal(0.3, 0.1, 5)[:, None] + np.zeros((5, 4000))
    assert over_pairs(seeds, seeds + 0.02) == pytest.approx((0.02, 0.02))
    low, high = over_images_and_seeds(seeds, seeds + 0.02)
    assert low < 0 < high
    assert over_pairs(seeds[:1], seeds[:1]) is None


def test_draws_without_a_score_are_left_out():
    assert over_images(np.zeros((1, 3)), np.array([[0.1, np.nan, 0.1]])) == pytest.approx(
        (0.1, 0.1)
    )
    assert over_images(np.zeros((1, 1)), np.array([[np.nan]])) is None
