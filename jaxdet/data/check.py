"""Reports everything that is wrong with a COCO data set, in one go.

    jaxdet data check /data/my_set
    jaxdet data check train.json train_images val.json val_images

Takes a folder, or annotation files each with its image folder: those of the training data, then
those of the validation data, which may be left out. Reads the annotations and decodes every image.
What would stop a training run, or make it pointless, is an error with its fix; what is probably not
meant is a warning; what would be left out is counted. The exit status is 1 if there are errors.
"""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.dataset import category_difference
from jaxdet.data.doubts import EXAMPLES, SAME_IMAGES, Doubt
from jaxdet.data.duplicates import duplicates
from jaxdet.data.image import UNUSUAL, unusual
from jaxdet.errors import UserError
from jaxdet.flags import Parser, local_path, run_main

SHOWN_KINDS = 50
SPLITS = ("train", "val")

Pair = tuple[Path, Path]


class Report(NamedTuple):
    """What is found in an annotation file and its images.

    Attributes:
        dataset: the set, opened.
        doubts: about the whole of it.
        errors: one sentence for everything that makes it unusable.
    """

    dataset: CocoDataset
    doubts: list[Doubt]
    errors: list[str]


def check(annotations: Path, images: Path, orientation: str = "stored") -> Report:
    """Checks one set.

    Raises:
        UserError: the annotation file cannot be read at all.
    """
    errors: list[str] = []
    dataset = CocoDataset(annotations, images, on_error=errors.append, orientation=orientation)
    doubts = dataset.doubts()
    if not dataset.report.objects and dataset.report.box_only:
        only_boxes = CocoDataset(annotations, images, lambda _error: None, masks=False)
        doubts = [doubts[0]._replace(is_error=False), *only_boxes.doubts()]
    kinds: dict[str, list[str]] = defaultdict(list)

    def decode(index: int) -> tuple[str, str | None, list[str]]:
        path, _ = dataset.file(index)
        try:
            dataset[index].lazy_image.pixels()
        except UserError as error:
            return path.name, str(error), []
        return path.name, None, unusual(path)

    indices = [index for index in range(len(dataset)) if index not in dataset.unusable]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, error, found in tqdm(
            pool.map(decode, indices), total=len(indices), unit="images", leave=False
        ):
            errors += [error] if error is not None else []
            for kind in found:
                kinds[kind].append(name)
    for kind, names in kinds.items():
        claim = f"{len(names)} of {len(dataset)} images {kind}"
        doubts.append(Doubt(claim, UNUSUAL[kind], tuple(names[:EXAMPLES])))
    return Report(dataset, doubts, errors)


def check_splits(pairs: dict[str, Pair], orientation: str) -> tuple[list[str], list[str]]:
    """Checks the sets of both splits, prints what they hold; returns the warnings and errors."""
    reports: dict[str, Report] = {}
    warnings: list[str] = []
    errors: list[str] = []
    for split, pair in pairs.items():
        if pair in [pairs[other] for other in reports]:
            warnings.append(SAME_IMAGES)
            continue
        try:
            reports[split] = check(*pair, orientation)
        except UserError as error:
            errors.append(str(error))
            continue
        print(reports[split].dataset.summary())
        for doubt in reports[split].doubts:
            (errors if doubt.is_error else warnings).append(f"{pair[0]}: {doubt}")
        errors += reports[split].errors
    if len(reports) == len(SPLITS):
        train, val = (reports[split].dataset for split in SPLITS)
        difference = category_difference(train.categories, val.categories)
        errors += [difference] if difference is not None else []
        warnings += [str(doubt) for doubt in duplicates(train, val)]
    return warnings, errors


def main(arguments: list[str] | None = None) -> int:
    """Prints the report; returns the exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    parser = Parser("jaxdet data check", __doc__)
    parser.add_argument(
        "paths",
        type=local_path,
        nargs="+",
        metavar="path",
        help="a folder, or annotation files each with its image folder",
    )
    parser.add_argument(
        "--orientation",
        choices=("stored", "exif"),
        default="stored",
        help="config.data.orientation",
    )
    options = parser.parse_args(arguments)
    pairs, errors = _pairs(options.paths)
    warnings, found = check_splits(pairs, options.orientation)
    errors += found
    _print("warning", warnings)
    _print("error", errors)
    if warnings:
        print(f"{len(warnings)} warnings" if len(warnings) > 1 else "1 warning")
    print(f"{len(errors)} errors" if errors else "no errors")
    return 1 if errors else 0


def _pairs(paths: list[Path]) -> tuple[dict[str, Pair], list[str]]:
    """Annotation file and image folder of each split, and what is wrong with finding them."""
    if len(paths) in (2, 4):
        files, folders = paths[::2], paths[1::2]
        return dict(zip(SPLITS, zip(files, folders, strict=True), strict=False)), []
    if len(paths) != 1:
        raise UserError(
            f"{len(paths)} paths are given; give one folder, or one or two annotation files each "
            "with its image folder"
        )
    pairs, errors = {}, []
    for split in SPLITS:
        try:
            pairs[split] = find_coco(paths[0], split)
        except UserError as error:
            errors.append(str(error))
    return pairs, errors


def _print(level: str, sentences: list[str]) -> None:
    """Sentences of one kind together, of each kind the first."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for sentence in sentences:
        kinds[re.sub(r"'[^']*'|\S*[/\\]\S+|\S+\.\w+|\[?\d+\]?", "*", sentence)].append(sentence)
    for alike in list(kinds.values())[:SHOWN_KINDS]:
        for sentence in alike[:EXAMPLES]:
            print(f"{level}: {sentence}")
        if len(alike) > EXAMPLES:
            print(f"{level}: and {len(alike) - EXAMPLES} more like the last")
    if len(kinds) > SHOWN_KINDS:
        print(f"and {len(kinds) - SHOWN_KINDS} more kinds")


if __name__ == "__main__":
    sys.exit(main())
