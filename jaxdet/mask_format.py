"""How an object's mask lies in a training batch; the loader writes it, the loss reads it.

An object has `mask_size` x `mask_size` bytes, which hold one of two things:

- outlines, where the object is polygons: float32 points (x, y) on the canvas, every polygon closed
  by its first point, with SEPARATOR between polygons and after the last. From these the target of
  any RoI is exact, and most objects need a tenth of the room.
- coverage, where it is a run-length code or has more than `max_points`: a value from 0 to 255 for
  each cell of a grid over the whole pixels that its box touches, row by row from the top left.
  Cells are pixels as long as `mask_size` of them reach along an axis, and larger where they do not.
"""

from __future__ import annotations

SEPARATOR = -1.0
"""A point with these coordinates is none; points on the canvas are never negative."""


def max_points(mask_size: int) -> int:
    """How many points of outlines are read, those that close and separate polygons included."""
    return min(mask_size * mask_size // 8, 512)
