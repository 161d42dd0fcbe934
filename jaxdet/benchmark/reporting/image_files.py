"""The images that a run was validated on, where they are still at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from PIL import Image, ImageOps

from jaxdet.benchmark.reporting.inspection_file import InspectedImage
from jaxdet.errors import UserError
from jaxdet.files import file_sha256, regular_file

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

LARGEST_IMAGE = 80_000_000
"""Pixels beyond which an image is left out: decoding it could exhaust the memory."""

Opener = Callable[[InspectedImage], Image.Image]


class NoImageError(Exception):
    """Why there is no image, in words that name no path."""


def image_opener(data: dict[str, Any], annotations_sha256: str | None) -> Opener:
    """What opens images of the validation set of a `config.data`, RGB, of their listed size.

    A folder is read only where the annotations that the result names lie: a run that someone sent
    could name any other, and a report would embed its images.

    Args:
        annotations_sha256: of the validation annotations, as the result has it.

    Raises:
        NoImageError: they are not at hand; also what is returned, for a single image.
    """
    if data["name"] == "shapes":
        return _rendered(data["shapes"])
    from jaxdet.data.coco_files import find_coco  # late: it takes long

    try:
        file, folder = find_coco(data["root"], "val", data["val_annotations"], data["val_images"])
        if not folder.is_dir():
            raise NoImageError("the folder of images is not where it was")
        if annotations_sha256 is None:
            raise NoImageError("the result does not say which annotations it is of")
        if file_sha256(file) != annotations_sha256:
            raise NoImageError("the annotations are not those validated on")
    except (UserError, OSError, ValueError, TypeError) as error:
        raise NoImageError("the images validated on are not where they were") from error
    return lambda image: _opened(folder, image, data["orientation"] == "exif")


def _rendered(shapes: dict[str, Any]) -> Opener:
    from jaxdet.data.shapes import ShapesDataset  # late: only these need it

    try:
        dataset = ShapesDataset("val", shapes["val_images"], shapes["image_size"])
    except UserError as error:
        raise NoImageError("the shapes cannot be drawn") from error

    def render(image: InspectedImage) -> Image.Image:
        if not 1 <= image.image_id <= len(dataset):
            raise NoImageError("there is no such image of shapes")
        return _checked(Image.fromarray(dataset[image.image_id - 1].image), image)

    return render


def _opened(folder: Path, image: InspectedImage, is_turned: bool) -> Image.Image:
    name = PurePath(image.file or "..")
    if name.is_absolute() or ".." in name.parts:
        raise NoImageError("its name leads out of the folder of images")
    # Pillow lets out many kinds of exception for broken files.
    try:
        with Image.open(regular_file(folder / name), formats=FORMATS) as file:
            if file.width * file.height > LARGEST_IMAGE:
                raise NoImageError("it is too large")
            opened = (ImageOps.exif_transpose(file) if is_turned else file).convert("RGB")
    except NoImageError:
        raise
    except Exception as error:
        raise NoImageError("an image cannot be read") from error
    return _checked(opened, image)


def _checked(opened: Image.Image, image: InspectedImage) -> Image.Image:
    if (opened.height, opened.width) != image.hw:
        raise NoImageError("an image has another size than it had")
    return opened


def embedded(image: Image.Image, longest: int) -> str:
    """The address of an image in the page, its longer side at most so many pixels."""
    scale = min(1.0, longest / max(image.size))
    size = tuple(max(1, round(scale * side)) for side in image.size)
    stream = io.BytesIO()
    resized = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    resized.save(stream, "JPEG", quality=72)  # WebP would be a quarter smaller and take 15 times
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
