"""Words in any script: letters of the Noto fonts of the package manimgx-fonts and, for Chinese,
Japanese and Korean, of OpenCV's own font, which OpenCV has from version 5 on.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

FONT_PACKAGE = "manimgx_fonts"
OPENCV = "OpenCV's font"
BOLDNESS = 400

_NO_CHARACTER = "\U0010ffff"
_PROBE_SIZE = 24


def letter(text: str, size: int) -> Image.Image:
    """A line of text as a mask, mode L, as large as the ink.

    Letters are joined and run from right to left where Pillow has libraqm, as its wheels do. Of a
    text in several scripts the stretches of each font follow one another from left to right.

    Args:
        text: what no font has of it loses its accents or is drawn as its code point, "U+0F40"; see
            `without_letters`.
        size: height of the letters in pixels.
    """
    margin, baseline = 2 * size, 3 * size
    mask = Image.new("L", (margin, 5 * size))
    end = float(margin)
    for font, piece in _stretches(text):
        if font == OPENCV:
            drawn, advance = _by_opencv(piece, size, baseline)
        else:
            drawn, advance = _by_pillow(piece, font, size, baseline)
        wider = Image.new("L", (round(end + advance) + 2 * margin, mask.height))
        wider.paste(mask)
        place = Image.new("L", wider.size)
        place.paste(drawn, (round(end) - margin, 0))
        mask, end = ImageChops.lighter(wider, place), end + advance
    return mask.crop(mask.getbbox() or (0, 0, 1, size))


def without_letters(text: str) -> str:
    """The characters of a text that can be drawn as their code point alone, each once."""
    missing = (c for c in text if _font_of(c) is None and _spelled(c).startswith("U+"))
    return "".join(dict.fromkeys(missing))


def _stretches(text: str) -> Iterator[tuple[str, str]]:
    """Pieces of text and the font of each: a file, OPENCV, or "" for Pillow's own."""
    fonts: list[str | None] = []
    for character in text:
        is_mark = unicodedata.category(character)[0] in "MC"  # accents and joiners
        fonts.append(fonts[-1] if is_mark and fonts else _font_of(character))
    for position, character in enumerate(text):  # spaces and signs between letters of one font
        if unicodedata.category(character)[0] in "ZP" and 0 < position < len(text) - 1:
            after = next((f for f, c in zip(fonts[position:], text[position:], strict=True)
                          if unicodedata.category(c)[0] not in "ZP"), None)  # fmt: skip
            if after == fonts[position - 1]:
                fonts[position] = after
    for font, group in itertools.groupby(zip(fonts, text, strict=True), lambda pair: pair[0]):
        piece = "".join(character for _, character in group)
        if font is None:
            yield "", "".join(map(_spelled, piece))
        else:
            yield font, piece


def _spelled(character: str) -> str:
    """A character that no font has, in ASCII: without its accents, else as its code point."""
    base = "".join(c for c in unicodedata.normalize("NFKD", character) if c.isascii())
    return base or f"U+{ord(character):04X}"


def _by_pillow(text: str, path: str, size: int, baseline: int) -> tuple[Image.Image, float]:
    """The text from 2 sizes on at a height, and its width."""
    font = _font(path, size)
    width = font.getlength(text)
    mask = Image.new("L", (round(width) + 4 * size, 5 * size))
    ImageDraw.Draw(mask).text((2 * size, baseline), text, fill=255, font=font, anchor="ls")
    return mask, width


def _by_opencv(text: str, size: int, baseline: int) -> tuple[Image.Image, float]:
    """As `_by_pillow`."""
    width = cv2.getTextSize((1, 1), text, (0, 0), _face(), size, BOLDNESS)[2]
    canvas = np.zeros((5 * size, width + 4 * size, 3), np.uint8)
    white = (255, 255, 255)
    cv2.putText(canvas, text, (2 * size, baseline), white, _face(), size, BOLDNESS)
    return Image.fromarray(canvas[..., 0]), width


@functools.cache
def _font_of(character: str) -> str | None:
    """The first font with a character: a file, OPENCV, "" for Pillow's own; None where none has."""
    for path in _font_files():
        # Not by libraqm, which puts a circle, which the font has, under a mark that stands alone.
        font = ImageFont.truetype(path, _PROBE_SIZE, layout_engine=ImageFont.Layout.BASIC)
        if _ink(font, character) != _ink(font, _NO_CHARACTER):
            return path
    if hasattr(cv2, "FontFace"):
        drawn, unknown = (_by_opencv(c, _PROBE_SIZE, 3 * _PROBE_SIZE)[0] for c in (character, "?"))
        if drawn.size != unknown.size or drawn.tobytes() != unknown.tobytes():
            return OPENCV
    return "" if character.isascii() else None


@functools.cache
def _font_files() -> tuple[str, ...]:
    """The fonts of FONT_PACKAGE, that of the most scripts first; none where it is absent."""
    package = importlib.util.find_spec(FONT_PACKAGE)
    if package is None or package.origin is None:
        return ()
    found = sorted(str(path) for path in Path(package.origin).parent.glob("*.ttf"))
    upright = [path for path in found if "Italic" not in path]
    return tuple(sorted(upright, key=lambda path: not Path(path).stem.startswith("NotoSans[")))


@functools.lru_cache(maxsize=256)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def _ink(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


@functools.cache
def _face() -> cv2.FontFace:
    return cv2.FontFace("uni")
