"""Checksums notice what changed, of every size and of checkpoints of the version before."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from jaxdet.training.array_digests import damaged_arrays, digests_of


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2049, 70_000])
def test_every_flipped_bit_is_noticed(count):
    rng = np.random.default_rng(count)
    kernel = rng.normal(size=count).astype(np.float32)
    digests = digests_of({"params": {"kernel": kernel}})
    assert damaged_arrays(digests, {"params": {"kernel": kernel}}) == []
    for position in rng.integers(0, 4 * count, 20) if count else ():
        damaged = kernel.copy()
        damaged.view(np.uint8)[position] ^= 1 << rng.integers(8)
        assert damaged_arrays(digests, {"params": {"kernel": damaged}}) == ["params.kernel"]


def test_blocks_that_changed_places_are_noticed():
    kernel = np.arange(3 * 2048, dtype=np.float32)
    digests = digests_of({"params": {"kernel": kernel}})
    moved = np.roll(kernel, 2048)
    assert damaged_arrays(digests, {"params": {"kernel": moved}}) == ["params.kernel"]


def test_checkpoints_of_the_version_before_are_checked():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    digest = {"dtype": "float32", "shape": [2, 3], "crc32": {"0:2,0:3": zlib.crc32(kernel)}}
    assert damaged_arrays({"params.kernel": digest}, {"params": {"kernel": kernel}}) == []
    changed = {"params": {"kernel": kernel + 1}}
    assert damaged_arrays({"params.kernel": digest}, changed) == ["params.kernel"]
