"""Pictures in memory and in encoded files, decoded as far as they are needed."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdet.errors import UserError

LARGEST_IMAGE = 80_000_000
"""Pixels beyond which an image is refused: decoding it could exhaust the memory."""

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


class ArrayPicture:
    """Pixels that are there already: uint8 [height, width, 3], RGB."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        self.hw = pixels.shape[:2]

    def decode(self, shrink: int = 1) -> tuple[Image.Image, int]:
        return Image.fromarray(self._pixels), 1


@dataclass(frozen=True)
class EncodedPicture:
    """An image file, on disk or its bytes.

    The orientation note that cameras leave in the file (EXIF) is not followed, as COCO's boxes are
    given in stored pixels. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is enough.

    Attributes:
        hw: height and width that the annotations list.
        source: the file's path, or its content.
        name: what an error calls the file.
        annotations: what an error calls the list of images.
    """

    hw: tuple[int, int]
    source: Path | bytes
    name: str
    annotations: str

    def decode(self, shrink: int = 1) -> tuple[Image.Image, int]:
        file = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        try:
            with Image.open(file, formats=IMAGE_FORMATS) as image:
                hw = (image.height, image.width)
                if hw == self.hw:
                    scaled = (max(1, image.width // shrink), max(1, image.height // shrink))
                    drafted = image.draft(None, scaled) if shrink > 1 else None
                    return _to_rgb(image), round(hw[1] / drafted[1][2]) if drafted else 1
        # Pillow's decoders let out many kinds of exception for broken files.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self.name} cannot be read as an image ({reason}); replace the file, or remove "
                f"it from {self.annotations}"
            ) from error
        turned = " (if a viewer shows it turned, save it upright)" if hw == self.hw[::-1] else ""
        raise UserError(
            f"{self.name} has {hw[0]} x {hw[1]} pixels (height x width) but {self.annotations} "
            f"lists {self.hw[0]} x {self.hw[1]}; replace the file or correct the "
            f"annotations{turned}"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating point numbers")
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would cut at 255
        grey = np.clip(np.asarray(image, np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image
