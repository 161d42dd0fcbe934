"""A geometric transform applied to objects: their boxes and masks as far as they stay visible."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from jaxdet.data.dataset import RLE, Example, Polygons
from jaxdet.data.training_masks import touched_pixels, write_coverage, write_outlines
from jaxdet.data.transform import Transform, transform_points, visible_source

SMALLEST_SIDE = 1e-5
"""Boxes with a side not longer than this many pixels count as empty, as in Detectron2."""

_Piece = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A polygon's visible outline [points, 2], and the low and high corner [2] of its extent."""


class Objects(NamedTuple):
    """An image's objects as a training batch has them.

    Attributes:
        boxes: float32 [objects, 4], (x1, y1, x2, y2) in canvas pixels.
        labels: int32 [objects].
        masks: uint8 [objects, mask_size, mask_size], see `jaxdet.mask_format`.
        outlined: bool [objects], whether its mask is outlines; coverage where not.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    outlined: np.ndarray


class _Visible(NamedTuple):
    """What can be seen of an object: box float32 [4], mask, and whether that is outlines."""

    box: np.ndarray
    mask: np.ndarray
    outlined: bool


def transform_objects(
    example: Example, transform: Transform, image_size: int, mask_size: int
) -> Objects:
    """Moves an image's objects to the canvas and keeps what can be seen of them.

    An object's box is computed anew around the visible part of its mask (Detectron2's
    `recompute_boxes`); objects without a visible part are left out.
    """
    outlined = [i for i, mask in enumerate(example.masks) if not isinstance(mask, dict)]
    pieces = dict(
        zip(
            outlined,
            _visible_pieces([example.masks[i] for i in outlined], transform, image_size),
            strict=True,
        )
    )
    transformed = [
        _transform_rle(mask, transform, image_size, mask_size)
        if isinstance(mask, dict)
        else _transform_pieces(pieces[i], mask_size)
        for i, mask in enumerate(example.masks)
    ]
    seen = [i for i, visible in enumerate(transformed) if visible is not None]
    masks = np.empty((len(seen), mask_size, mask_size), np.uint8)
    for position, i in enumerate(seen):
        masks[position] = transformed[i].mask
    return Objects(
        np.array([transformed[i].box for i in seen], np.float32).reshape(-1, 4),
        example.labels[seen],
        masks,
        np.array([transformed[i].outlined for i in seen], bool),
    )


def _transform_pieces(pieces: list[_Piece], mask_size: int) -> _Visible | None:
    """The visible parts of an object's polygons; None without an extent."""
    if not pieces:
        return None
    _, low, high = pieces[0]
    if len(pieces) > 1:
        low = np.min([low for _, low, _ in pieces], axis=0)
        high = np.max([high for _, _, high in pieces], axis=0)
    if min((high - low).tolist()) <= SMALLEST_SIDE:
        return None
    box = np.concatenate([low, high]).astype(np.float32)
    outlines = [outline for outline, _, _ in pieces]
    mask = write_outlines(outlines, mask_size)
    if mask is not None:
        return _Visible(box, mask, True)
    x1, y1, x2, y2 = touched_pixels(box)
    codes = coco_mask.frPyObjects(
        [(outline - (x1, y1)).ravel() for outline in outlines], y2 - y1, x2 - x1
    )
    return _Visible(box, write_coverage(coco_mask.decode(coco_mask.merge(codes)), mask_size), False)


def _visible_pieces(
    objects: Sequence[Polygons], transform: Transform, image_size: int
) -> list[list[_Piece]]:
    """Of each object the visible parts of its polygons: outline, low and high corner of each."""
    polygons = [polygon for polygons in objects for polygon in polygons]
    if not polygons:
        return [[] for _ in objects]
    window = np.array(transform.visible_hw(image_size)[::-1], np.float64)
    ends = np.cumsum([len(polygon) for polygon in polygons])
    points = transform_points(np.concatenate(polygons), transform)
    starts = np.concatenate([[0], ends[:-1]])
    lows, highs = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    is_whole = np.all((lows >= 0) & (highs <= window), axis=1)
    is_hidden = np.any((highs <= 0) | (lows >= window), axis=1)
    numbers = iter(range(len(polygons)))
    visible = []
    for polygons in objects:
        pieces = []
        for number in itertools.islice(numbers, len(polygons)):
            outline = points[starts[number] : ends[number]]
            if is_whole[number]:
                pieces.append((outline, lows[number], highs[number]))
            elif not is_hidden[number]:
                pieces.append(_clip_polygon(outline, window))
        visible.append([piece for piece in pieces if piece is not None])
    return visible


def _clip_polygon(points: np.ndarray, window: np.ndarray) -> _Piece | None:
    """Clips a polygon [points, 2] to the rectangle from (0, 0) to `window` (width, height).

    Args:
        points: neither all inside nor all beyond one side.

    Returns:
        The outline [points, 2] of what is inside, and the low and high corner [2] of its extent;
        None where nothing is. Parts of a concave polygon may stay joined by lines of no width
        along the border; these never count in the extent.
    """
    # Cut every edge where it crosses one of the four border lines. What lies outside can then be
    # pressed flat onto the border: that moves no line through the inside.
    edges = _next(points) - points
    borders = np.stack([np.zeros(2), window])
    with np.errstate(divide="ignore", invalid="ignore"):
        cuts = ((borders[None] - points[:, None]) / edges[:, None]).reshape(-1, 4)
    cuts = np.sort(np.where((cuts > 0) & (cuts < 1), cuts, 0), axis=1)
    cut_points = (points[:, None] + cuts[:, :, None] * edges[:, None]).reshape(-1, 2)
    outline = np.clip(cut_points, 0, window)

    seen = cut_points[np.abs(cut_points - outline).max(axis=1) < SMALLEST_SIDE]
    corners = np.array([(x, y) for x in borders[:, 0] for y in borders[:, 1]])
    seen = np.clip(np.concatenate([seen, corners[_contains(points, corners)]]), 0, window)
    outline = outline[np.any(outline != _next(outline), axis=1)]
    if not len(seen) or len(outline) < 3:
        return None
    return outline, seen.min(axis=0), seen.max(axis=0)


def _next(points: np.ndarray) -> np.ndarray:
    """Of each corner [points, 2] of a polygon the one after it; several times as fast as roll."""
    return np.concatenate([points[1:], points[:1]])


def _contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points [P, 2] lie inside a polygon [V, 2], by the even-odd rule: bool [P]."""
    x, y = points[:, :1], points[:, 1:]
    x1, y1 = polygon.T
    x2, y2 = _next(polygon).T
    straddles = (y1 > y) != (y2 > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        is_right = x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return np.count_nonzero(straddles & is_right, axis=1) % 2 == 1


def _transform_rle(
    rle: RLE, transform: Transform, image_size: int, mask_size: int
) -> _Visible | None:
    """The visible part of a mask; None where there is none.

    A mask's pixel is a square of side 1; the box runs along the outer sides of visible pixels. A
    pixel of the canvas has the value of the mask's pixel at its centre, as in Detectron2.
    """
    height, width = transform.image_hw
    left, top, right, bottom = visible_source(transform, image_size)
    mask_x, mask_y, mask_w, mask_h = coco_mask.toBbox(rle)
    if transform.flip:
        mask_x = width - mask_x - mask_w
    if mask_x >= right or mask_x + mask_w <= left or mask_y >= bottom or mask_y + mask_h <= top:
        return None

    mask = coco_mask.decode(rle)
    if transform.flip:
        mask = mask[:, ::-1]
    first_row, first_column = int(top), int(left)
    visible = mask[first_row : math.ceil(bottom), first_column : math.ceil(right)]
    rows = np.flatnonzero(visible.any(axis=1)) + first_row
    columns = np.flatnonzero(visible.any(axis=0)) + first_column
    if not len(rows):
        return None
    x1, x2 = max(left, columns[0]), min(right, columns[-1] + 1)
    y1, y2 = max(top, rows[0]), min(bottom, rows[-1] + 1)

    scale_x, scale_y = transform.resized_hw[1] / width, transform.resized_hw[0] / height
    box = np.array([x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y])
    window = np.tile(transform.visible_hw(image_size)[::-1], 2)
    box = np.clip(box - np.tile(transform.offset, 2), 0, window).astype(np.float32)
    if np.any(box[2:] - box[:2] <= SMALLEST_SIDE):
        return None

    x1, y1, x2, y2 = touched_pixels(box)
    x, y = transform.offset
    columns = ((np.arange(x1, x2) + (x + 0.5)) / scale_x).astype(int)
    rows = ((np.arange(y1, y2) + (y + 0.5)) / scale_y).astype(int)
    # Columns first: they lie together in a decoded mask.
    pixels = mask.T[np.minimum(columns, width - 1)][:, np.minimum(rows, height - 1)].T
    if not pixels.any():  # smaller than a pixel, and beside all centres
        pixels = np.ones_like(pixels)
    return _Visible(box, write_coverage(pixels, mask_size), False)
