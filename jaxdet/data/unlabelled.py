"""Images without annotations for pre-training: shapes or any folder, cropped at random."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grain
import numpy as np
from PIL import Image

from jaxdet.data.dataset import LazyImage
from jaxdet.data.image import (
    IMAGE_FORMATS,
    LARGEST_IMAGE,
    SUFFIXES,
    ArrayImage,
    EncodedImage,
    is_named_image,
)
from jaxdet.data.loader import Batch, LoaderSettings, endless_batches
from jaxdet.data.resize import resample
from jaxdet.data.shapes import ShapesDataset
from jaxdet.errors import UserError
from jaxdet.files import regular_file

if TYPE_CHECKING:
    from ml_collections import ConfigDict

ASPECT_RATIOS = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10


def open_images(data: ConfigDict) -> Sequence[LazyImage]:
    """The images that `config.data` of a pre-training names.

    Raises:
        UserError: the folder is not there, or holds no image.
    """
    if data.root is None:
        return RenderedImages(data.shapes.images, data.shapes.image_size)
    folder = Path(data.root)
    if not folder.is_dir():
        raise UserError(f"config.data.root={data.root!r} is not a folder; name one of images")
    paths = sorted(path for path in folder.rglob("*") if is_named_image(path))
    if not paths:
        raise UserError(f"{folder} holds no images ({', '.join(SUFFIXES)}); name another folder")
    return ImageFolder(paths)


class RenderedImages(Sequence):
    """The first training images of the shapes, each rendered once and then kept.

    A detector's training images are among them, none of its validation images is.

    Args:
        count, image_size: see `ShapesDataset`.
    """

    def __init__(self, count: int, image_size: int):
        self._dataset = ShapesDataset("train", count, image_size)
        self._rendered: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> LazyImage:
        if index not in self._rendered:
            self._rendered[index] = self._dataset[index].image
        return ArrayImage(self._rendered[index])


@dataclass(frozen=True)
class ImageFolder(Sequence):
    """Image files, opened when asked for."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> LazyImage:
        path = self.paths[index]
        try:
            with Image.open(regular_file(path), formats=IMAGE_FORMATS) as image:
                width, height = image.size
        # Pillow's decoders let out many kinds of exception for broken files.
        except Exception as error:
            raise UserError(
                f"{path} cannot be read as an image; replace the file, or remove it"
            ) from error
        if width * height > LARGEST_IMAGE:
            raise UserError(
                f"{path} has {width} x {height} pixels, more than the {LARGEST_IMAGE} allowed; "
                "make it smaller, or remove it"
            )
        return EncodedImage((height, width), path, str(path), "the folder")


def crop_batches(
    images: Sequence[LazyImage],
    settings: LoaderSettings,
    *,
    image_size: int,
    crop_area: tuple[float, float],
    flip: bool,
    seed: int,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Endless batches of random crops, in a new order every epoch.

    Args:
        image_size: side S of the crops in pixels.
        crop_area: see `sample_crop`.
        flip: whether half of the crops are mirrored.
        seed, start_step: see `jaxdet.data.loader.train_batches`.

    Returns:
        An iterator of {"image": uint8 [batch_size / process_count, S, S, 3]}; it raises what the
        images raise.
    """
    stream = (
        grain.MapDataset.source(images)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(_Crop(image_size, crop_area, flip))
    )
    return endless_batches(stream, settings, start_step)


@dataclass(frozen=True)
class _Crop(grain.transforms.RandomMap):
    image_size: int
    crop_area: tuple[float, float]
    flip: bool

    def random_map(self, lazy_image: LazyImage, rng: np.random.Generator) -> Batch:
        box = sample_crop(rng, *lazy_image.hw, self.crop_area)
        # MAE's code resizes bicubically, the detectors bilinearly.
        image = resample(lazy_image, box, (self.image_size, self.image_size))
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        return {"image": image}


def sample_crop(
    rng: np.random.Generator, height: int, width: int, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random part of an image as torchvision's RandomResizedCrop chooses it.

    Args:
        area: smallest and largest share of the image that the part covers.

    Returns:
        (x1, y1, x2, y2) in pixels. The width lies between 3/4 and 4/3 of the height; where ten
        samples do not fit, the part is the largest such one in the middle.
    """
    low, high = ASPECT_RATIOS
    for _ in range(CROP_ATTEMPTS):
        share = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(share * ratio)), round(math.sqrt(share / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w, endpoint=True))
            top = int(rng.integers(height - h, endpoint=True))
            return left, top, left + w, top + h
    w, h = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
