"""Reports everything that is wrong with a COCO folder, in one go.

    jaxdet data check /data/my_set

Reads the annotations and decodes every image. What would stop a training run is listed as an error
with its fix; what would be left out is counted. The exit status is 1 if there are errors.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.errors import UserError
from jaxdet.flags import Parser, local_path, run_main

SHOWN_ERRORS = 50


def check(annotations: Path, images: Path) -> tuple[str, list[str]]:
    """What a set holds, and one sentence for everything that makes it unusable.

    Raises:
        UserError: the annotation file cannot be read at all.
    """
    errors: list[str] = []
    dataset = CocoDataset(annotations, images, on_error=errors.append)

    def decode(index: int) -> str | None:
        try:
            dataset[index].lazy_image.pixels()
        except UserError as error:
            return str(error)
        return None

    indices = [index for index in range(len(dataset)) if index not in dataset.unusable]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = tqdm(pool.map(decode, indices), total=len(indices), unit="images", leave=False)
        errors += [error for error in found if error is not None]
    return dataset.summary(), errors


def main(arguments: list[str] | None = None) -> int:
    """Prints the report; returns the exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> int:
    parser = Parser("jaxdet data check", __doc__)
    parser.add_argument("folder", type=local_path, help="a folder in COCO's layout")
    options = parser.parse_args(arguments)
    found, errors = {}, []
    for split in ("train", "val"):
        try:
            found[find_coco(options.folder, split)] = split
        except UserError as error:
            errors.append(str(error))
    for pair in found:
        try:
            summary, faults = check(*pair)
        except UserError as error:
            errors.append(str(error))
        else:
            print(summary)
            errors += faults
    for error in errors[:SHOWN_ERRORS]:
        print(f"error: {error}")
    if len(errors) > SHOWN_ERRORS:
        print(f"and {len(errors) - SHOWN_ERRORS} more")
    print(f"{len(errors)} errors" if errors else "no errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
