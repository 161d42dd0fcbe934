"""Datasets that `jaxdet data prepare` made: ArrayRecord files, read without TensorFlow.

A prepared folder holds coco_instances/1.0.0 as TensorFlow Datasets lays it out, and beside each
split's records a small index and the annotations for evaluation. Record i is image i.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from jaxdet.data.dataset import RLE, Category, Example, Polygons
from jaxdet.data.doubts import Doubt
from jaxdet.data.image import EncodedImage
from jaxdet.errors import UserError
from jaxdet.files import read_file, regular_file

NAME = "coco_instances"
VERSION = "1.0.0"


def prepared_folder(root: str | Path) -> Path | None:
    """The folder of the records under `root`; None where `root` was not prepared."""
    folder = Path(root) / NAME / VERSION
    return folder if folder.is_dir() else None


def record_file(split: str, shard: int, shards: int) -> str:
    """A shard's file name, as TensorFlow Datasets names it."""
    return f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def index_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.index.npz"


def description_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.description.json"


def ground_truth_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.instances.json"


class PreparedDataset:
    """Images and objects of a prepared split; a `DetectionDataset`.

    Args:
        folder: as `prepared_folder` returns it.
        split: "train" or "val".
        masks: whether objects need a usable mask to be trained on, see `CocoDataset`.

    Attributes:
        orientation: "stored" or "exif", as it was prepared, see `EncodedImage`.

    Raises:
        UserError: the split was not prepared, or not to its end; it was prepared by a version that
            did not record what is asked for.
    """

    def __init__(self, folder: Path, split: str, *, masks: bool = True):
        self._folder, self._split, self._masks = folder, split, masks
        try:
            with np.load(regular_file(index_file(folder, split)), allow_pickle=False) as index:
                self.image_ids = tuple(index["image_ids"].tolist())
                self._sizes = index["sizes"]
                self._has_objects = index["has_objects"]
                if not masks:
                    self._has_objects = index["has_boxes"]
                # Sets that an older version prepared have none.
                kind = "label" if masks else "box_label"
                self._labels, self._label_ends = index.get(f"{kind}s"), index.get(f"{kind}_ends")
                self._is_background = index.get("is_background")
            description = json.loads(read_file(description_file(folder, split)))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} holds no complete {split} split ({error}); run jaxdet data prepare again"
            ) from error
        self.categories = tuple(Category(*category) for category in description["categories"])
        self._summary = description["summary"]
        self.orientation: str = description.get("orientation", "stored")
        self.annotations_sha256: str | None = description.get("annotations_sha256")
        self._ground_truth: dict[str, Any] | None = None
        shards = description["shards"]
        paths = [folder / record_file(split, shard, shards) for shard in range(shards)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing; run jaxdet data prepare again")
        from grain.sources import ArrayRecordDataSource  # takes seconds, which --help need not

        self._records = ArrayRecordDataSource([str(path) for path in paths])
        if len(self._records) != len(self):
            raise UserError(
                f"{folder} has {len(self._records)} {split} records of {len(self)} images; "
                "run jaxdet data prepare again"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes make batches; they need no ground truth.
        return self.__dict__ | {"_ground_truth": None}

    def __getitem__(self, index: int) -> Example:
        where = f"record {index} of {self._folder} ({self._split})"
        features = _features(self._records[index], where)
        segmentations, is_crowd = features["objects/segmentation"], features["objects/is_crowd"]
        boxes = np.array(features["objects/box"], np.float32).reshape(-1, 4)
        labels = np.array(features["objects/label"], np.int32)
        has_size = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        usable = [
            number
            for number, text in enumerate(segmentations)
            if (text or not self._masks) and not is_crowd[number] and has_size[number]
        ]
        return Example(
            lazy_image=EncodedImage(
                tuple(self._sizes[index].tolist()),
                features["image"][0],
                f"{features['image/file_name'][0].decode()} in {where}",
                "the annotations and prepare the set again",
                self.orientation,
            ),
            image_id=self.image_ids[index],
            boxes=boxes[usable],
            labels=labels[usable],
            masks=[_mask(segmentations[number], boxes[number]) for number in usable],
        )

    def has_objects(self, index: int) -> bool:
        """Whether the image has an object with a usable segmentation that is not a crowd."""
        return bool(self._has_objects[index])

    def labels(self, index: int) -> np.ndarray:
        """Of the image's objects, int32 [objects].

        Raises:
            UserError: an older version prepared the set and did not list them.
        """
        if self._labels is None:
            raise UserError(
                f"{self._folder} lists no labels, which config.data.repeat_threshold and "
                "config.model.detector.federated_classes need; run jaxdet data prepare again"
            )
        start = self._label_ends[index - 1] if index else 0
        return self._labels[start : self._label_ends[index]]

    def is_background(self, index: int) -> bool:
        """Whether the image has no annotation at all, not even one that is not trained on.

        Raises:
            UserError: the set was prepared by a version that did not record it.
        """
        if self._is_background is None:
            raise UserError(
                f"{self._folder} does not say which images are background; run jaxdet data "
                "prepare again, which keeps its shards, or set config.data.empty_images=0"
            )
        return bool(self._is_background[index])

    def doubts(self) -> tuple[Doubt, ...]:
        """None: what there were is said of the set that was prepared."""
        return ()

    def summary(self) -> str:
        """One line for the log: what there is, and what was skipped when it was prepared."""
        return f"{self._folder}, {self._split}: {self._summary}"

    def ground_truth(self) -> dict[str, Any]:
        """The annotations in COCO's JSON layout; read at the first call and kept."""
        if self._ground_truth is None:
            self._ground_truth = json.loads(read_file(ground_truth_file(self._folder, self._split)))
        return self._ground_truth


def _mask(text: bytes, box: np.ndarray) -> Polygons | RLE:
    if not text:  # as `CocoDataset` has objects without a mask
        x1, y1, x2, y2 = box.astype(np.float64)
        return [np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])]
    segmentation = json.loads(text)
    if isinstance(segmentation, dict):
        return {"size": segmentation["size"], "counts": segmentation["counts"].encode()}
    # Through float32, as the COCO reader keeps coordinates: both give the same batches.
    return [
        np.array(polygon, np.float32).astype(np.float64).reshape(-1, 2) for polygon in segmentation
    ]


def _features(record: bytes, where: str) -> dict[str, list[Any]]:
    """The values of a serialised tf.train.Example; those that are missing are empty lists."""
    try:
        example = _EXAMPLE.FromString(record)
    except DecodeError as error:
        raise UserError(
            f"{where} cannot be read ({error}); run jaxdet data prepare again"
        ) from error
    features: dict[str, list[Any]] = defaultdict(list)
    for entry in example.features.feature:
        kind = entry.value.WhichOneof("kind")
        features[entry.key] = list(getattr(entry.value, kind).value) if kind else []
    return features


_EXAMPLE_PROTO = """
name: "jaxdet/example.proto" package: "jaxdet" syntax: "proto3"
message_type { name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 type_name: ".jaxdet.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 type_name: ".jaxdet.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 type_name: ".jaxdet.Int64List" oneof_index: 0 } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type_name: ".jaxdet.Features.Entry" }
  nested_type { name: "Entry"
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type_name: ".jaxdet.Feature" } } }
message_type { name: "Example"
  field { name: "features" number: 1 type_name: ".jaxdet.Features" } }
"""
"""tf.train.Example by its public definition (tensorflow/core/example); its map is, as on disk, a
list of entries."""


def _example_class() -> type:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("jaxdet.Example"))


_EXAMPLE = _example_class()
