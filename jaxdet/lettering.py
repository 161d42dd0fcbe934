"""Words in any script that OpenCV's own font has: Latin, Greek, Cyrillic, Hebrew, Arabic, Chinese,
Japanese and Korean. Other characters are drawn as "?"; before OpenCV 5 all that are not ASCII.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

RIGHT_TO_LEFT = ("R", "AL")
BOLDNESS = 400


def letter(text: str, size: int) -> Image.Image:
    """A line of text as a mask, mode L, as large as the ink.

    Args:
        size: height of the letters in pixels.
    """
    if not hasattr(cv2, "FontFace"):
        return _plain(text, size)
    # OpenCV draws from left to right. Arabic letters stay apart: its font has them so alone.
    text = "".join(word[::-1] if is_reversed else word for is_reversed, word in _runs(text))
    face = _face()
    width = cv2.getTextSize((1, 1), text, (0, 0), face, size, BOLDNESS)[2] + 4 * size
    canvas = np.zeros((4 * size, width, 3), np.uint8)
    cv2.putText(canvas, text, (size, 2 * size), (255, 255, 255), face, size, BOLDNESS)
    mask = Image.fromarray(canvas[..., 0])
    return mask.crop(mask.getbbox() or (0, 0, 1, size))


@functools.cache
def _face() -> cv2.FontFace:
    return cv2.FontFace("uni")


def _plain(text: str, size: int) -> Image.Image:
    """With Pillow's font, which has ASCII alone: accents are dropped, all else becomes "?"."""
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = "".join(c if c.isascii() else "?" for c in letters)
    font = ImageFont.load_default(size)
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    mask = Image.new("L", (max(right, 1), max(bottom, 1)))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=font)
    return mask.crop((left, top, max(right, left + 1), max(bottom, top + 1)))


def _runs(text: str) -> list[tuple[bool, str]]:
    """Stretches of text and whether they run from right to left."""
    groups = itertools.groupby(text, lambda c: unicodedata.bidirectional(c) in RIGHT_TO_LEFT)
    return [(is_reversed, "".join(letters)) for is_reversed, letters in groups]
