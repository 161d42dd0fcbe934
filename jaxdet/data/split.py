"""Splits a data set into training and validation images, or into k folds.

    jaxdet data split /data/my_set --val=0.2
    jaxdet data split /data/my_set --folds=5 --out=/data/my_set_folds

From a folder in COCO's format with one set of images. The first form writes /data/my_set_split,
whose validation data are a fifth of the images; the second FOLDER/fold0 ... fold4, in each of which
another fifth validates. Images are linked, not copied; /data/my_set is not changed.

The split is by image, and stratified: every class has its share of images on either side as nearly
as it can be, the rarest first. Files that are the same byte by byte stay on one side. It follows
from the images, their classes and --seed alone, not from the order in the file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.duplicates import copies
from jaxdet.data.fewshot import write_root
from jaxdet.errors import UserError
from jaxdet.flags import Parser, brief, count, listed, local_path, run_main, share

Document = dict[str, Any]
"""A COCO instances file's content."""


def assign(classes: Sequence[frozenset[int]], shares: Sequence[float], seed: int) -> list[int]:
    """Which part each of some images goes to, stratified by the classes on them.

    Iterative stratification (Sechidis et al., ECML 2011, algorithm 1): of the class with the fewest
    images left, each image goes to the part that misses that class most, among those to the part
    that misses images most, among those to a random one. Images without a class come last.

    Args:
        classes: of each image. An image may stand for several that stay together.
        shares: of each part; they sum to 1.
    """
    rng = np.random.default_rng(seed)
    known = sorted(set().union(*classes))
    wanted = {c: np.array(shares) * sum(c in each for each in classes) for c in known}
    room = np.array(shares) * len(classes)
    left = dict.fromkeys(rng.permutation(len(classes)).tolist())
    parts = [0] * len(classes)

    def place(image: int, missing: np.ndarray) -> None:
        best = np.flatnonzero(missing > missing.max() - 1e-9)
        best = best[room[best] > room[best].max() - 1e-9]
        part = int(rng.choice(best))
        parts[image] = part
        room[part] -= 1
        for each in classes[image]:
            wanted[each][part] -= 1
        del left[image]

    by_class = {c: sum(c in each for each in classes) for c in known}
    while by_class:
        rarest = min(by_class, key=lambda c: (by_class[c], c))
        for image in [image for image in left if rarest in classes[image]]:
            for each in classes[image]:
                if each in by_class:
                    by_class[each] -= 1
            place(image, wanted[rarest])
        del by_class[rarest]
    for image in list(left):
        place(image, room)
    return parts


def split_images(
    document: Document, shares: Sequence[float], seed: int, together: Sequence[Sequence[int]] = ()
) -> list[set[int]]:
    """The ids of the images of each part.

    Args:
        together: ids of images that go to the same part.
    """
    classes: dict[int, set[int]] = {image["id"]: set() for image in document["images"]}
    for annotation in document["annotations"]:
        classes[annotation["image_id"]].add(annotation["category_id"])
    groups = {image: {image} for image in sorted(classes)}
    for same in together:
        first, *others = sorted(same)
        for other in others:
            groups[first] |= groups.pop(other)
    of_group = [frozenset().union(*(classes[i] for i in group)) for group in groups.values()]
    parts: list[set[int]] = [set() for _ in shares]
    for group, part in zip(groups.values(), assign(of_group, shares, seed), strict=True):
        parts[part] |= group
    return parts


def of_images(document: Document, ids: set[int]) -> Document:
    """A data set of some of the images alone, with their objects and all classes."""
    return {
        **document,
        "images": [image for image in document["images"] if image["id"] in ids],
        "annotations": [a for a in document["annotations"] if a["image_id"] in ids],
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    options = _parser().parse_args(arguments)
    if options.folds is not None and options.folds < 2:
        raise UserError(f"--folds={options.folds} must be at least 2")
    if options.val is not None and options.val >= 1:
        raise UserError(f"--val={options.val:g} must be below 1")
    if options.seed < 0:
        raise UserError(f"--seed={options.seed} must be at least 0")
    file, images = _only_set(options.root)
    dataset = CocoDataset(file, images, masks=False, keep_ground_truth=True)
    document = dataset.ground_truth()
    together = [[dataset.image_ids[i] for i in same] for same in copies(dataset)]
    if together:
        doubled = sum(map(len, together)) - len(together)
        print(f"{doubled} image(s) are copies of others, byte by byte; they stay with them")
    if (options.folds or 0) > len(document["images"]):
        raise UserError(
            f"--folds={options.folds} must be at most {len(document['images'])}, the number of "
            f"images of {options.root}"
        )
    val = 0.2 if options.val is None else options.val
    shares = [1 / options.folds] * options.folds if options.folds else [val, 1 - val]
    parts = split_images(document, shares, options.seed, together)
    if not all(parts):
        raise UserError(
            f"{len(document['images'])} images cannot be split so that either side has one; "
            "give another --val, or fewer --folds"
        )
    name = "folds" if options.folds else "split"
    out = options.out or options.root.parent / f"{options.root.resolve().name}_{name}"
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(options.root)):
        raise UserError(f"--out={out} must lie outside of {options.root}, which is not changed")
    for fold, ids in enumerate(parts if options.folds else parts[:1]):
        folder = out / f"fold{fold}" if options.folds else out
        _write(folder, document, ids, images)


def _parser() -> Parser:
    parser = Parser("jaxdet data split", __doc__)
    parser.add_argument("root", type=local_path, help="a folder in COCO's format")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--val", type=share, help="share of the images that validate; default 0.2")
    kind.add_argument("--folds", type=count, help="write so many splits, for cross-validation")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument(
        "--out", type=local_path, help="the folder to write; default ROOT_split, or ROOT_folds"
    )
    return parser


def _only_set(root: Path) -> tuple[Path, Path]:
    """Annotation file and image folder of a data set that is not split yet."""
    found = find_coco(root, "train")
    try:
        val = find_coco(root, "val")
    except UserError:
        return found
    if val != found:
        raise UserError(
            f"{root} must hold one set of images to be split, and has validation data already "
            f"({val[0]}); train on it as it is"
        )
    return found


def _write(folder: Path, document: Document, val_ids: set[int], images: Path) -> None:
    """Writes one split, and says how its classes are spread."""
    train_ids = {image["id"] for image in document["images"]} - val_ids
    train, val = (of_images(document, ids) for ids in (train_ids, val_ids))
    write_root(folder, train, val, (images, images))
    print(f"{folder}: {len(train_ids)} training and {len(val_ids)} validation images")
    here, there = ({a["category_id"] for a in part["annotations"]} for part in (train, val))
    for what, missing in (("training", there - here), ("validation", here - there)):
        names = [c["name"] for c in document["categories"] if c["id"] in missing]
        if names:
            print(brief(f"  without {what} images: {listed(names, 8)}"))


if __name__ == "__main__":
    sys.exit(main())
