"""The files of `jaxdet predict`: images as a command line names them, drawings, detections."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxdet.data.dataset import Category, LazyImage
from jaxdet.data.image import find_images as find_images_of
from jaxdet.data.image import open_image
from jaxdet.errors import UserError
from jaxdet.files import read_file, write_json
from jaxdet.inference.coco_results import Results
from jaxdet.inference.detector import Detector
from jaxdet.inference.prediction import Prediction

ANY_FOLDERS = re.compile(r"(?:^|/)\*\*(?:/|$)")


def find_images(arguments: Sequence[str]) -> list[Path]:
    """The files that names of files, folders and patterns stand for, each once.

    Of a folder, the files whose names are those of images, in the order of their names.

    Raises:
        UserError: one of them matches nothing, or is a folder that cannot be read.
    """
    paths: list[Path] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        try:
            if path.is_dir():
                found = find_images_of(path)
            elif path.exists():
                found = [path]
            else:
                found = [
                    match for match in map(Path, sorted(_matches(str(path)))) if match.is_file()
                ]
        except OSError as error:
            raise UserError(
                f"{argument:.200} cannot be read ({error.strerror}); correct the path or its rights"
            ) from error
        if not found:
            raise UserError(f"{argument} must be an image or a folder of images; correct the path")
        paths += found
    return list(dict.fromkeys(paths))


def _matches(pattern: str) -> list[str]:
    """What a pattern stands for, in which ** is any folders; links that lead in a circle end."""
    stars = ANY_FOLDERS.search(pattern)
    if stars is None:
        return glob.glob(pattern)
    start = pattern[: stars.start()] or ("/" if pattern.startswith("/") else ".")
    rest = pattern[stars.end() :] or "*"
    return [
        match
        for first in glob.glob(start)
        for folder in _folders(first)
        for match in _matches(os.path.join(glob.escape(folder), rest))
    ]


def _folders(start: str) -> Iterator[str]:
    """A folder and all in it that are not hidden, each once, however many links lead there."""
    seen: set[str] = set()
    for folder, inner, _ in os.walk(start, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield folder


def write_predictions(
    detector: Detector,
    paths: Sequence[Path],
    out: Path,
    score: float,
    orientation: str | None = None,
) -> tuple[int, Results]:
    """Writes the drawings, detections.json and images.json of images.

    Args:
        score: the least at which a detection is drawn; all are written.
        orientation: see `Detector.predict`.

    Returns:
        The number of images, and what was found on them. Images that cannot be read are named on
        stderr and left out.

    Raises:
        UserError: nothing could be read, `out` cannot be written, or it holds the images or files
            of the same names that this function has not written.
    """
    folders = {form for path in paths for form in (path.parent, os.path.dirname(_real(path)))}
    if _real(out) in map(_real, folders):
        raise UserError(f"{out} holds the images themselves; choose another --out")
    orientation = orientation or detector.orientation
    taken = _files_of_others(out)
    images: list[dict[str, Any]] = []
    found: list[Results] = []
    for first in range(0, len(paths), detector.at_once):
        readable = dict(_readable(paths[first : first + detector.at_once], orientation))
        predictions = detector.predict(list(readable.values()))
        for path, prediction in zip(readable, predictions, strict=True):
            images.append(_entry(path, prediction, len(images) + 1, _free_name(path.stem, taken)))
            found.append(prediction.results)
    if not images:
        raise UserError(f"none of {len(paths)} images can be read; give others")
    names = {category.id: category.name for category in detector.categories}
    detections = [
        {
            **result,
            "image_id": image["id"],
            "file_name": image["file_name"],
            "category_name": names[result["category_id"]],
        }
        for image, results in zip(images, found, strict=True)
        for result in results
    ]
    categories = [category._asdict() for category in detector.categories]
    try:
        # Numbers before drawings: these take long, and may not fit.
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "detections.json", detections)
        write_json(
            out / "images.json", {"images": images, "categories": categories, "annotations": []}
        )
        for image, results in zip(images, found, strict=True):
            pixels = open_image(Path(image["file_name"]), orientation).pixels()
            drawing = Prediction(pixels, results, detector.categories).draw(score)
            drawing.save(out / image["drawing"])
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}); free space or rights") from error
    return len(images), detections


def _real(path: str | Path) -> str:
    """Where links lead; unlike `Path.resolve`, those in a circle are no error."""
    return os.path.realpath(path)


def _files_of_others(out: Path) -> set[str]:
    """The lowercase names in a folder, without those of earlier drawings.

    Raises:
        UserError: another command wrote its detections.json or images.json.
    """
    if not out.is_dir():
        return set()
    names = {path.name for path in out.iterdir()}
    drawings = set()
    try:
        if "images.json" in names:
            images = json.loads(read_file(out / "images.json"))["images"]
            drawings = {image["drawing"] for image in images}
        elif "detections.json" in names:
            raise ValueError("detections.json stands alone")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{out} holds files of another command ({error!r}); choose another --out"
        ) from error
    return {name.lower() for name in names - drawings}


def _readable(paths: Sequence[Path], orientation: str) -> Iterator[tuple[Path, LazyImage]]:
    """The images that can be decoded; prints which cannot."""
    for path in paths:
        try:
            image = open_image(path, orientation)
            image.pixels()
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            yield path, image


def _entry(path: Path, prediction: Prediction, image_id: int, drawing: str) -> dict[str, Any]:
    height, width = prediction.image.shape[:2]
    return {
        "id": image_id,
        "file_name": str(path),
        "height": height,
        "width": width,
        "drawing": drawing,
    }


def _free_name(stem: str, taken: set[str]) -> str:
    """<stem>.png, numbered where that name is taken; takes it."""
    name, number = f"{stem}.png", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}.png"
    taken.add(name.lower())
    return name


def read_categories(path: Path) -> list[Category]:
    """The categories of a JSON file in COCO's annotation layout, in the order of their ids.

    Raises:
        UserError: the file cannot be read, lists none, or gives two the same id.
    """
    try:
        listed = json.loads(read_file(path))["categories"]
        categories = sorted(Category(int(one["id"]), str(one["name"])) for one in listed)
        if not categories:
            raise ValueError("the list is empty")
        if len({category.id for category in categories}) < len(categories):
            raise ValueError("two of them have the same id")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} lists no categories ({error}); give a JSON file with "
            '{"categories": [{"id": 1, "name": "..."}, ...]}'
        ) from error
    return categories
