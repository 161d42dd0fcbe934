"""Images that two sets share, by the content of their files."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxdet.data.coco import CocoDataset
from jaxdet.data.doubts import EXAMPLES, Doubt
from jaxdet.files import read_file


def duplicates(train: CocoDataset, val: CocoDataset) -> list[Doubt]:
    """Whether validation images are among the training images, byte by byte.

    Only files of a size that both sets have are read.
    """
    by_size = [_by_size(dataset) for dataset in (train, val)]
    shared_sizes = by_size[0].keys() & by_size[1].keys()
    candidates = [
        [dataset.file(index)[0] for size in shared_sizes for index in sizes[size]]
        for dataset, sizes in zip((train, val), by_size, strict=True)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = [list(pool.map(_digest, paths)) for paths in candidates]
    trained = dict(zip(digests[0], candidates[0], strict=True))
    found = [
        f"{path.name} is {trained[digest].name}"
        for path, digest in sorted(zip(candidates[1], digests[1], strict=True))
        if digest is not None and digest in trained
    ]
    if not found:
        return []
    claim = f"{len(found)} of {len(val)} validation images are training images too"
    fix = "remove them from one of the two: AP on training images is not accuracy"
    return [Doubt(claim, fix, tuple(found[:EXAMPLES]))]


def _by_size(dataset: CocoDataset) -> dict[int, list[int]]:
    """Positions of the usable images of a set by the size of their files in bytes."""
    found = defaultdict(list)
    for index in range(len(dataset)):
        if index not in dataset.unusable:
            found[dataset.file(index)[0].stat().st_size].append(index)
    return found


def _digest(path: Path) -> bytes | None:
    """Of the file's content; None where it cannot be read, or is a pipe, a device or a folder."""
    try:
        return hashlib.blake2b(read_file(path), digest_size=16).digest()
    except OSError:
        return None


def copies(dataset: CocoDataset) -> list[tuple[int, ...]]:
    """Positions of the images of a set that are the same file, byte by byte, copy beside copy.

    Only files of a size that occurs twice are read.
    """
    by_size = _by_size(dataset).values()
    candidates = [index for same in by_size if len(same) > 1 for index in same]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(_digest, [dataset.file(index)[0] for index in candidates])
        by_digest = defaultdict(list)
        for index, digest in zip(candidates, digests, strict=True):
            by_digest[digest or index].append(index)
    return [tuple(same) for same in by_digest.values() if len(same) > 1]
