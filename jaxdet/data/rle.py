"""Masks from annotation and result files as run-length codes that pycocotools can be trusted with.

pycocotools believes what it is given: it loops for hours over runs that do not add up to the image
and takes all memory for a polygon with a corner at infinity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as mask_api

from jaxdet.data.dataset import RLE

_CHARACTERS_AT_ONCE = 2**20
_MAX_DIGITS = 7  # of a number of 32 bits
_MAX_OVERHANG = 8  # how many image sides a polygon may reach beyond the image


def compressed_rle(segmentation: Any, height: int, width: int) -> RLE | None:
    """One object's mask in any of COCO's layouts, as compressed run-length code.

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...], or a run-length code with "size" and
            "counts", those as list, text or bytes. It may be anything: it comes from a file.
        height, width: the size of the image in pixels.

    Returns:
        The code, or None where `segmentation` is no mask of such an image: wrong size, runs that
        do not add up to it, no polygon with three points, a coordinate that is not finite.
        Of several polygons the usable ones make the mask.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, height, width)
    if not isinstance(segmentation, list):
        return None
    polygons = [polygon for polygon in segmentation if _is_polygon(polygon, max(height, width))]
    if not polygons:
        return None
    return mask_api.merge(mask_api.frPyObjects(polygons, height, width))


def compressed_rles(
    segmentations: Sequence[Any], sizes: Sequence[tuple[int, int]]
) -> list[RLE | None]:
    """`compressed_rle` of many masks, several times as fast: their codes are checked together.

    Args:
        sizes: height and width of each one's image.
    """
    counts = [_text(*each) for each in zip(segmentations, sizes, strict=True)]
    coded = [position for position, text in enumerate(counts) if text is not None]
    pixels = np.array([sizes[position][0] * sizes[position][1] for position in coded], np.int64)
    sound = np.zeros(len(counts), bool)
    for part in _parts([len(counts[position]) for position in coded]):
        codes = [counts[position] for position in coded[part]]
        sound[coded[part]] = _are_sound(codes, pixels[part])
    codes = []
    for position, (segmentation, size) in enumerate(zip(segmentations, sizes, strict=True)):
        if counts[position] is None:
            codes.append(compressed_rle(segmentation, *size))
        else:
            code = {"size": [*size], "counts": counts[position]}
            codes.append(code if sound[position] else None)
    return codes


def _from_runs(code: dict[str, Any], height: int, width: int) -> RLE | None:
    text = _text(code, (height, width))
    if text is not None:
        is_sound = _are_sound([text], np.array([height * width]))[0]
        return {"size": [height, width], "counts": text} if is_sound else None
    counts = code.get("counts")
    if not isinstance(counts, list) or not _is_of_size(code, (height, width)):
        return None
    if not all(type(run) is int and 0 <= run <= height * width for run in counts):
        return None
    if sum(counts) != height * width:
        return None
    return mask_api.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def _is_of_size(code: dict[str, Any], size: tuple[int, int]) -> bool:
    given = code.get("size")
    return isinstance(given, list | tuple) and tuple(given) == size


def _text(segmentation: Any, size: tuple[int, int]) -> bytes | None:
    """The text of a compressed code of the image's size, sound or not; None where it has none."""
    if not isinstance(segmentation, dict) or not _is_of_size(segmentation, size):
        return None
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "replace")
    return counts if isinstance(counts, bytes) and counts else None


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Slices of as many texts as may be looked at together."""
    start = characters = 0
    for position, length in enumerate(lengths):
        if characters + length > _CHARACTERS_AT_ONCE and position > start:
            yield slice(start, position)
            start, characters = position, 0
        characters += length
    if start < len(lengths):
        yield slice(start, len(lengths))


def _are_sound(
    codes: Sequence[bytes], pixels: Int[np.ndarray, " codes"]
) -> Bool[np.ndarray, " codes"]:
    """Whether compressed codes are well formed, and their runs add up to their images' pixels.

    A number is written in base 32, lowest digit first, one character (from "0" on) a digit; bit 5
    says that more digits follow, and bit 4 of the last digit is the sign. From the fourth run on it
    is the difference to the run two before.

    Args:
        codes: none of them empty.
    """
    bounds = np.cumsum([0, *map(len, codes)])
    characters = np.frombuffer(b"".join(codes), np.uint8) - np.uint8(ord("0"))
    sound = np.maximum.reduceat(characters, bounds[:-1]) < 64
    is_last = characters < 32
    sound &= is_last[bounds[1:] - 1]
    is_last[bounds[1:] - 1] = True  # no number goes on in the next code, not even an endless one
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    code = np.repeat(np.arange(len(codes)), np.add.reduceat(is_last, bounds[:-1], dtype=np.int64))
    sound[code[lengths > _MAX_DIGITS]] = False
    place = np.minimum(np.arange(len(characters)) - np.repeat(starts, lengths), _MAX_DIGITS)
    digits = characters.astype(np.int64)
    runs = np.add.reduceat((digits & 31) << (5 * place), starts)
    runs -= ((digits[ends] >> 4) & 1) << (5 * np.minimum(lengths, _MAX_DIGITS))
    first = np.flatnonzero(np.diff(code, prepend=-1))
    number = np.arange(len(runs)) - first[code]
    for chain in (number % 2 == 1, (number % 2 == 0) & (number > 0)):
        runs[chain] = _sums_within(runs[chain], code[chain])
    sound &= (np.minimum.reduceat(runs, first) >= 0) & (np.maximum.reduceat(runs, first) <= pixels)
    return sound & (np.add.reduceat(runs, first) == pixels)


def _sums_within(
    values: Int[np.ndarray, " values"], group: Int[np.ndarray, " values"]
) -> Int[np.ndarray, " values"]:
    """Cumulative sums that start anew where the group changes."""
    sums = values.cumsum()
    first = np.flatnonzero(np.diff(group, prepend=-1))
    before = sums[first] - values[first]
    return sums - np.repeat(before, np.diff(first, append=len(values)))


def _is_polygon(polygon: Any, side: int) -> bool:
    # pycocotools would read a "polygon" of two points as a box.
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not all(isinstance(coordinate, int | float) for coordinate in polygon):
        return False
    return all(abs(coordinate) <= (_MAX_OVERHANG + 1) * side for coordinate in polygon)
