"""Builds a COCO-format set once into ArrayRecord files, for large runs.

    jaxdet data prepare /data/coco /data/coco_prepared
    jaxdet train --config=... --config.data.root=/data/coco_prepared

The result is the TensorFlow Datasets builder `coco_instances`, so that
`tfds.builder("coco_instances", data_dir="/data/coco_prepared")` reads it too: images as the bytes
of their files, outlines as JSON text (polygons or run-length codes), crowd flags and ids. Training
reads it without TensorFlow and without tensorflow-datasets.

Shards are written side by side by worker processes, each whole or not at all; after an
interruption the same command resumes where it stopped. Every image is decoded once on the way, and
at the end every shard is counted and its checksum compared with what was written.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_annotations import AnnotationFile
from jaxdet.data.coco_files import find_coco, writing
from jaxdet.data.dataset import RLE
from jaxdet.data.image import EncodedImage
from jaxdet.data.prepared import (
    NAME,
    VERSION,
    description_file,
    ground_truth_file,
    index_file,
    record_file,
)
from jaxdet.errors import UserError
from jaxdet.files import read_file
from jaxdet.flags import Parser, local_path, run_main

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

IMAGES_PER_SHARD = 1000


class Entry(NamedTuple):
    """An image's file and size, and what else goes into its record."""

    path: Path
    hw: tuple[int, int]
    fields: dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """A file to be made of consecutive images.

    Attributes:
        fingerprint: changes with the annotations, the number of images in a shard, and the size or
            time of one of its image files.
    """

    path: Path
    fingerprint: str
    entries: Sequence[Entry]
    annotations: str
    categories: tuple[str, ...]
    orientation: str

    @property
    def receipt(self) -> Path:
        """The file that says what was written; it is there before the shard is."""
        return self.path.with_name(f"{self.path.name}.json")


def prepare(
    annotations: Path,
    images: Path,
    target: Path,
    split: str,
    *,
    workers: int,
    images_per_shard: int = IMAGES_PER_SHARD,
    orientation: str = "stored",
) -> str:
    """Builds one split under `target`, or resumes building it; returns what it holds.

    Args:
        orientation: "stored" or "exif", as the images were annotated; training follows it.

    Raises:
        UserError: the set has a fault, tensorflow-datasets is not installed, a file cannot be
            written, or a shard is not what was written.
    """
    tfds = _tfds()
    dataset = CocoDataset(annotations, images, orientation=orientation)
    folder = target / NAME / VERSION
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shards = _shards(dataset, annotations, folder, split, images_per_shard, orientation)
        receipts = _write_all(shards, workers, f"{split}: {len(dataset)} images")
        count = sum(receipt["records"] for receipt in receipts)
        if count != len(dataset):
            raise UserError(f"{folder} has {count} records of {len(dataset)} images; remove it")
        _write_side_files(dataset, folder, split, receipts, shards)
        _write_metadata(tfds, folder, split, dataset, receipts)
    size = sum(receipt["bytes"] for receipt in receipts)
    return (
        f"{split}: {count} records in {len(shards)} shards, {size / 1e9:.2f} GB, counts and "
        f"checksums verified; {dataset.findings()}"
    )


def _shards(
    dataset: CocoDataset,
    annotations: Path,
    folder: Path,
    split: str,
    images_per_shard: int,
    orientation: str,
) -> list[Shard]:
    entries = _entries(dataset, AnnotationFile.read(annotations))
    count = math.ceil(len(entries) / images_per_shard)
    parts = [
        entries[number * images_per_shard : (number + 1) * images_per_shard]
        for number in range(count)
    ]
    return [
        Shard(
            folder / record_file(split, number, count),
            f"{dataset.annotations_sha256}, {images_per_shard} images a shard, "
            f"files {_files_digest(part)}{'' if orientation == 'stored' else f', {orientation}'}",
            part,
            str(annotations),
            tuple(category.name for category in dataset.categories),
            orientation,
        )
        for number, part in enumerate(parts)
    ]


def _files_digest(entries: Sequence[Entry]) -> str:
    """Of the sizes and times of image files, which tell of one that was replaced."""
    digest = hashlib.sha256()
    for entry in entries:
        found = entry.path.stat()
        digest.update(f"{entry.path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _entries(dataset: CocoDataset, file: AnnotationFile) -> list[Entry]:
    objects: list[list[dict[str, Any]]] = [[] for _ in range(len(dataset))]
    for annotation in file.annotations():
        objects[annotation.image].append(
            {
                "id": annotation.raw.get("id") or 0,
                "box": list(annotation.corners),
                "label": annotation.label,
                "is_crowd": annotation.is_crowd,
                "segmentation": _segmentation_text(
                    annotation.segmentation if annotation.has_mask else None
                ),
            }
        )
    return [
        Entry(
            *dataset.file(index),
            {"image/id": image_id, "image/file_name": file_name, "objects": of_image},
        )
        for index, (image_id, file_name, of_image) in enumerate(
            zip(dataset.image_ids, file.file_names(), objects, strict=True)
        )
    ]


def _has_box(annotation: dict[str, Any]) -> bool:
    """Whether an object of a record has a box with a size, and is no crowd region."""
    x1, y1, x2, y2 = annotation["box"]
    return not annotation["is_crowd"] and x2 > x1 and y2 > y1


def _segmentation_text(segmentation: list[list[float]] | RLE | None) -> str:
    """JSON; an empty text where there is no usable segmentation."""
    if segmentation is None:
        return ""
    if isinstance(segmentation, dict):
        segmentation = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
    return json.dumps(segmentation)


def _write_all(shards: list[Shard], workers: int, title: str) -> list[dict[str, Any]]:
    """Writes what is missing of the shards and verifies all of them; their receipts."""
    receipts = []
    with (
        tqdm(total=sum(len(shard.entries) for shard in shards), desc=title, unit="images") as bar,
        ProcessPoolExecutor(min(workers, len(shards)), mp_context=get_context("spawn")) as pool,
    ):
        try:
            for shard, receipt in zip(shards, pool.map(_make_shard, shards), strict=True):
                receipts.append(receipt)
                bar.update(len(shard.entries))
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory?); the same command with fewer --workers "
                "resumes where it stopped"
            ) from error
    return receipts


def _make_shard(shard: Shard) -> dict[str, Any]:
    """Writes a shard unless it is there whole; its receipt, by which count and checksum hold."""
    receipt = _receipt_of(shard)
    if receipt is None:
        _write_shard(shard)
        receipt = _receipt_of(shard)
    if receipt is None:
        raise UserError(f"{shard.path} cannot be read back as written; check the disk")
    return receipt


def _receipt_of(shard: Shard) -> dict[str, Any] | None:
    """The receipt of a shard that is current and undamaged; None where it is not."""
    try:
        receipt = json.loads(read_file(shard.receipt))
        measured = _measure(shard.path)
    except (OSError, ValueError):
        return None
    expected = measured | {"fingerprint": shard.fingerprint, "records": len(shard.entries)}
    return receipt if receipt.items() >= expected.items() else None


def _write_shard(shard: Shard) -> None:
    features = _features(shard.categories)
    partial = shard.path.with_name(f"{shard.path.name}.partial")
    shard.path.unlink(missing_ok=True)
    # Records are read one by one in random order, and JPEGs do not get smaller.
    writer = ArrayRecordWriter(str(partial), "group_size:1,uncompressed")
    payload = 0
    for entry in shard.entries:
        # Decoded once, so that training meets no broken file.
        EncodedImage(
            entry.hw, entry.path, str(entry.path), shard.annotations, shard.orientation
        ).pixels()
        record = features.serialize_example({"image": read_file(entry.path), **entry.fields})
        payload += len(record)
        writer.write(record)
    writer.close()
    receipt = {"fingerprint": shard.fingerprint, "payload": payload, **_measure(partial)}
    shard.receipt.write_text(json.dumps(receipt))
    os.replace(partial, shard.path)


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        reader = ArrayRecordReader(str(path))
        records = reader.num_records()
        reader.close()
    except (ValueError, RuntimeError):
        records = 0
    return {"records": records, "bytes": path.stat().st_size, "sha256": digest}


def _write_side_files(
    dataset: CocoDataset,
    folder: Path,
    split: str,
    receipts: list[dict[str, Any]],
    shards: list[Shard],
) -> None:
    labels = [dataset.labels(index) for index in range(len(dataset))]
    box_labels = [
        [annotation["label"] for annotation in entry.fields["objects"] if _has_box(annotation)]
        for shard in shards
        for entry in shard.entries
    ]
    np.savez(
        index_file(folder, split),
        image_ids=np.array(dataset.image_ids, np.int64),
        sizes=np.array([dataset.file(index)[1] for index in range(len(dataset))], np.int32),
        has_objects=np.array([dataset.has_objects(index) for index in range(len(dataset))]),
        labels=_joined(labels),
        label_ends=_ends(labels),
        has_boxes=np.array([len(each) > 0 for each in box_labels]),
        box_labels=_joined(box_labels),
        box_label_ends=_ends(box_labels),
        is_background=np.array([dataset.is_background(index) for index in range(len(dataset))]),
    )
    truth = json.dumps(dataset.ground_truth())
    ground_truth_file(folder, split).write_text(truth, encoding="utf-8")
    description = {
        "categories": dataset.categories,
        "shards": len(receipts),
        "sha256": [receipt["sha256"] for receipt in receipts],
        "summary": dataset.findings(),
        "annotations_sha256": dataset.annotations_sha256,
        "orientation": shards[0].orientation,
    }
    description_file(folder, split).write_text(json.dumps(description), encoding="utf-8")


def _joined(labels: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array(list(itertools.chain.from_iterable(labels)), np.int32)


def _ends(labels: Sequence[Sequence[int]]) -> np.ndarray:
    return np.cumsum([len(each) for each in labels], dtype=np.int64)


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError(
            f"tensorflow-datasets cannot be used ({error}); install it with "
            "pip install -c constraints.txt -e '.[prepare]'"
        ) from error
    return tensorflow_datasets


def _features(categories: Sequence[str]) -> tfds.features.FeaturesDict:
    """What a record holds; boxes are (x1, y1, x2, y2) in pixels."""
    features = _tfds().features
    return features.FeaturesDict(
        {
            "image": features.Image(shape=(None, None, 3)),
            "image/id": np.int64,
            "image/file_name": features.Text(),
            "objects": features.Sequence(
                {
                    "id": np.int64,
                    "box": features.Tensor(shape=(4,), dtype=np.float32),
                    "label": features.ClassLabel(names=list(categories)),
                    "is_crowd": np.bool_,
                    "segmentation": features.Text(),
                }
            ),
        }
    )


def _write_metadata(
    tfds: Any, folder: Path, split: str, dataset: CocoDataset, receipts: list[dict[str, Any]]
) -> None:
    """What makes the folder a builder of TensorFlow Datasets; other splits there are kept."""
    infos = {split: ([r["records"] for r in receipts], sum(r["payload"] for r in receipts))}
    if (folder / "dataset_info.json").is_file():
        for name, info in tfds.builder_from_directory(folder).info.splits.items():
            infos.setdefault(name, (list(info.shard_lengths), info.num_bytes))
    template = tfds.core.ShardedFileTemplate(
        dataset_name=NAME, data_dir=folder, filetype_suffix="array_record"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=_features([category.name for category in dataset.categories]),
        split_infos=[
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=lengths,
                num_bytes=size,
                filename_template=template.replace(split=name),
            )
            for name, (lengths, size) in infos.items()
        ],
        filename_template=None,
        check_data=False,
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments), resumes=True)


def _run(arguments: list[str] | None) -> None:
    parser = Parser("jaxdet data prepare", __doc__)
    parser.add_argument("source", type=local_path, help="a folder in COCO's layout")
    parser.add_argument("target", type=local_path, help="the folder to build in")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], choices=["train", "val"])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--images-per-shard", type=int, default=IMAGES_PER_SHARD)
    parser.add_argument(
        "--orientation",
        choices=("stored", "exif"),
        default="stored",
        help="whether the camera's note is followed; as the images were annotated",
    )
    options = parser.parse_args(arguments)
    if min(options.workers, options.images_per_shard) < 1:
        raise UserError("--workers and --images-per-shard must be at least 1")
    for split in options.splits:
        summary = prepare(
            *find_coco(options.source, split),
            options.target,
            split,
            workers=options.workers,
            images_per_shard=options.images_per_shard,
            orientation=options.orientation,
        )
        print(summary)
    orientation = " --config.data.orientation=exif" if options.orientation == "exif" else ""
    print(f"train on it with --config.data.root={options.target}{orientation}")


if __name__ == "__main__":
    sys.exit(main())
