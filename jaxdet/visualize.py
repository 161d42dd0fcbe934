"""Drawings of detections: masks, boxes and labels on an image; many images on one sheet."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from jaxdet.lettering import letter, without_letters

# Neighbouring classes get hues far apart; all are bright enough to show on dark images and deep
# enough to show on light ones.
PALETTE = (
    (230, 57, 70),
    (29, 137, 228),
    (255, 183, 3),
    (42, 167, 93),
    (155, 81, 224),
    (251, 133, 0),
    (0, 180, 196),
    (236, 64, 150),
    (139, 195, 40),
    (92, 107, 232),
    (183, 110, 60),
    (0, 150, 136),
    (214, 90, 220),
    (205, 170, 50),
    (90, 160, 255),
    (255, 112, 97),
    (110, 200, 150),
    (170, 40, 90),
    (120, 130, 40),
    (130, 90, 180),
)

LONGEST = 4096
"""Pixels beyond which an image's longer side is not enlarged."""

_CONTOUR_OPACITY = 0.9
_MASK_OPACITY = 0.4
"""How much the line along a mask and the mask itself hide of the image."""


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    masks: Sequence[np.ndarray] | np.ndarray | None,
    names: Sequence[str],
    *,
    min_side: int = 480,
) -> np.ndarray:
    """Draws objects on an image, the class shown by colour and by name.

    Args:
        image: uint8 [height, width, 3]. A small one is enlarged until its shorter side has
            `min_side` pixels, so that labels are readable and yet small beside the objects, or its
            longer side LONGEST.
        boxes: [objects, 4], (x1, y1, x2, y2) in pixels of the image.
        labels: [objects], positions in `names`.
        scores: [objects] in 0..1, or None for ground truth.
        masks: one bool [height, width] an object, or None to draw boxes alone.
        names: the name of each class.
        min_side: least length of the result's shorter side, in pixels.

    Returns:
        uint8 [height, width, 3], both sides enlarged alike.
    """
    height, width = image.shape[:2]
    scale = max(1.0, min(min_side / min(height, width), LONGEST / max(height, width)))
    size = (round(scale * width), round(scale * height))
    canvas = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    stroke = max(1, round(min(size) / 300))
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) * scale
    # Large objects first, and good ones last where sizes are equal: small ones stay visible.
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    order = np.lexsort((np.zeros(len(boxes)) if scores is None else scores, -areas))

    if masks is not None:
        for i in order:
            _draw_mask(canvas, masks[i], _colour(labels[i]), stroke, scale)
    draw = ImageDraw.Draw(canvas)
    for i in order:
        draw.rectangle(_outline(boxes[i], size), outline=_colour(labels[i]), width=stroke)
    font = ImageFont.load_default(max(11, round(min(size) / 38)))
    taken: list[tuple[float, ...]] = []
    for i in order[::-1]:
        name = _drawn_name(names[labels[i]], int(labels[i]))
        text = name if scores is None else f"{name} {scores[i]:.2f}"
        taken.append(_draw_label(draw, text, boxes[i], _colour(labels[i]), font, size, taken))
    return np.asarray(canvas)


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    *,
    cell: int = 480,
    padding: int = 8,
) -> np.ndarray:
    """Puts images of any sizes on one sheet, row by row, each in the middle of its cell.

    Args:
        images: at least one, uint8 [height, width, 3] each.
        columns: how many in a row.
        cell: the length in pixels that the longer side of every image is resized to.
        padding: pixels between images and around the sheet.

    Returns:
        uint8 [sheet height, sheet width, 3].
    """
    fitted = [_fit(image, cell) for image in images]
    cell_width = max(image.width for image in fitted)
    cell_height = max(image.height for image in fitted)
    columns = min(columns, len(fitted))
    rows = math.ceil(len(fitted) / columns)
    width = padding + columns * (cell_width + padding)
    height = padding + rows * (cell_height + padding)
    sheet = Image.new("RGB", (width, height), "white")
    for number, image in enumerate(fitted):
        row, column = divmod(number, columns)
        left = padding + column * (cell_width + padding) + (cell_width - image.width) // 2
        top = padding + row * (cell_height + padding) + (cell_height - image.height) // 2
        sheet.paste(image, (left, top))
    return np.asarray(sheet)


def _fit(image: np.ndarray, side: int) -> Image.Image:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)


@functools.cache
def _drawn_name(name: str, label: int) -> str:
    """A class's name, or its number where no font has its letters, which is said once."""
    missing = "" if name.isascii() else without_letters(name)
    if not missing:
        return name
    character = unicodedata.name(missing[0], f"U+{ord(missing[0]):04X}")
    print(f"warning: no font here has {character}; the class {name!r} is drawn as 'class {label}'")
    return f"class {label}"


def _colour(label: int) -> tuple[int, int, int]:
    return PALETTE[int(label) % len(PALETTE)]


def _outline(box: np.ndarray, size: tuple[int, int]) -> list[int]:
    """The box's outermost pixels, both ends included, cut to the image."""
    x1, y1 = np.clip(np.floor(box[:2]), 0, np.array(size) - 1).astype(int)
    x2, y2 = np.clip(np.ceil(box[2:]) - 1, [x1, y1], np.array(size) - 1).astype(int)
    return [int(x1), int(y1), int(x2), int(y2)]


def _draw_mask(
    canvas: Image.Image,
    mask: np.ndarray,
    colour: tuple[int, int, int],
    stroke: int,
    scale: float,
) -> None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    x1, y1 = max(columns[0] - 2, 0), max(rows[0] - 2, 0)
    x2, y2 = min(columns[-1] + 3, mask.shape[1]), min(rows[-1] + 3, mask.shape[0])
    left, top, right, bottom = (round(scale * edge) for edge in (x1, y1, x2, y2))
    right, bottom = min(right, canvas.width), min(bottom, canvas.height)
    window = Image.fromarray(mask[y1:y2, x1:x2].astype(np.uint8) * 255)
    # Blurred by less than a pixel of the mask, its edge is a ramp: one half is the smooth contour,
    # the level `stroke` pixels further in is the inner side of the line along it.
    blur = 0.7 * scale
    soft = window.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    level = np.asarray(soft.filter(ImageFilter.GaussianBlur(blur)), np.float32) / 255
    inner_level = 0.5 * (1 + math.erf(stroke / blur / math.sqrt(2)))
    sharpness = blur * math.sqrt(2 * math.pi)
    coverage = np.clip((level - 0.5) * sharpness + 0.5, 0, 1)
    alpha = coverage * np.where(level < inner_level, _CONTOUR_OPACITY, _MASK_OPACITY)
    canvas.paste(colour, (left, top), Image.fromarray(np.uint8(255 * alpha)))


def _draw_label(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: np.ndarray,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: list[tuple[float, ...]],
) -> tuple[float, ...]:
    """Writes the label at the free corner of the box, and returns the rectangle it takes."""
    drawn = None if text.isascii() else letter(text, round(font.size))
    if drawn is None:
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    else:
        left, top, right, bottom = 0, 0, *drawn.size
    margin = max(2, round((bottom - top) / 5))
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1), (x1, y2 - height), (x1, y2)]
    places = []
    for x, y in corners:
        x = min(max(round(x), 0), max(size[0] - width, 0))
        y = min(max(round(y), 0), max(size[1] - height, 0))
        places.append((x, y, x + width, y + height))
    place = min(places, key=lambda candidate: sum(_overlap(candidate, other) for other in taken))
    draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    ink = (20, 20, 20) if luminance > 150 else (255, 255, 255)
    corner = place[0] + margin - left, place[1] + margin - top
    if drawn is None:
        draw.text(corner, text, fill=ink, font=font)
    else:
        draw.bitmap(corner, drawn, fill=ink)
    return place


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
