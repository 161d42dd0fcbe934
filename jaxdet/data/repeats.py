"""Repeat-factor sampling: images of rare categories are trained on more often.

As LVIS's baselines do (Gupta et al., arXiv 1908.03195, appendix B.2).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from jaxdet.data.dataset import Example

_ENDLESS = 2**48


def image_counts(
    labels: Sequence[Int[np.ndarray, " objects"]], num_classes: int
) -> Int[np.ndarray, " classes"]:
    """How many images show each class, by the labels of each image's objects."""
    return np.bincount(_pairs(labels, num_classes)[1], minlength=num_classes)


def repeat_factors(
    labels: Sequence[Int[np.ndarray, " objects"]], num_classes: int, threshold: float
) -> Float[np.ndarray, " images"]:
    """How often each image comes in a pass over all, on average; at least once.

    Args:
        labels: of each image's objects.
        threshold: a class that a share f of the images shows has the factor
            sqrt(threshold / f), or 1 if that is larger; an image has the largest of its classes'.
    """
    images, classes = _pairs(labels, num_classes)
    shares = np.bincount(classes, minlength=num_classes) / len(labels)
    of_class = np.sqrt(threshold / np.maximum(shares, 1 / len(labels)))
    factors = np.ones(len(labels))
    np.maximum.at(factors, images, of_class[classes])
    return factors


def _pairs(
    labels: Sequence[Int[np.ndarray, " objects"]], num_classes: int
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Image and class of each pair of which an image shows a class."""
    images = np.repeat(np.arange(len(labels)), [len(each) for each in labels])
    flat = np.concatenate([np.zeros(0, np.int64), *labels]).astype(np.int64)
    return np.divmod(np.unique(images * num_classes + flat), num_classes)


@dataclass(frozen=True, eq=False)
class RepeatedImages:
    """An endless stream of images in passes, each in a new order; a source for grain.

    Position p alone says which image comes there: a run resumes anywhere, on any number of workers.

    Args:
        images: all there are.
        factors: see `repeat_factors`. In a pass an image comes as often as its factor, rounded at
            random so that the mean over passes is the factor. So that all passes are of one length,
            one pass in some has one image more, any of them.
        seed: of orders and rounding.
    """

    images: Sequence[Example]
    factors: Float[np.ndarray, " images"]
    seed: int

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, position: int) -> Example:
        number, place = divmod(position, self.pass_length)
        return self.images[int(_order(self, number)[place])]

    @cached_property
    def pass_length(self) -> int:
        """How many images a pass has."""
        whole, share = self._parts
        return int(whole.sum()) + math.ceil(share.sum())

    @cached_property
    def _parts(self) -> tuple[Int[np.ndarray, " images"], Float[np.ndarray, " images"]]:
        """How often each image comes for certain, and the chance of once more."""
        whole = np.floor(self.factors)
        return whole.astype(np.int64), self.factors - whole


@functools.lru_cache(maxsize=4)
def _order(repeated: RepeatedImages, number: int) -> Int[np.ndarray, " length"]:
    """The images of a pass by their position.

    Systematic sampling (Madow, 1949): of chances laid end to end in random order, those are drawn
    that whole steps from a random start fall into. Their number is fixed but for one.
    """
    rng = np.random.default_rng((repeated.seed, number))
    count = len(repeated.images)
    whole, share = repeated._parts
    line = rng.permutation(count)
    is_drawn = np.diff(np.floor(np.cumsum(share[line]) + rng.random()), prepend=0) > 0
    any_of_them = rng.integers(count, size=2)  # two, should a sum have rounded down
    images = np.concatenate([np.repeat(np.arange(count), whole), line[is_drawn], any_of_them])
    return rng.permutation(images[: repeated.pass_length])
