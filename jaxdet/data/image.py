"""Images in memory and in encoded files, decoded as far as they are needed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from jaxdet.data.bit_depth import has_wide_colours, to_rgb
from jaxdet.data.dataset import LazyImage
from jaxdet.errors import UserError
from jaxdet.files import read_file

LARGEST_IMAGE = 80_000_000
"""Pixels beyond which an image is not read: decoding it could exhaust the memory."""

JPEG_END = b"\xff\xd9"

OPTIONAL_FORMATS = {"AVIF": "avif", "JPEG2000": "jpg_2000"}
"""Formats that Pillow reads where it was built with them, by what it calls the library."""

IMAGE_FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"),  # MPO is JPEG to Pillow
    *(name for name, library in OPTIONAL_FORMATS.items() if features.check(library)),
)
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".jp2", ".j2k", ".jpx", ".heic", ".heif"),
)
"""Names of a folder's files that are taken for images."""

UNUSUAL = {
    "have an EXIF orientation note": "it must be as annotated: config.data.orientation='exif' "
    "follows it, 'stored' does not",
    "have several frames or pages": "the first is read",
    "have more than 8 bits a channel": "they are scaled by the range that they use",
}
"""What `unusual` finds, and what it means."""

_HEADERS = {
    b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIF", b"ftypmsf1": "HEIF",
    b"ftypavif": "AVIF", b"ftypavis": "AVIF", b"jP  \r\n\x87\n": "JPEG 2000",
}  # fmt: skip
"""The bytes 4 to 12 of files that Pillow may not be able to read."""

Source = str | Path | Image.Image | np.ndarray
"""An image as people have it: its file, or Pillow's or NumPy's (uint8 [height, width, 3], RGB)."""


def is_named_image(path: Path) -> bool:
    """Whether it is a file whose name says that it is an image.

    Names that begin with "._" are what macOS keeps beside files on other disks.
    """
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._") and path.is_file()


def find_images(folder: Path) -> list[Path]:
    """A folder's files that are named as images, in the order of their names.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return sorted(file for file in folder.iterdir() if is_named_image(file))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error}); give rights to it") from error


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

    Of an animation or a file of several pages it is the first. Cameras leave a note in the file of
    how the image lies (EXIF); COCO's boxes are given in stored pixels, without following it.

    Attributes:
        hw: height and width that the annotations list.
        source: the file's path, or its content.
        name: what an error calls the file.
        annotations: what an error calls the list of images.
        orientation: "stored" for the pixels as they are stored, "exif" for the note to be followed.
    """

    hw: tuple[int, int]
    source: Path | bytes
    name: str
    annotations: str
    orientation: str = "stored"

    def pixels(self) -> np.ndarray:
        with self._open() as (image, content):
            if image.format == "JPEG" and image.mode in ("RGB", "L"):
                pixels = _decode_jpeg(content)
                if pixels is not None and pixels.shape[:2] == (image.height, image.width):
                    turn = self._turn(image)
                    return pixels if turn is None else np.asarray(_turned(pixels, turn))
            return np.asarray(self._upright(image, content))

    def decode(self, shrink: int) -> tuple[Image.Image, int]:
        with self._open() as (image, content):
            width = image.width
            scaled = max(1, width // shrink), max(1, image.height // shrink)
            drafted = image.draft(None, scaled) if shrink > 1 else None
            return self._upright(image, content), round(width / drafted[1][2]) if drafted else 1

    def _turned_note(self, content: bytes) -> str:
        """What to do with an image whose sides are listed the other way round."""
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            noted = orientation_of(image)
        if noted not in _SIDEWAYS:
            return " (if a viewer shows it turned, save it upright)"
        other = "stored" if self.orientation == "exif" else "exif"
        return f" (its EXIF orientation is {noted}: set config.data.orientation={other!r})"

    def _turn(self, image: Image.Image) -> Image.Transpose | None:
        """What makes the image lie as it is to be seen, None for nothing."""
        return _TURNS.get(orientation_of(image)) if self.orientation == "exif" else None

    def _upright(self, image: Image.Image, content: bytes) -> Image.Image:
        turn = self._turn(image)
        image = to_rgb(image, content)
        return image if turn is None else image.transpose(turn)

    @contextmanager
    def _open(self) -> Iterator[tuple[Image.Image, bytes]]:
        """The file with its header read, and its content; whatever is wrong is a UserError."""
        content = b""
        try:
            content = self.source if isinstance(self.source, bytes) else read_file(self.source)
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
                hw = _seen_hw(image, self.orientation)
                if hw == self.hw:
                    yield image, content
        # Pillow's decoders let out many kinds of exception for broken files.
        except Exception as error:
            raise UserError(
                f"{self.name} cannot be read as an image ({_reason(error, content)}); replace the "
                f"file, or remove it from {self.annotations}"
            ) from error
        if hw != self.hw:
            turned = self._turned_note(content) if hw == self.hw[::-1] else ""
            raise UserError(
                f"{self.name} has {hw[0]} x {hw[1]} pixels (height x width) but "
                f"{self.annotations} lists {self.hw[0]} x {self.hw[1]}; replace the file or "
                f"correct the annotations{turned}"
            )


def unusual(path: Path) -> list[str]:
    """What a readable image file has that few have: keys of UNUSUAL."""
    with path.open("rb") as file:
        head = file.read(32)
    with Image.open(path, formats=IMAGE_FORMATS) as image:
        has_note = image.format != "PNG" or "exif" in image.info  # else it would be decoded
        found = (
            has_note and orientation_of(image) != 1,
            getattr(image, "is_animated", False),
            image.mode[0] in "IF" or has_wide_colours(image, head),
        )
    return [kind for kind, is_so in zip(UNUSUAL, found, strict=True) if is_so]


def open_image(path: Path, orientation: str = "exif") -> LazyImage:
    """An image file that no annotations list, see `open_content`.

    Raises:
        UserError: the file cannot be read as an image, or has more than LARGEST_IMAGE pixels.
    """
    try:
        content = read_file(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an image ({_reason(error, b'')})") from error
    return open_content(content, str(path), orientation)


def open_content(content: bytes, name: str, orientation: str = "exif") -> LazyImage:
    """An image of the bytes of a file.

    Of an animation it is the first frame. Other damage than that of the header is found when the
    image is decoded.

    Args:
        name: what an error calls it.
        orientation: "exif" to turn it upright where the camera noted that it lies, "stored" to
            take its pixels as they are stored.

    Raises:
        UserError: it cannot be read as an image, or has more than LARGEST_IMAGE pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            hw = _seen_hw(image, orientation)
    except UnidentifiedImageError as error:
        what = _unreadable_format(content)
        raise UserError(
            f"{name} must be an image, one of {', '.join(IMAGE_FORMATS)}"
            + (f"; it is {what}: save it as JPEG or PNG" if what else "")
        ) from error
    except Exception as error:  # as in EncodedImage
        raise UserError(f"{name} cannot be read as an image ({_reason(error, content)})") from error
    if hw[0] * hw[1] > LARGEST_IMAGE:
        raise UserError(
            f"{name} has {hw[0]} x {hw[1]} pixels, more than the {LARGEST_IMAGE} that are decoded; "
            "scale it down"
        )
    return EncodedImage(hw, content, name, "the images given", orientation)


def as_image(source: Source | LazyImage, orientation: str = "exif") -> LazyImage:
    """An image of what people have; files, and Pillow's images, as by `open_image`.

    Raises:
        UserError: it is no image.
    """
    if isinstance(source, str | Path):
        return open_image(Path(source), orientation)
    if isinstance(source, Image.Image):
        upright = ImageOps.exif_transpose(source) if orientation == "exif" else source
        return ArrayImage(np.asarray(to_rgb(upright)))
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


def orientation_of(image: Image.Image) -> int:
    """EXIF's note of how the image lies, 1 for upright or where there is no readable note."""
    try:
        noted = image.getexif().get(ExifTags.Base.Orientation, 1)
        return noted if noted in _TURNS else 1
    except Exception:  # the note is damaged, which need not concern the pixels
        return 1


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its note."""

_SIDEWAYS = (5, 6, 7, 8)


def _seen_hw(image: Image.Image, orientation: str) -> tuple[int, int]:
    """Height and width of an image as it is seen."""
    if orientation == "exif" and orientation_of(image) in _SIDEWAYS:
        return image.size
    return image.size[::-1]


def _turned(pixels: np.ndarray, turn: Image.Transpose) -> Image.Image:
    return Image.fromarray(pixels).transpose(turn)


def _unreadable_format(content: bytes) -> str | None:
    """The name of a format that is known but that this Pillow does not read."""
    return _HEADERS.get(content[4:12])


def _reason(error: Exception, content: bytes) -> str:
    what = _unreadable_format(content) if isinstance(error, UnidentifiedImageError) else None
    if what:
        return f"it is {what}: save it as JPEG or PNG"
    return (str(error) or type(error).__name__).splitlines()[0]


def _decode_jpeg(content: bytes) -> np.ndarray | None:
    """The pixels of a complete file, as Pillow decodes them and faster; else None.

    OpenCV makes up what is missing of a truncated file, so those are left to Pillow, which objects.
    """
    if not content.endswith(JPEG_END):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
