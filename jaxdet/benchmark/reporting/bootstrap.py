"""How sure a difference between two groups of runs is: intervals by the bootstrap (Efron 1979).

Two things are chance: which images were validated on, and what seed a training had. Images are
drawn for both groups alike, since both saw the same ones: what is hard for both does not blur their
difference. Seeds are drawn in each group apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

LEVEL = 0.95

SEED_DRAWS = 10_000


class Interval(NamedTuple):
    """Where LEVEL of the drawn differences lie."""

    low: float
    high: float


def image_draws(images: int, count: int) -> Int[np.ndarray, "count images"]:
    """How often each image is in each draw of as many images; always the same draws."""
    even = np.full(images, 1 / images)
    return np.random.default_rng(0).multinomial(images, even, size=count)


def over_seeds(
    first: Float[np.ndarray, " runs"], second: Float[np.ndarray, " others"]
) -> Interval | None:
    """Of the mean of `second` less that of `first`; None where either is of one run alone."""
    first, second = (np.repeat(each[:, None], SEED_DRAWS, 1) for each in (first, second))
    return over_images_and_seeds(first, second)


def over_images(
    first: Float[np.ndarray, "runs draws"], second: Float[np.ndarray, "others draws"]
) -> Interval | None:
    """The same of these very trainings: of each one's score on each draw of images."""
    return _interval(second.mean(0) - first.mean(0))


def over_images_and_seeds(
    first: Float[np.ndarray, "runs draws"], second: Float[np.ndarray, "others draws"]
) -> Interval | None:
    """Of both chances together; None where either is of one run alone."""
    if min(len(first), len(second)) < 2:
        return None
    generator = np.random.default_rng(0)
    return _interval(_runs_drawn(second, generator) - _runs_drawn(first, generator))


def over_pairs(
    first: Float[np.ndarray, "runs draws"], second: Float[np.ndarray, "runs draws"]
) -> Interval | None:
    """The same where the i-th runs of both have one seed: pairs are drawn; None for one alone.

    What a seed does to both alike, as its few objects may, does not blur their difference.
    """
    if len(first) < 2:
        return None
    return _interval(_runs_drawn(second - first, np.random.default_rng(0)))


def _runs_drawn(
    scores: Float[np.ndarray, "runs draws"], generator: np.random.Generator
) -> Float[np.ndarray, " draws"]:
    """The mean of as many runs, drawn anew for each draw.

    Means of n drawn values vary by n - 1 nth of what the variance of a sample says, which for few
    seeds is far too little, and is made up for.
    """
    runs, draws = scores.shape
    mean = scores.mean(0)
    drawn = scores[generator.integers(runs, size=(runs, draws)), np.arange(draws)].mean(0)
    return mean + math.sqrt(runs / (runs - 1)) * (drawn - mean)


def _interval(differences: Float[np.ndarray, " draws"]) -> Interval | None:
    known = differences[np.isfinite(differences)]
    if not known.size:
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
