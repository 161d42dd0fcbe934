"""The datasets a config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdet.data.coco import CocoDataset, find_coco
from jaxdet.data.dataset import DetectionDataset
from jaxdet.data.shapes import ShapesDataset

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def open_dataset(data: ConfigDict, split: str) -> DetectionDataset:
    """Opens the "train" or "val" split of `config.data`.

    Raises:
        UserError: the files a COCO-format dataset needs are missing or not in COCO's layout.
    """
    if data.name == "shapes":
        return ShapesDataset(split, data.shapes[f"{split}_images"], data.shapes.image_size)
    annotations, images = find_coco(
        data.root, split, data[f"{split}_annotations"], data[f"{split}_images"]
    )
    return CocoDataset(annotations, images)
