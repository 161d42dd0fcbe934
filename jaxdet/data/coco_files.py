"""COCO folders: where the files of a split lie, whether its images are there, and writing them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from jaxdet.data.coco_annotations import OnError
from jaxdet.data.layouts import nearby_files, pairs
from jaxdet.data.spellings import Spellings
from jaxdet.errors import UserError


def find_coco(
    root: str | Path | None,
    split: str,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
) -> tuple[Path, Path]:
    """Finds the annotation file and the image folder of one split.

    Looked for, in this order: `root`/instances.json with `root`/images, then
    `root`/annotations/instances_`split`*.json with the folder `root`/`split`* of the same ending
    (instances_train2017.json with train2017), as the COCO downloads unpack; then
    `root`/annotations/lvis_v1_`split`.json or `root`/lvis_v1_`split`.json, whose images lie in the
    folders of COCO beside it; then the layouts of annotation tools, see `jaxdet.data.layouts`.

    Args:
        root: the data set's folder; None where file and folder are given.
        split: "train" or "val".
        annotations: the file itself, where it lies elsewhere; `images` must be given too.
        images: the folder itself; `annotations` must be given too.

    Raises:
        UserError: nothing, or more than one pair, was found; names the places looked at.
    """
    if annotations and images:
        return Path(annotations), Path(images)
    if annotations or images:
        raise UserError(
            f"only one of annotation file and image folder is given for the {split} data; set both "
            f"config.data.{split}_annotations and config.data.{split}_images"
        )
    if not root:
        raise UserError(f"no folder is given for the {split} data; set config.data.root")
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; set config.data.root to the COCO folder")
    found = pairs(root, split)
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(str(file) for file, _ in found)
        raise UserError(f"{root} holds several {split} sets: {names}; name file and folder of one")
    nearby = ", ".join(str(file.relative_to(root)) for file in nearby_files(root))
    raise UserError(
        f"{root} holds no {split} set: looked for {root / 'instances.json'} with "
        f"{root / 'images'}, {root / 'annotations' / f'instances_{split}*.json'} with "
        f"{root / f'{split}*'}, and the folders of annotation tools"
        + (f"; it has {nearby}" if nearby else "")
        + f"; name the files: config.data.{split}_annotations and config.data.{split}_images"
    )


@dataclass(frozen=True)
class ImageFiles:
    """The files of a list of names in a folder.

    Attributes:
        names: as they are on the disk.
        unusable: positions of those that are missing or not inside the folder.
        respelled: positions of those that are spelled otherwise than listed.
    """

    names: list[str]
    unusable: set[int]
    respelled: list[int]


def find_files(
    root: Path, file_names: list[str], annotations: Path, on_error: OnError
) -> ImageFiles:
    """Finds image files, by listing folders and not by asking file by file.

    A name that is not there may be spelled otherwise on the disk: with the other slashes, under the
    folder's own name, in another Unicode form or letter case, or, as Label Studio writes names,
    under folders of the machine that exported it. Taken is what only one file can be.
    """
    if not os.path.isdir(root):
        on_error(f"{root}: no such image folder; set the folder {annotations} belongs to")
        return ImageFiles(file_names, set(range(len(file_names))), [])
    missing, outside = _missing_and_outside(root, file_names)
    names, respelled = list(file_names), []
    if missing or outside:
        spellings = Spellings(root)
        for position in sorted({*missing, *outside}):
            name = spellings.find(file_names[position])
            if name is not None:
                names[position] = name
                respelled.append(position)
        unfound = {*missing, *outside} - {*respelled}
        wrong = _missing_and_outside(root, [names[position] for position in respelled])
        unfound |= {respelled[position] for part in wrong for position in part}
        respelled = [position for position in respelled if position not in unfound]
        missing = [position for position in missing if position in unfound]
        outside = [position for position in unfound if position not in missing]
    for position in sorted(outside):
        on_error(
            f"{annotations} names the image file {file_names[position]!r}, which leads out of "
            f"{root}; keep images inside the folder and name them relative to it"
        )
    if missing:
        on_error(
            f"{len(missing)} of {len(file_names)} images that {annotations} lists are not in "
            f"{root} (first: {file_names[min(missing)]}); set the right image folder or complete it"
        )
    return ImageFiles(names, {*missing, *outside}, respelled)


def _missing_and_outside(root: Path, file_names: list[str]) -> tuple[list[int], list[int]]:
    real_root = os.path.realpath(root)
    by_folder: dict[PurePosixPath, list[tuple[int, str]]] = {}
    missing, outside = [], []
    for position, file_name in enumerate(file_names):
        path = PurePosixPath(file_name)
        if path.is_absolute() or ".." in path.parts or PureWindowsPath(file_name).anchor:
            outside.append(position)
        else:
            by_folder.setdefault(path.parent, []).append((position, path.name))
    for folder, files in by_folder.items():
        if not _is_inside(root / folder, real_root):
            outside += [position for position, _ in files]
            continue
        try:
            with os.scandir(root / folder) as entries:
                is_link = {entry.name: entry.is_symlink() for entry in entries}
        except OSError:
            is_link = {}
        for position, name in files:
            if name not in is_link:
                missing.append(position)
            elif is_link[name] and not _is_inside(root / folder / name, real_root):
                outside.append(position)
            elif is_link[name] and not os.path.exists(root / folder / name):
                missing.append(position)
    return missing, outside


def _is_inside(path: Path, real_root: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(real_root)


def write_annotations(root: Path, split: str, document: dict[str, Any]) -> None:
    """Writes a split's annotation file where `find_coco` looks for it."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(json.dumps(document), encoding="utf-8")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Writing into a folder: what goes wrong with its files is a UserError."""
    try:
        yield
    except FileExistsError as error:
        raise UserError(f"{folder} is there already; name another folder, or remove it") from error
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}); free space or rights") from error
