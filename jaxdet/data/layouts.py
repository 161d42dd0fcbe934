"""Where the tools that people annotate with put the files of a split.

A layout is found where its annotation file and its image folder are both there. Names of folders
of validation data are those of any tool: val, valid, validation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}

Pair = tuple[Path, Path]


def pairs(root: Path, split: str) -> list[Pair]:
    """The annotation files and image folders of the first layout that `root` has.

    In this order: COCO's and LVIS's own, with the flat folder that is both splits; Datumaro's and
    CVAT's (annotations/instances_train.json, images/train); Roboflow's
    (train/_annotations.coco.json beside its images); FiftyOne's (train/labels.json, train/data).
    Then what holds one set that is both splits: CVAT's (annotations/instances_default.json),
    FiftyOne's (labels.json, data), Label Studio's (result.json, images), the labelme converter's
    (annotations.json, JPEGImages) and the like.
    """
    for layout in (_coco, _lvis, _by_split, _single):
        found = [pair for pair in layout(root, split) if all(map(os.path.exists, pair))]
        found = [*dict.fromkeys(found)]
        if found:
            return found if layout is _coco else found[:1]
    return []


def _coco(root: Path, split: str) -> list[Pair]:
    flat = root / "instances.json", root / "images"
    if os.path.isfile(flat[0]) and os.path.isdir(flat[1]):
        return [flat]
    files = sorted((root / "annotations").glob(f"instances_{split}*.json"))
    return [(file, root / file.stem.removeprefix("instances_")) for file in files]


def _lvis(root: Path, split: str) -> list[Pair]:
    return [(folder / f"lvis_v1_{split}.json", root) for folder in (root / "annotations", root)]


def _by_split(root: Path, split: str) -> Iterator[Pair]:
    for name in SPLIT_NAMES[split]:
        images = [root / "images" / name, root / name / "images", root / name, root / "images"]
        for file in (f"instances_{name}.json", f"{name}.json"):
            for folder in (root / "annotations", root):
                yield from ((folder / file, place) for place in images)
        part = root / name
        for folder in (part / "data", part / "images", part):
            for file in ("_annotations.coco.json", "labels.json", *SINGLE_FILES):
                yield part / file, folder


SINGLE_FILES = (
    *("result.json", "annotations.json", "instances.json", "coco.json"),
    *("annotations/instances_default.json", "annotations/instances.json"),
)


def _single(root: Path, _split: str) -> Iterator[Pair]:
    if any(_has_split(root, split) for split in SPLIT_NAMES):
        return
    for file in ("_annotations.coco.json", "labels.json", *SINGLE_FILES):
        for folder in ("images/default", "images", "data", "JPEGImages", "."):
            yield root / file, root / folder


def _has_split(root: Path, split: str) -> bool:
    return any(os.path.isfile(file) for file, _ in _by_split(root, split))


def nearby_files(root: Path, most: int = 3) -> list[Path]:
    """JSON files at the places where annotation files lie, for a message."""
    found = [*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/*.json")]
    return sorted(dict.fromkeys(found))[:most]
