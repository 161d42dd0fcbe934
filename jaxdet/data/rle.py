"""Masks from annotation and result files as run-length codes that pycocotools can be trusted with.

pycocotools believes what it is given: it loops for hours over runs that do not add up to the image
and takes all memory for a polygon with a corner at infinity.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from jaxdet.data.dataset import RLE

# Numbers of at most seven digits, as 32 bits need; digits but the last carry the "more" bit.
_WELL_FORMED = re.compile(rb"([P-o]{0,6}[0-O])+")
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


def _from_runs(code: dict[str, Any], height: int, width: int) -> RLE | None:
    size, counts = code.get("size"), code.get("counts")
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        return None
    if isinstance(counts, list):
        if not all(type(run) is int and 0 <= run <= height * width for run in counts):
            return None
        if sum(counts) != height * width:
            return None
        return mask_api.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    if isinstance(counts, str):
        counts = counts.encode("utf-8", "replace")
    if not isinstance(counts, bytes):
        return None
    if not _WELL_FORMED.fullmatch(counts):
        return None
    runs = _decode_runs(counts)
    if runs.min() < 0 or runs.sum() != height * width:
        return None
    return {"size": [height, width], "counts": counts}


def _decode_runs(counts: bytes) -> np.ndarray:
    """The run lengths of a well-formed compressed code.

    A number is written in base 32, lowest digit first, one character (from "0" on) a digit; bit 5
    says that more digits follow, and bit 4 of the last digit is the sign. From the fourth run on it
    is the difference to the run two before.
    """
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(characters < 32)
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    place = np.arange(characters.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((characters & 31) << (5 * place), starts)
    runs -= (characters[ends] >> 4) << (5 * lengths)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def _is_polygon(polygon: Any, side: int) -> bool:
    # pycocotools would read a "polygon" of two points as a box.
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    if not all(isinstance(coordinate, int | float) for coordinate in polygon):
        return False
    return all(abs(coordinate) <= (_MAX_OVERHANG + 1) * side for coordinate in polygon)
