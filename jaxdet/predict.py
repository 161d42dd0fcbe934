"""A trained detector on pictures of any kind: drawings and detections, without its data set.

    python -m jaxdet.predict --workdir=runs/shapes_tiny street.jpg holiday/ 'more/*.png'

writes into <workdir>/predictions one drawing a picture; detections.json, all detections in COCO's
result layout, with the names of file and category; and images.json, in COCO's annotation layout,
which lists the pictures and categories these refer to. A converted detector without a run takes
--init and --config in place of the run:

    python -m jaxdet.predict --init=vitdet_b.npz --config=configs/vitdet_b_mae.py \\
        --categories=instances_val2017.json --out=seen street.jpg

Pictures that cannot be read are named and left out, and then the exit status is 1.

    python -m jaxdet.predict --workdir=runs/shapes_tiny --export=detector.stablehlo

writes the detector into one file instead, see `jaxdet.inference.export`. In Python:

    from jaxdet.predict import load
    detector = load("runs/shapes_tiny")
    detector.predict("street.jpg").show()
"""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxdet.config.files import load_config
from jaxdet.data.dataset import Category, LazyImage
from jaxdet.data.image import is_named_image, open_image
from jaxdet.errors import UserError
from jaxdet.files import write_json
from jaxdet.inference.coco_results import Results
from jaxdet.inference.detector import Detector, load, load_converted
from jaxdet.inference.export import write_exported
from jaxdet.inference.prediction import DRAWN_SCORE, Prediction


def find_images(arguments: Sequence[str]) -> list[Path]:
    """The files that names of files, folders and patterns stand for, each once.

    Of a folder, the files whose names say that they are pictures, in the order of their names.

    Raises:
        UserError: one of them stands for nothing, or is a folder that cannot be read.
    """
    paths: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            try:
                found = sorted(file for file in path.iterdir() if is_named_image(file))
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error}); give rights to it") from error
        elif path.exists():
            found = [path]
        else:
            matches = map(Path, sorted(glob.glob(argument, recursive=True)))
            found = [match for match in matches if match.is_file()]
        if not found:
            raise UserError(f"{argument} is no picture and no folder of pictures; correct the path")
        paths += found
    return list(dict.fromkeys(paths))


def write_predictions(
    detector: Detector, paths: Sequence[Path], out: Path, score: float
) -> tuple[int, Results]:
    """Writes the drawings, detections.json and images.json of pictures.

    Args:
        score: the least at which a detection is drawn; all are written.

    Returns:
        The number of pictures, and what was found on them. Pictures that cannot be read are named
        on stderr and left out.

    Raises:
        UserError: nothing could be read, `out` cannot be written, or it holds the pictures or
            files of the same names that this function has not written.
    """
    folders = {place.parent for path in paths for place in (path.absolute(), path.resolve())}
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise UserError(f"{out} holds the pictures themselves; choose another --out")
    taken = _files_of_others(out)
    images: list[dict[str, Any]] = []
    detections: Results = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for first in range(0, len(paths), detector.batch):
            readable = dict(_readable(paths[first : first + detector.batch]))
            predictions = detector.predict(list(readable.values()))
            for path, prediction in zip(readable, predictions, strict=True):
                image = _entry(path, prediction, len(images) + 1, _free_name(path.stem, taken))
                prediction.draw(score).save(out / image["drawing"])
                images.append(image)
                detections += [
                    {
                        **result,
                        "image_id": image["id"],
                        "file_name": image["file_name"],
                        "category_name": name,
                    }
                    for result, name in zip(prediction.results, prediction.names, strict=True)
                ]
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}); free space or rights") from error
    if not images:
        raise UserError(f"none of {len(paths)} pictures can be read; give others")
    categories = [category._asdict() for category in detector.categories]
    write_json(out / "detections.json", detections)
    write_json(out / "images.json", {"images": images, "categories": categories, "annotations": []})
    return len(images), detections


def _files_of_others(out: Path) -> set[str]:
    """Names in a folder, in small letters, beside those of earlier drawings.

    Raises:
        UserError: detections.json or images.json are another command's.
    """
    if not out.is_dir():
        return set()
    names = {path.name for path in out.iterdir()}
    drawings = set()
    try:
        if "images.json" in names:
            images = json.loads((out / "images.json").read_bytes())["images"]
            drawings = {image["drawing"] for image in images}
        elif "detections.json" in names:
            raise ValueError("detections.json stands alone")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{out} holds files of another command ({error!r}); choose another --out"
        ) from error
    return {name.lower() for name in names - drawings}


def _readable(paths: Sequence[Path]) -> Iterator[tuple[Path, LazyImage]]:
    """The pictures that can be decoded; says which cannot."""
    for path in paths:
        try:
            picture = open_image(path)
            picture.pixels()
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            yield path, picture


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
    """<stem>.png, or with a number where another file is called so; notes it."""
    name, number = f"{stem}.png", 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}.png"
    taken.add(name.lower())
    return name


def read_categories(path: Path) -> list[Category]:
    """The categories a JSON file in COCO's annotation layout lists, in the order of their ids.

    Raises:
        UserError: the file cannot be read, lists none, or gives two the same id.
    """
    try:
        listed = json.loads(path.read_bytes())["categories"]
        categories = sorted(Category(int(one["id"]), str(one["name"])) for one in listed)
        if not categories:
            raise ValueError("the list is empty")
        if len({category.id for category in categories}) < len(categories):
            raise ValueError("two of them have the same id")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} lists no categories ({error}); give a JSON file with "
            '{"categories": [{"id": 1, "name": "..."}, ...]}'
        ) from error
    return categories


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status (1: pictures were left out, 2: user's error)."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxdet.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="*", help="files, folders or patterns")
    parser.add_argument("--workdir", type=Path, help="of the run")
    parser.add_argument("--init", type=Path, help="a converted detector, in place of a run")
    parser.add_argument("--config", type=Path, help="of the converted detector")
    parser.add_argument("--categories", type=Path, help="a JSON file that lists its categories")
    parser.add_argument("--out", type=Path, help="default <workdir>/predictions, or predictions")
    parser.add_argument("--score", type=float, default=DRAWN_SCORE, help="least that is drawn")
    parser.add_argument("--batch", type=int, default=8, help="pictures at a time; default 8")
    parser.add_argument("--export", type=Path, help="write this StableHLO file, look at nothing")
    options = parser.parse_args(arguments)
    try:
        if options.export is not None:
            write_exported(_detector(options, options.batch), options.batch, options.export)
            return 0
        paths = find_images(options.images)
        if not paths:
            raise UserError("no picture is given; name files, folders or patterns")
        detector = _detector(options, min(options.batch, len(paths)))
        out = options.out or (options.workdir or Path()) / "predictions"
        pictures, detections = write_predictions(detector, paths, out, options.score)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; only drawings were written", file=sys.stderr)
        return 130
    print(
        f"{len(detections)} detections on {pictures} of {len(paths)} pictures, "
        f"{sum(found['score'] >= options.score for found in detections)} of them drawn "
        f"(score at least {options.score:g}), in {out}"
    )
    return int(pictures < len(paths))


def _detector(options: argparse.Namespace, batch: int) -> Detector:
    """The detector a command line names."""
    if options.workdir is not None and options.init is None:
        if options.config is not None or options.categories is not None:
            raise UserError(
                "a run knows its config and categories; leave out --config, --categories"
            )
        return load(options.workdir, batch=batch)
    if options.workdir is not None or options.init is None or options.config is None:
        raise UserError("give --workdir of a run, or --init and --config of a converted detector")
    categories = None if options.categories is None else read_categories(options.categories)
    config = load_config(options.config)
    return load_converted(options.init, config, categories, batch=batch)


if __name__ == "__main__":
    sys.exit(main())
