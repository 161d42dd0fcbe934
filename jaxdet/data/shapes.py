"""A built-in detection dataset: coloured shapes on textured backgrounds, rendered on the fly.

    jaxdet data shapes --train-images=2000 --val-images=100 --image-size=96 /data/shapes

writes it as a folder in COCO's format, for what takes such folders.

It needs no download and classes differ in nothing but their outline, so a detector that is wired up
wrongly does not learn it. Every random number follows from (seed, split, index) alone.
"""

from __future__ import annotations

import colorsys
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as mask_api

from jaxdet.data.coco_files import write_annotations, writing
from jaxdet.data.dataset import RLE, Category, Example
from jaxdet.data.doubts import Doubt
from jaxdet.data.image import ArrayImage
from jaxdet.errors import UserError
from jaxdet.flags import Parser, local_path, run_main

MAX_OBJECTS = 5
PLACEMENT_ATTEMPTS = 3
SIZE_RANGE = (0.2, 0.5)  # longest extent of an object, as a share of image_size
MIN_VISIBLE_SHARE = 0.5
MIN_VISIBLE_PIXELS = 40
MIN_COLOUR_DISTANCE = 80.0  # Euclidean, in 0..255 RGB
SUPERSAMPLING = 4

_SPLITS = ("train", "val")

Colour = tuple[float, float, float]  # red, green, blue in 0..255


class ShapesDataset:
    """Discs, boxes, triangles and stars that overlap; implements `DetectionDataset`.

    Images are between 0.75 and 1 times `image_size` high and wide and hold one to five objects.
    Later objects hide earlier ones, but never so much that one is left with less than half of its
    area or 40 pixels: every object that can be seen is annotated. Masks are the visible pixels.

    Args:
        split: "train" or "val"; the two share no image.
        num_images: how many images the split has.
        image_size: longest possible image side in pixels, at least 64.
        seed: another seed gives another dataset.

    Raises:
        UserError: an argument outside the values above.
    """

    categories = (
        Category(1, "disc"),
        Category(2, "box"),
        Category(3, "triangle"),
        Category(4, "star"),
    )

    def __init__(
        self,
        split: Literal["train", "val"],
        num_images: int,
        image_size: int = 128,
        seed: int = 0,
    ):
        if split not in _SPLITS:
            raise UserError(f"shapes: split={split!r} must be 'train' or 'val'")
        if num_images < 1:
            raise UserError(f"shapes: num_images={num_images} must be at least 1")
        if image_size < 64:
            raise UserError(f"shapes: image_size={image_size} must be at least 64")
        if seed < 0:
            raise UserError(f"shapes: seed={seed} must be at least 0")
        self._split = split
        self._num_images = num_images
        self._image_size = image_size
        self._seed = seed
        self._ground_truth: dict[str, Any] | None = None

    @property
    def annotations_sha256(self) -> None:
        return None

    @property
    def image_ids(self) -> Sequence[int]:
        return range(1, self._num_images + 1)

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, index: int) -> Example:
        index = range(self._num_images)[index]
        rng = self._generator(index)
        scene = _compose(rng, self._image_size)
        return Example(
            lazy_image=ArrayImage(_paint(rng, scene)),
            image_id=self.image_ids[index],
            boxes=scene.boxes(),
            labels=np.array([shape.label for shape in scene.shapes], np.int32),
            masks=scene.masks,
        )

    def has_objects(self, index: int) -> bool:
        """Always true: every image holds at least one object."""
        return True

    def labels(self, index: int) -> np.ndarray:
        """Of the image's objects, int32 [objects]."""
        scene = _compose(self._generator(index), self._image_size)
        return np.array([shape.label for shape in scene.shapes], np.int32)

    def is_background(self, index: int) -> bool:
        """Whether the image has no annotation."""
        return False

    def doubts(self) -> tuple[Doubt, ...]:
        """None: the annotations are drawn with the images."""
        return ()

    def summary(self) -> str:
        """One line for the log."""
        return f"shapes, {self._split}: {self._num_images} rendered images"

    def ground_truth(self) -> dict[str, Any]:
        """The annotations in COCO's JSON layout; made at the first call and kept."""
        if self._ground_truth is None:
            self._ground_truth = self._make_ground_truth()
        return self._ground_truth

    def _make_ground_truth(self) -> dict[str, Any]:
        images, annotations = [], []
        for index, image_id in enumerate(self.image_ids):
            scene = _compose(self._generator(index), self._image_size)
            images.append({"id": image_id, "height": scene.height, "width": scene.width})
            xywh = mask_api.toBbox(scene.masks)
            areas = mask_api.area(scene.masks)
            for shape, rle, box, area in zip(scene.shapes, scene.masks, xywh, areas, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": self.categories[shape.label].id,
                        "bbox": box.tolist(),
                        "area": int(area),
                        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                        "iscrowd": 0,
                    }
                )
        categories = [category._asdict() for category in self.categories]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, _SPLITS.index(self._split), index])


@dataclass(frozen=True)
class _Shape:
    """One rasterised object: where it lies in the image, and how much of each pixel it covers."""

    label: int
    rows: slice
    columns: slice
    coverage: np.ndarray  # uint8 [rows, columns], 255 = the whole pixel


@dataclass(frozen=True)
class _Scene:
    """The geometry of an image, everything but its colours; `shapes` are listed back to front."""

    height: int
    width: int
    shapes: list[_Shape]
    masks: list[RLE]

    def boxes(self) -> np.ndarray:
        xywh = mask_api.toBbox(self.masks)
        return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1).astype(np.float32)


def _compose(rng: np.random.Generator, image_size: int) -> _Scene:
    height, width = rng.integers(round(0.75 * image_size), image_size, size=2, endpoint=True)
    wanted = rng.integers(1, MAX_OBJECTS, endpoint=True)
    shapes: list[_Shape] = []
    visible = np.zeros((wanted, height, width), bool)
    remaining = np.zeros(wanted, int)  # visible pixels of each shape
    needed = np.zeros(wanted)
    attempts = 0
    while len(shapes) < wanted and (not shapes or attempts < PLACEMENT_ATTEMPTS * wanted):
        attempts += 1
        shape = _random_shape(rng, height, width, image_size)
        covered = shape.coverage >= 128
        area = covered.sum()
        hidden = (visible[:, shape.rows, shape.columns] & covered).sum(axis=(1, 2))
        if area < MIN_VISIBLE_PIXELS or (remaining - hidden < needed).any():
            continue
        new = len(shapes)
        remaining -= hidden
        remaining[new] = area
        needed[new] = max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * area)
        visible[:, shape.rows, shape.columns] &= ~covered
        visible[new, shape.rows, shape.columns] = covered
        shapes.append(shape)
    masks = mask_api.encode(np.asfortranarray(visible[: len(shapes)].transpose(1, 2, 0), np.uint8))
    return _Scene(int(height), int(width), shapes, masks)


def _random_shape(rng: np.random.Generator, height: int, width: int, image_size: int) -> _Shape:
    label = int(rng.integers(len(ShapesDataset.categories)))
    smallest, largest = SIZE_RANGE
    # Log-uniform: as many small objects as large ones, the small ones being the hard part.
    radius = image_size * smallest * (largest / smallest) ** rng.random() / 2
    center = rng.uniform(0.7 * radius, np.array([width, height]) - 0.7 * radius)
    points = center + radius * _outline(rng, label)

    left, top = np.maximum(np.floor(points.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)), [width, height]).astype(int)
    canvas = Image.new("L", ((right - left) * SUPERSAMPLING, (bottom - top) * SUPERSAMPLING))
    corners = (points - [left, top]) * SUPERSAMPLING
    ImageDraw.Draw(canvas).polygon(corners.ravel().tolist(), fill=255)
    coverage = np.asarray(canvas.reduce(SUPERSAMPLING))
    return _Shape(label, slice(top, bottom), slice(left, right), coverage)


def _outline(rng: np.random.Generator, label: int) -> np.ndarray:
    """Corners [points, 2] of a randomly turned and proportioned shape inside the unit circle."""
    turn = rng.uniform(0, 2 * math.pi)
    radii: np.ndarray | float = 1.0
    match ShapesDataset.categories[label].name:
        case "disc":
            angles = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        case "box":
            tilt = rng.uniform(-0.35, 0.35) + rng.integers(2) * math.pi / 2
            corner = math.atan(rng.uniform(0.5, 1.0))
            angles = tilt + np.array([corner, -corner, corner + math.pi, math.pi - corner])
        case "triangle":
            angles = turn + np.arange(3) * (2 * math.pi / 3) + rng.uniform(-0.3, 0.3, size=3)
        case "star":
            angles = turn + np.arange(10) * (math.pi / 5)
            radii = np.where(np.arange(10) % 2, rng.uniform(0.4, 0.52), 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _paint(rng: np.random.Generator, scene: _Scene) -> np.ndarray:
    base, accent = _background_colours(rng)
    blend = _texture(rng, scene.height, scene.width)
    # Colour planes first: numpy is several times slower along an innermost axis of three.
    canvas = _planes(base) + blend * (_planes(accent) - _planes(base))
    taken = [base, accent]
    for shape in scene.shapes:
        colour = _object_colour(rng, taken)
        taken.append(colour)
        window = canvas[:, shape.rows, shape.columns]
        alpha = shape.coverage * np.float32(1 / 255)
        window += alpha * (_shaded(rng, colour, *shape.coverage.shape) - window)
    canvas += rng.integers(-6, 6, size=blend.shape, dtype=np.int8, endpoint=True)
    pixels = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _planes(colour: Colour) -> np.ndarray:
    return np.array(colour, np.float32)[:, None, None]


def _shaded(rng: np.random.Generator, colour: Colour, height: int, width: int) -> np.ndarray:
    """The colour lit from one side, float32 [3, height, width]."""
    light = _ramp(rng.uniform(0, 2 * math.pi), height, width) / max(height, width)
    return _planes(colour) * (1 + 0.35 * light)


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return 255 * red, 255 * green, 255 * blue


def _background_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    """Two related, muted colours."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, 0.45), rng.uniform(0.25, 0.95)
    step = rng.uniform(0.1, 0.25) * (-1 if value > 0.6 else 1)
    return (
        _rgb(hue, saturation, value),
        _rgb(hue + rng.uniform(-0.1, 0.1), saturation * rng.uniform(0.5, 1.5), value + step),
    )


def _object_colour(rng: np.random.Generator, taken: list[Colour]) -> Colour:
    """A vivid colour, sampled without regard to the class, that differs from those taken."""
    candidates = rng.uniform([0, 0.35, 0.35], [1, 0.95, 1], size=(12, 3)).tolist()
    best, best_distance = taken[0], 0.0
    for colour in (_rgb(*candidate) for candidate in candidates):
        distance = min(math.dist(colour, other) for other in taken)
        if distance >= MIN_COLOUR_DISTANCE:
            return colour
        if distance > best_distance:
            best, best_distance = colour, distance
    return best


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A pattern in 0..1, float32 [height, width]: how much of the second colour each pixel has."""
    angle = rng.uniform(0, math.pi)
    period = rng.uniform(0.06, 0.25) * max(height, width)
    match rng.integers(5):
        case 0:
            ramp = _ramp(angle, height, width)
            return ramp / (2 * np.abs(ramp).max()) + 0.5
        case 1:
            distance = np.hypot(_ramp(0, height, width), _ramp(math.pi / 2, height, width))
            return distance / distance.max()
        case 2:
            return (_square_wave(_ramp(angle, height, width), period) + 1) / 2
        case 3:
            across = _square_wave(_ramp(angle, height, width), period)
            along = _square_wave(_ramp(angle + math.pi / 2, height, width), period)
            return (across * along + 1) / 2
        case _:
            cells = rng.random((int(height / period) + 2, int(width / period) + 2), np.float32)
            return np.asarray(Image.fromarray(cells).resize((width, height), Image.BICUBIC))


def _ramp(angle: float, height: int, width: int) -> np.ndarray:
    """Signed distance in pixels, along a direction, from the middle of the image."""
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = np.arange(height, dtype=np.float32) - (height - 1) / 2
    return np.float32(math.cos(angle)) * x + np.float32(math.sin(angle)) * y[:, None]


def _square_wave(distance: np.ndarray, period: float) -> np.ndarray:
    """A wave between -1 and 1 whose flanks are about a pixel wide, so that edges look smooth."""
    triangle = np.abs((distance / np.float32(period)) % 1 - np.float32(0.5)) - np.float32(0.25)
    return np.clip(triangle * np.float32(2 * period), -1, 1)


def write_coco(dataset: ShapesDataset, folder: Path, split: str) -> None:
    """Writes a split as annotations/instances_`split`.json and PNG images in `split`.

    Raises:
        UserError: the split is there already, or cannot be written.
    """
    content = dataset.ground_truth()
    images = [{**image, "file_name": f"{image['id']}.png"} for image in content["images"]]
    with writing(folder / split):
        (folder / split).mkdir(parents=True)
        for index, image in enumerate(images):
            Image.fromarray(dataset[index].image).save(folder / split / image["file_name"])
        write_annotations(folder, split, {**content, "images": images})


def main(arguments: list[str] | None = None) -> int:
    """Writes both splits; returns the exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    parser = Parser("jaxdet data shapes", __doc__)
    parser.add_argument("folder", type=local_path, help="the folder to write")
    parser.add_argument("--train-images", type=int, default=2000, help="default %(default)s")
    parser.add_argument("--val-images", type=int, default=100, help="default %(default)s")
    parser.add_argument(
        "--image-size", type=int, default=96, help="longest side in pixels; default %(default)s"
    )
    options = parser.parse_args(arguments)
    for split, count in (("train", options.train_images), ("val", options.val_images)):
        write_coco(ShapesDataset(split, count, options.image_size), options.folder, split)
    print(f"{options.folder}: {options.train_images} + {options.val_images} images")


if __name__ == "__main__":
    sys.exit(main())
