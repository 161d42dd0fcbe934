"""What a config says of data: the datasets it names and how images are augmented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.dataset import DetectionDataset
from jaxdet.data.multiscale import Multiscale
from jaxdet.data.prepared import PreparedDataset, prepared_folder
from jaxdet.data.shapes import ShapesDataset

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def open_dataset(data: ConfigDict, split: str) -> DetectionDataset:
    """Opens the "train" or "val" split of `config.data`.

    A root that `jaxdet.data.prepare` made is recognised by itself. Validation data keeps its ground
    truth from the one reading of its annotations, as evaluation needs it.

    Raises:
        UserError: the files a COCO-format dataset needs are missing or not in COCO's layout.
    """
    if data.name == "shapes":
        return ShapesDataset(split, data.shapes[f"{split}_images"], data.shapes.image_size)
    annotations, images = data[f"{split}_annotations"], data[f"{split}_images"]
    if data.root and not annotations and not images:
        prepared = prepared_folder(data.root)
        if prepared is not None:
            return PreparedDataset(prepared, split)
    files = find_coco(data.root, split, annotations, images)
    return CocoDataset(*files, keep_ground_truth=split == "val")


def multiscale_of(data: ConfigDict) -> Multiscale | None:
    """The multi-scale augmentation of `config.data`; None where it is large-scale jitter."""
    if data.augmentation == "lsj":
        return None
    return Multiscale(tuple(data.short_sides), data.long_side)
