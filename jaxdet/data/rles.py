"""`jaxdet.data.rle.compressed_rle` of the many masks of a result file, several times as fast.

Compressed codes are checked side by side, by operations on all their characters at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxdet.data.dataset import RLE
from jaxdet.data.rle import compressed_rle

_MOST_DIGITS = 7  # of a number of 32 bits
_CODES_AT_ONCE = 512


def compressed_rles(masks: Iterable[tuple[Any, int, int]]) -> list[RLE | None]:
    """`compressed_rle` of each mask and its image's height and width."""
    codes: list[RLE | None] = []
    unchecked = []
    for number, (segmentation, height, width) in enumerate(masks):
        counts = _counts_of(segmentation, height, width)
        if counts is None:
            codes.append(compressed_rle(segmentation, height, width))
        else:
            codes.append({"size": [height, width], "counts": counts})
            unchecked.append((number, counts, height * width))
    for first in range(0, len(unchecked), _CODES_AT_ONCE):
        numbers, counts, pixels = zip(*unchecked[first : first + _CODES_AT_ONCE], strict=True)
        for place in np.flatnonzero(~_are_whole(counts, np.array(pixels))):
            codes[numbers[place]] = None
    return codes


def _counts_of(segmentation: Any, height: int, width: int) -> bytes | None:
    """The compressed code of a mask of this size; None for any other kind of mask."""
    if not isinstance(segmentation, dict):
        return None
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return None
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "replace")
    return counts if isinstance(counts, bytes) else None


def _are_whole(codes: Sequence[bytes], pixels: np.ndarray) -> np.ndarray:
    """Which compressed codes are well formed, with runs that add up to their numbers of pixels; how
    they are written is in `jaxdet.data.rle`."""
    lengths = np.array([len(code) for code in codes])
    characters = np.frombuffer(b"".join(codes), np.uint8).astype(np.int64) - ord("0")
    owner = np.repeat(np.arange(len(codes)), lengths)
    is_good = lengths > 0
    is_good[owner[(characters < 0) | (characters >= 64)]] = False
    # A good code's last character ends a number: else those of the next code would join it.
    last = np.cumsum(lengths)[is_good] - 1
    is_good[is_good] = characters[last] < 32
    is_kept = is_good[owner]
    characters, owner = characters[is_kept], owner[is_kept]
    if not characters.size:
        return is_good
    ends = np.flatnonzero(characters < 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    is_good[owner[ends[digits > _MOST_DIGITS]]] = False
    place = np.arange(characters.size) - np.repeat(starts, digits)
    runs = np.add.reduceat((characters & 31) << (5 * np.minimum(place, _MOST_DIGITS)), starts)
    runs -= (characters[ends] >> 4) << (5 * np.minimum(digits, _MOST_DIGITS))
    owner = owner[ends]
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    rank = np.arange(len(runs)) - np.repeat(firsts, np.diff(firsts, append=len(runs)))
    for chain in ((rank % 2 == 1), (rank % 2 == 0) & (rank > 0)):
        runs[chain] = _sums_within(runs[chain], owner[chain])
    kept = owner[firsts]
    is_good[kept] &= np.minimum.reduceat(runs, firsts) >= 0
    is_good[kept] &= np.maximum.reduceat(runs, firsts) <= pixels[kept]
    is_good[kept] &= np.add.reduceat(runs, firsts) == pixels[kept]
    return is_good


def _sums_within(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Cumulative sums that start anew at each owner."""
    sums = values.cumsum()
    firsts = np.flatnonzero(np.diff(owner, prepend=-1))
    before = sums[firsts] - values[firsts]
    return sums - np.repeat(before, np.diff(firsts, append=len(values)))
