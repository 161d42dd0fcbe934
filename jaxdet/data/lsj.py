"""Large-scale jitter: where an image and its objects come to lie on a square canvas.

The geometry is that of Detectron2's RandomFlip, ResizeScale and FixedSizeCrop in this order
(the jitter of Ghiasi et al., "Simple Copy-Paste", 2012.07177, with scales 0.1 to 2.0): a scale is
drawn, the image is resized to fit into a square of that multiple of the canvas, a canvas-sized
window is cut at a random place where the result is larger, and padded at the right and the bottom
where it is smaller. Evaluation uses the same functions with `fit_placement`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from jaxdet.data.dataset import RLE, Example, LazyImage, Polygons
from jaxdet.data.resize import enlarge, resample

SMALLEST_SIDE = 1e-5
"""Boxes with a side not longer than this many canvas pixels count as empty, as in Detectron2."""


@dataclass(frozen=True)
class Placement:
    """An image's way onto the canvas: mirrored if `flip`, then resized, then cut at `offset`.

    Attributes:
        image_hw: height and width of the image before anything is done to it.
        resized_hw: height and width after resizing; whole numbers unless there is a `crop_hw`.
        flip: whether the image is mirrored left to right.
        offset: (x, y) of the canvas's top left corner in the resized image; whole numbers unless
            there is a `crop_hw`.
        crop_hw: height and width of what is kept from there; None to keep all.
    """

    image_hw: tuple[int, int]
    resized_hw: tuple[float, float]
    flip: bool
    offset: tuple[float, float]
    crop_hw: tuple[int, int] | None = None

    def visible_hw(self, canvas: int) -> tuple[int, int]:
        """Height and width of the canvas's top left part that shows the image."""
        if self.crop_hw is not None:
            return min(canvas, self.crop_hw[0]), min(canvas, self.crop_hw[1])
        x, y = self.offset
        height, width = self.resized_hw
        return min(canvas, height - y), min(canvas, width - x)


def sample_placement(
    rng: np.random.Generator,
    height: int,
    width: int,
    canvas: int,
    scale_range: tuple[float, float],
    flip: bool = True,
) -> Placement:
    """Draws flip, scale and crop for one image of `height` x `width` pixels.

    One number places the crop along both axes, as in Detectron2's FixedSizeCrop.

    Args:
        rng: the example's own generator; always gives three numbers.
        canvas: side of the square canvas in pixels.
        scale_range: smallest and largest scale, 1 being the image that just fits the canvas.
        flip: whether half of the images are mirrored.
    """
    mirrored = bool(rng.uniform() < 0.5) and flip
    scale = canvas * rng.uniform(*scale_range)
    ratio = min(scale / height, scale / width)
    resized_hw = (max(1, round(height * ratio)), max(1, round(width * ratio)))
    position = rng.uniform()
    y, x = (round(max(0, side - canvas) * position) for side in resized_hw)
    return Placement((height, width), resized_hw, mirrored, (x, y))


def fit_placement(height: int, width: int, canvas: int) -> Placement:
    """The image at the top left with its longer side as long as the canvas, not mirrored.

    Sizes are rounded as by Detectron2's ResizeShortestEdge.
    """
    ratio = canvas / max(height, width)
    resized_hw = (max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5)))
    return Placement((height, width), resized_hw, False, (0, 0))


def place_image(picture: LazyImage, placement: Placement, canvas: int, pad: int) -> np.ndarray:
    """Resizes what the canvas shows of a picture, antialiased bilinearly, and pads the rest.

    Args:
        canvas: side of the square canvas in pixels.
        pad: value of the pixels that the image does not reach.

    Returns:
        uint8 [canvas, canvas, 3].

    Raises:
        UserError: the picture cannot be read.
    """
    visible_h, visible_w = placement.visible_hw(canvas)
    placed = np.empty((canvas, canvas, 3), np.uint8)
    placed[:visible_h, visible_w:] = pad
    placed[visible_h:] = pad
    visible = placed[:visible_h, :visible_w]
    is_enlarged = all(
        after >= before for after, before in zip(placement.resized_hw, picture.hw, strict=True)
    )
    if is_enlarged and placement.crop_hw is None:
        pixels = picture.pixels()
        if placement.flip:
            pixels = cv2.flip(pixels, 1)
        enlarge(pixels, placement.resized_hw, placement.offset, visible)
        return placed
    left, top, right, bottom = _visible_source(placement, canvas)
    if placement.flip:
        width = placement.image_hw[1]
        left, right = max(0.0, width - right), width - left
    pixels = resample(picture, (left, top, right, bottom), (visible_h, visible_w))
    visible[:] = cv2.flip(pixels, 1) if placement.flip else pixels
    return placed


def place_points(points: np.ndarray, placement: Placement) -> np.ndarray:
    """Moves points [..., 2] (x, y) from image to canvas pixels, also those the canvas cuts off."""
    (height, width), (resized_h, resized_w) = placement.image_hw, placement.resized_hw
    if placement.flip:
        points = points * (-1, 1) + (width, 0)
    return points * (resized_w / width, resized_h / height) - placement.offset


def place_objects(
    example: Example, placement: Placement, canvas: int, mask_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moves an image's objects to the canvas and keeps what can be seen of them.

    An object's box is drawn anew around the visible part of its mask (Detectron2's
    `recompute_boxes`); objects without a visible part are left out. Each mask is rasterised in the
    frame of its own box.

    Returns:
        boxes: float32 [objects, 4], (x1, y1, x2, y2) in canvas pixels.
        labels: int32 [objects].
        masks: uint8 [objects, mask_size, mask_size], 0 or 1.
    """
    outlined = [i for i, mask in enumerate(example.masks) if not isinstance(mask, dict)]
    polygons = [example.masks[i] for i in outlined]
    placed = dict(
        zip(outlined, _place_polygons(polygons, placement, canvas, mask_size), strict=True)
    )
    for i, mask in enumerate(example.masks):
        if isinstance(mask, dict):
            placed[i] = _place_rle(mask, placement, canvas, mask_size)
    seen = [i for i in range(len(example.masks)) if placed[i] is not None]
    boxes = np.array([placed[i][0] for i in seen], np.float32).reshape(-1, 4)
    masks = np.empty((len(seen), mask_size, mask_size), np.uint8)
    for position, i in enumerate(seen):
        masks[position] = placed[i][1]
    return boxes, example.labels[seen], masks


def _visible_source(placement: Placement, canvas: int) -> tuple[float, float, float, float]:
    """The part of the (mirrored) image that the canvas shows: (x1, y1, x2, y2) in its pixels."""
    (height, width), (resized_h, resized_w) = placement.image_hw, placement.resized_hw
    visible_h, visible_w = placement.visible_hw(canvas)
    x, y = placement.offset
    return (
        x * width / resized_w,
        y * height / resized_h,
        min(width, (x + visible_w) * width / resized_w),
        min(height, (y + visible_h) * height / resized_h),
    )


def _place_polygons(
    objects: Sequence[Polygons], placement: Placement, canvas: int, mask_size: int
) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Of each object box [4] and mask [mask_size, mask_size] of the visible part, None without."""
    polygons = [polygon for polygons in objects for polygon in polygons]
    if not polygons:
        return [None] * len(objects)
    window = np.array(placement.visible_hw(canvas)[::-1], np.float64)
    ends = np.cumsum([len(polygon) for polygon in polygons])
    points = place_points(np.concatenate(polygons), placement)
    starts = np.concatenate([[0], ends[:-1]])
    lows, highs = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    is_whole = np.all((lows >= 0) & (highs <= window), axis=1)
    is_hidden = np.any((highs <= 0) | (lows >= window), axis=1)

    placed: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(objects)
    boxes, owners, outlines = {}, [], []
    number = 0
    for owner, parts in enumerate(objects):
        pieces = []
        for _ in parts:
            outline = points[starts[number] : ends[number]]
            if is_whole[number]:
                pieces.append((outline, lows[number], highs[number]))
            elif not is_hidden[number]:
                pieces.append(_clip_polygon(outline, window))
            number += 1
        pieces = [piece for piece in pieces if piece is not None]
        if not pieces:
            continue
        low = np.min([low for _, low, _ in pieces], axis=0) if len(pieces) > 1 else pieces[0][1]
        high = np.max([high for _, _, high in pieces], axis=0) if len(pieces) > 1 else pieces[0][2]
        size = high - low
        if min(size.tolist()) > SMALLEST_SIDE:
            boxes[owner] = np.concatenate([low, high])
            owners += [owner] * len(pieces)
            outlines += [((outline - low) * (mask_size / size)).ravel() for outline, _, _ in pieces]
    if not boxes:
        return placed

    parts_of = {owner: [] for owner in boxes}
    codes = coco_mask.frPyObjects(outlines, mask_size, mask_size)
    for owner, code in zip(owners, codes, strict=True):
        parts_of[owner].append(code)
    merged = [
        codes[0] if len(codes) == 1 else coco_mask.merge(codes) for codes in parts_of.values()
    ]
    masks = coco_mask.decode(merged)
    for position, (owner, box) in enumerate(boxes.items()):
        placed[owner] = box, masks[:, :, position]
    return placed


def _clip_polygon(
    points: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
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


def _place_rle(
    rle: RLE, placement: Placement, canvas: int, mask_size: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Box [4] and mask [mask_size, mask_size] of the visible part, or None where there is none.

    A mask's pixel is a square of side 1; the box runs along the outer sides of visible pixels.
    """
    height, width = placement.image_hw
    left, top, right, bottom = _visible_source(placement, canvas)
    mask_x, mask_y, mask_w, mask_h = coco_mask.toBbox(rle)
    if placement.flip:
        mask_x = width - mask_x - mask_w
    if mask_x >= right or mask_x + mask_w <= left or mask_y >= bottom or mask_y + mask_h <= top:
        return None

    mask = coco_mask.decode(rle)
    if placement.flip:
        mask = mask[:, ::-1]
    first_row, first_column = int(top), int(left)
    visible = mask[first_row : math.ceil(bottom), first_column : math.ceil(right)]
    rows = np.flatnonzero(visible.any(axis=1)) + first_row
    columns = np.flatnonzero(visible.any(axis=0)) + first_column
    if not len(rows):
        return None
    x1, x2 = max(left, columns[0]), min(right, columns[-1] + 1)
    y1, y2 = max(top, rows[0]), min(bottom, rows[-1] + 1)

    scale_x, scale_y = placement.resized_hw[1] / width, placement.resized_hw[0] / height
    box = np.array([x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y])
    box -= np.tile(placement.offset, 2)
    if np.any(box[2:] - box[:2] <= SMALLEST_SIDE):
        return None

    # Resampling looks past the box by one target pixel or one source pixel, whichever is larger.
    margin = math.ceil(max(x2 - x1, y2 - y1) / mask_size) + 1
    x0, y0 = max(0, int(x1) - margin), max(0, int(y1) - margin)
    region = mask[y0 : math.ceil(y2) + margin, x0 : math.ceil(x2) + margin]
    resampled = Image.fromarray(region * np.uint8(255)).resize(
        (mask_size, mask_size),
        Image.Resampling.BILINEAR,
        box=(x1 - x0, y1 - y0, x2 - x0, y2 - y0),
    )
    return box, (np.asarray(resampled) >= 128).astype(np.uint8)
