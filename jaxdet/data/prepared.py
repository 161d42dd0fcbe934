"""Datasets that `jaxdet.data.prepare` made: ArrayRecord files, read without TensorFlow.

A prepared folder holds coco_instances/1.0.0 as TensorFlow Datasets lays it out, and beside each
split's records a small index and the annotations for evaluation. Record i is image i.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grain
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from jaxdet.data.dataset import RLE, Category, Example, Polygons
from jaxdet.data.image import EncodedImage
from jaxdet.errors import UserError

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

    Raises:
        UserError: the split was not prepared, or not to its end.
    """

    def __init__(self, folder: Path, split: str):
        self._folder, self._split = folder, split
        try:
            with np.load(index_file(folder, split), allow_pickle=False) as index:
                self.image_ids = tuple(index["image_ids"].tolist())
                self._sizes = index["sizes"]
                self._has_objects = index["has_objects"]
            description = json.loads(description_file(folder, split).read_bytes())
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} holds no complete {split} split ({error}); "
                "run python -m jaxdet.data.prepare again"
            ) from error
        self.categories = tuple(Category(*category) for category in description["categories"])
        self._summary = description["summary"]
        self._ground_truth: dict[str, Any] | None = None
        shards = description["shards"]
        paths = [folder / record_file(split, shard, shards) for shard in range(shards)]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise UserError(f"{missing[0]} is missing; run python -m jaxdet.data.prepare again")
        self._records = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
        if len(self._records) != len(self):
            raise UserError(
                f"{folder} has {len(self._records)} {split} records of {len(self)} images; "
                "run python -m jaxdet.data.prepare again"
            )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes make batches; they need no ground truth.
        return self.__dict__ | {"_ground_truth": None}

    def __getitem__(self, index: int) -> Example:
        where = f"record {index} of {self._folder} ({self._split})"
        features = _features(self._records[index], where)
        usable = [
            number
            for number, text in enumerate(features["objects/segmentation"])
            if text and not features["objects/is_crowd"][number]
        ]
        boxes = np.array(features["objects/box"], np.float32).reshape(-1, 4)
        labels = np.array(features["objects/label"], np.int32)
        is_usable = np.all(boxes[:, 2:] > boxes[:, :2], axis=1) if len(boxes) else boxes
        usable = [number for number in usable if is_usable[number]]
        return Example(
            lazy_image=EncodedImage(
                tuple(self._sizes[index].tolist()),
                features["image"][0],
                f"{features['image/file_name'][0].decode()} in {where}",
                "the annotations and prepare the set again",
            ),
            image_id=self.image_ids[index],
            boxes=boxes[usable],
            labels=labels[usable],
            masks=[_mask(features["objects/segmentation"][number]) for number in usable],
        )

    def has_objects(self, index: int) -> bool:
        """Whether the image has an object with a usable segmentation that is not a crowd."""
        return bool(self._has_objects[index])

    def summary(self) -> str:
        """One line for the log: what there is, and what was skipped when it was prepared."""
        return f"{self._folder}, {self._split}: {self._summary}"

    def ground_truth(self) -> dict[str, Any]:
        """The annotations in COCO's JSON layout; read at the first call and kept."""
        if self._ground_truth is None:
            self._ground_truth = json.loads(
                ground_truth_file(self._folder, self._split).read_bytes()
            )
        return self._ground_truth


def _mask(text: bytes) -> Polygons | RLE:
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
            f"{where} cannot be read ({error}); run python -m jaxdet.data.prepare again"
        ) from error
    features: dict[str, list[Any]] = {name: [] for name in _FEATURES}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        features[name] = list(getattr(feature, kind).value) if kind else []
    return features


_FEATURES = (
    "image",
    "image/file_name",
    "image/id",
    "objects/box",
    "objects/id",
    "objects/is_crowd",
    "objects/label",
    "objects/segmentation",
)


def _example_class() -> type:
    """tf.train.Example, built from its public definition (tensorflow/core/example)."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="jaxdet/example.proto", package="jaxdet", syntax="proto3"
    )

    def message(name: str, *fields: tuple[str, int, int, int, str | None], parent=file) -> Any:
        messages = parent.message_type if parent is file else parent.nested_type
        built = messages.add(name=name)
        for field_name, number, label, kind, type_name in fields:
            built.field.add(
                name=field_name, number=number, label=label, type=kind, type_name=type_name
            )
        return built

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    lists = (
        ("bytes_list", "BytesList", field.TYPE_BYTES),
        ("float_list", "FloatList", field.TYPE_FLOAT),
        ("int64_list", "Int64List", field.TYPE_INT64),
    )
    for _, name, kind in lists:
        message(name, ("value", 1, many, kind, None))
    feature = message(
        "Feature",
        *(
            (field_name, number, one, field.TYPE_MESSAGE, f".jaxdet.{name}")
            for number, (field_name, name, _) in enumerate(lists, 1)
        ),
    )
    feature.oneof_decl.add(name="kind")
    for entry in feature.field:
        entry.oneof_index = 0
    features = message(
        "Features", ("feature", 1, many, field.TYPE_MESSAGE, ".jaxdet.Features.FeatureEntry")
    )
    entry = message(
        "FeatureEntry",
        ("key", 1, one, field.TYPE_STRING, None),
        ("value", 2, one, field.TYPE_MESSAGE, ".jaxdet.Feature"),
        parent=features,
    )
    entry.options.map_entry = True
    message("Example", ("features", 1, one, field.TYPE_MESSAGE, ".jaxdet.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("jaxdet.Example"))


_EXAMPLE = _example_class()
