"""An object's mask as a training batch has it, see `jaxdet.mask_format`."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from jaxdet.mask_format import SEPARATOR, max_points


def write_outlines(outlines: Sequence[np.ndarray], mask_size: int) -> np.ndarray | None:
    """Polygons [points, 2] (x, y) in canvas pixels as uint8 [mask_size, mask_size].

    Returns:
        None where they have too many points.
    """
    room = max_points(mask_size)
    if sum(len(outline) + 2 for outline in outlines) > room:
        return None
    mask = np.zeros(mask_size * mask_size, np.uint8)
    points = mask[: room * 8].view(np.float32).reshape(room, 2)
    points[:] = SEPARATOR
    start = 0
    for outline in outlines:
        end = start + len(outline)
        points[start:end] = outline
        points[end] = outline[0]
        start = end + 2
    return mask.reshape(mask_size, mask_size)


def write_coverage(pixels: np.ndarray, mask_size: int) -> np.ndarray:
    """The pixels uint8 [height, width], 0 or 1, that a box touches, as [mask_size, mask_size]."""
    height, width = (min(side, mask_size) for side in pixels.shape)
    mask = np.zeros((mask_size, mask_size), np.uint8)
    cells = pixels * np.uint8(255)
    if cells.shape != (height, width):
        cells = cv2.resize(cells, (width, height), interpolation=cv2.INTER_AREA)
    mask[:height, :width] = cells
    return mask


def touched_pixels(box: np.ndarray) -> tuple[int, int, int, int]:
    """The whole pixels (x1, y1, x2, y2) that a float32 box touches."""
    (x1, y1), (x2, y2) = np.floor(box[:2]).tolist(), np.ceil(box[2:]).tolist()
    return int(x1), int(y1), int(x2), int(y2)


def pasted_mask(
    mask: np.ndarray, outlined: bool, box: np.ndarray, hw: tuple[int, int]
) -> np.ndarray:
    """What `write_outlines` or `write_coverage` wrote, on the canvas; bool [height, width]."""
    if outlined:
        points = mask.reshape(-1)[: max_points(len(mask)) * 8].view(np.float32).reshape(-1, 2)
        parts = np.split(points, np.flatnonzero(points[:, 0] == SEPARATOR))
        outlines = [part[part[:, 0] != SEPARATOR].ravel() for part in parts if len(part) > 1]
        codes = coco_mask.frPyObjects([o.astype(np.float64) for o in outlines], *hw)
        return coco_mask.decode(coco_mask.merge(codes)).astype(bool)
    x1, y1, x2, y2 = touched_pixels(box)
    cells = mask[: min(y2 - y1, len(mask)), : min(x2 - x1, len(mask))]
    pixels = cv2.resize(cells, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST)
    pasted = np.zeros(hw, bool)
    pasted[y1:y2, x1:x2] = pixels >= 128
    return pasted
