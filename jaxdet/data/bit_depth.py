"""Images of any kind of pixel as RGB of 8 bits.

Alpha is dropped and the colours under it stay; palettes are looked up; CMYK is converted as Pillow
does it. Levels of more than 8 bits are scaled by the range that they really use, all colours alike:
whole numbers by the least of 8, 12, 16 or 32 bits that holds the greatest one of the image (12-bit
sensors write files of 16 bits), floating point numbers from 0..1 where none is above 1, else as
whole numbers. Negative values and those that are no numbers are black.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin

BIT_DEPTHS = (8, 12, 16, 32)

PNG_BIT_DEPTH = 24
"""Where a PNG file says it."""


def to_rgb(image: Image.Image, content: bytes = b"") -> Image.Image:
    """An image of any of Pillow's modes as RGB, loaded; see this module.

    Args:
        content: of its file, where it has one: of 16 bits a colour Pillow itself keeps the upper 8.
    """
    if content and has_wide_colours(image, content):
        image.load()  # which objects where the file is damaged
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None and values.shape[:2] == image.size[::-1] and values.ndim == 3:
            return Image.fromarray(grey_levels(np.ascontiguousarray(values[..., 2::-1])))
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow's conversion would cut at 255
        return Image.fromarray(grey_levels(np.asarray(image))).convert("RGB")
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def has_wide_colours(image: Image.Image, content: bytes) -> bool:
    """Whether a file, of which `content` is at least the beginning, has 16 bits a colour."""
    if image.mode[0] in "IF":
        return False
    if image.format == "TIFF":
        return 16 in image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())
    return image.format == "PNG" and content[PNG_BIT_DEPTH] == 16


def grey_levels(values: np.ndarray) -> np.ndarray:
    """Numbers of any range as uint8 of the same shape."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float64)
        if values.max(initial=0) <= 1:
            return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
        values = np.rint(np.minimum(values, 2**32 - 1))
    if values.dtype.kind != "u":
        values = np.maximum(values.astype(np.int64), 0)
    greatest = int(values.max(initial=0))
    bits = next(bits for bits in BIT_DEPTHS if greatest < 2**bits)
    return (values >> (bits - 8)).astype(np.uint8)
