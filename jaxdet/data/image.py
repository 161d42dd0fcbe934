"""Images in memory and in encoded files, decoded as far as they are needed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from jaxdet.data.dataset import LazyImage
from jaxdet.errors import UserError
from jaxdet.files import read_file

LARGEST_IMAGE = 80_000_000
"""Pixels beyond which an image is not read: decoding it could exhaust the memory."""

JPEG_END = b"\xff\xd9"

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Names of a folder's files that are taken for images."""

Source = str | Path | Image.Image | np.ndarray
"""An image as people have it: its file, or Pillow's or NumPy's (uint8 [height, width, 3], RGB)."""


def is_named_image(path: Path) -> bool:
    """Whether it is a file whose name says that it is an image."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


class ArrayImage:
    """Pixels that are there already: uint8 [height, width, 3], RGB."""

    def __init__(self, pixels: np.ndarray):
        self._pixels = pixels
        self.hw = pixels.shape[:2]

    def pixels(self) -> np.ndarray:
        return self._pixels

    def decode(self, shrink: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self._pixels), 1


@dataclass(frozen=True)
class EncodedImage:
    """An image file, on disk or its bytes.

    The orientation note that cameras leave in the file (EXIF) is not followed, as COCO's boxes are
    given in stored pixels.

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

    def pixels(self) -> np.ndarray:
        with self._open() as (image, content):
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                pixels = _decode_jpeg(content)
                if pixels is not None and pixels.shape[:2] == self.hw:
                    return pixels
            return np.asarray(_to_rgb(image))

    def decode(self, shrink: int) -> tuple[Image.Image, int]:
        with self._open() as (image, _):
            scaled = max(1, image.width // shrink), max(1, image.height // shrink)
            drafted = image.draft(None, scaled) if shrink > 1 else None
            return _to_rgb(image), round(self.hw[1] / drafted[1][2]) if drafted else 1

    @contextmanager
    def _open(self) -> Iterator[tuple[Image.Image, bytes]]:
        """The file with its header read, and its content; whatever is wrong is a UserError."""
        try:
            content = self.source if isinstance(self.source, bytes) else read_file(self.source)
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
                hw = (image.height, image.width)
                if hw == self.hw:
                    yield image, content
        # Pillow's decoders let out many kinds of exception for broken files.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"{self.name} cannot be read as an image ({reason}); replace the file, or remove "
                f"it from {self.annotations}"
            ) from error
        if hw != self.hw:
            turned = (
                " (if a viewer shows it turned, save it upright)" if hw == self.hw[::-1] else ""
            )
            raise UserError(
                f"{self.name} has {hw[0]} x {hw[1]} pixels (height x width) but "
                f"{self.annotations} lists {self.hw[0]} x {self.hw[1]}; replace the file or "
                f"correct the annotations{turned}"
            )


def open_image(path: Path) -> LazyImage:
    """An image file that no annotations list.

    It is turned upright where the camera noted that it lies (EXIF), as nobody refers to its stored
    pixels. Of an animation it is the first frame. Other damage than that of the header is found
    when the image is decoded.

    Raises:
        UserError: the file cannot be read as an image, or has more than LARGEST_IMAGE pixels.
    """
    try:
        content = read_file(path)
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            hw = (image.height, image.width)
            is_small = hw[0] * hw[1] <= LARGEST_IMAGE
            if is_small and _orientation(image) != 1:
                return ArrayImage(np.asarray(_to_rgb(ImageOps.exif_transpose(image))))
    except UnidentifiedImageError as error:
        raise UserError(f"{path} must be an image, one of {', '.join(IMAGE_FORMATS)}") from error
    except Exception as error:  # as in EncodedImage
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as an image ({reason})") from error
    if not is_small:
        raise UserError(
            f"{path} has {hw[0]} x {hw[1]} pixels, more than the {LARGEST_IMAGE} that are decoded; "
            "scale it down"
        )
    return EncodedImage(hw, content, str(path), "the images given")


def as_image(source: Source | LazyImage) -> LazyImage:
    """An image of what people have; files as by `open_image`.

    Raises:
        UserError: it is no image.
    """
    if isinstance(source, str | Path):
        return open_image(Path(source))
    if isinstance(source, Image.Image):
        return ArrayImage(np.asarray(_to_rgb(ImageOps.exif_transpose(source))))
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            given = f"{source.dtype} {list(source.shape)}"
            raise UserError(f"an array of {given} must be uint8 [height, width, 3], RGB")
        return ArrayImage(source)
    if isinstance(source, ArrayImage | EncodedImage):
        return source
    raise UserError(
        f"a {type(source).__name__} is no image; give a path, an array or Pillow's image"
    )


def _orientation(image: Image.Image) -> int:
    """EXIF's note of how the image lies, 1 for upright or where there is no readable note."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the note is damaged, which need not concern the pixels
        return 1


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """The pixels of a complete file, as Pillow decodes them and faster; else None.

    OpenCV makes up what is missing of a truncated file, so those are left to Pillow, which objects.
    """
    if not content.endswith(JPEG_END):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


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
