"""Detects on images of any kind and draws what is found; needs a run, not its data set.

    jaxdet predict --workdir=runs/shapes_tiny street.jpg holiday/ 'more/*.png'

writes into <workdir>/predictions one drawing an image; detections.json, all detections in COCO's
result layout, with the names of file and category; and images.json, in COCO's annotation layout,
which lists the images and categories these refer to. A converted detector without a run takes
--init and --config in place of the run, one that `jaxdet push` uploaded --init alone:

    jaxdet predict --init=vitdet_b.npz --config=configs/vitdet_b_mae.py \\
        --categories=instances_val2017.json --out=seen street.jpg
    jaxdet predict --init=hf://owner/name --out=seen street.jpg

Images that cannot be read are named and left out, and then the exit status is 1.

    jaxdet predict --workdir=runs/vitdet --set nms=soft_linear --set tta_sizes=896,1024,1152 *.jpg

detects with soft-NMS at three sizes, and mirrored at each, and merges what is found.

    jaxdet predict --workdir=runs/shapes_tiny --export=detector.stablehlo

writes the detector into one file instead, see `jaxdet.inference.export`. In Python:

    from jaxdet.predict import load
    detector = load("runs/shapes_tiny")
    detector.predict("street.jpg").show()
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdet.config.starts import is_pushed, start_of
from jaxdet.errors import UserError
from jaxdet.flags import Parser, local_path, run_main
from jaxdet.inference.prediction import DRAW_THRESHOLD

# What needs jax is imported late: it takes seconds, and --help and a wrong flag should not.
if TYPE_CHECKING:
    from jaxdet.inference.detector import Detector


def load(workdir: str | Path, *, batch: int = 1, keys: Mapping[str, str] | None = None) -> Detector:
    """The detector of a run's newest checkpoint, see `jaxdet.inference.detector.load`."""
    from jaxdet.inference import detector

    return detector.load(workdir, batch=batch, keys=keys)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status (1: images were left out, 2: user's error)."""
    return run_main(partial(_run, arguments))


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    if options.export is not None:
        detector = _detector(options, options.batch)
        from jaxdet.inference.export import write_exported

        write_exported(detector, options.batch, options.export)
        return 0
    from jaxdet.inference.prediction_files import find_images, write_predictions

    paths = find_images(options.images)
    if not paths:
        raise UserError("no image is given; name files, folders or patterns")
    detector = _detector(options, min(options.batch, len(paths)))
    out = options.out or (options.workdir or Path()) / "predictions"
    images, detections = write_predictions(detector, paths, out, options.score, options.orientation)
    print(
        f"{len(detections)} detections on {images} of {len(paths)} images, "
        f"{sum(found['score'] >= options.score for found in detections)} of them drawn "
        f"(score at least {options.score:g}), in {out}"
    )
    return int(images < len(paths))


def _parser() -> Parser:
    parser = Parser("jaxdet predict", __doc__)
    add = parser.add_argument
    add("images", nargs="*", help="files, folders or patterns")
    add("--workdir", type=local_path, help="of the run")
    add("--init", type=start_of, help="a converted detector or hf://owner/name, in place of a run")
    add("--config", help="of the converted detector")
    add("--categories", type=local_path, help="a JSON file that lists its categories")
    add("--out", type=local_path, help="default <workdir>/predictions, or predictions")
    add(
        "--score",
        type=float,
        default=DRAW_THRESHOLD,
        help=f"least that is drawn; default {DRAW_THRESHOLD}",
    )
    add(
        "--orientation",
        choices=("stored", "exif"),
        help="whether the camera's note is followed; default as the training data were read",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of config.model.detector, such as nms=soft_linear or tta_sizes=896,1024",
    )
    add("--batch", type=int, default=8, help="images at a time; default 8")
    add("--export", type=local_path, help="write this StableHLO file and detect on nothing")
    return parser


def _test_keys(given: Sequence[str]) -> dict[str, str]:
    for each in given:
        if "=" not in each:
            raise UserError(f"--set={each} must be KEY=VALUE, such as --set=nms=soft_linear")
    return dict(each.split("=", 1) for each in given)


def _detector(options: argparse.Namespace, batch: int) -> Detector:
    """The detector that a command line names."""
    keys = _test_keys(options.set)
    if options.workdir is not None and options.init is None:
        if options.config is not None or options.categories is not None:
            raise UserError(
                "a run has its config and categories; leave out --config and --categories"
            )
        return load(options.workdir, batch=batch, keys=keys)
    is_run = options.workdir is not None or options.init is None
    if not is_run and options.config is None and is_pushed(options.init):
        if options.categories is not None:
            raise UserError(f"{options.init} has its categories; leave out --categories")
        return load(options.init, batch=batch, keys=keys)
    if is_run or options.config is None:
        raise UserError("give --workdir of a run, or --init and --config of a converted detector")
    from jaxdet.config.files import load_config
    from jaxdet.inference.detector import load_converted
    from jaxdet.inference.prediction_files import read_categories

    categories = None if options.categories is None else read_categories(options.categories)
    config = load_config(options.config)
    return load_converted(options.init, config, categories, batch=batch, keys=keys)


if __name__ == "__main__":
    sys.exit(main())
