"""What a config says of data: the datasets it names and how images are augmented."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxdet.data.coco import CocoDataset
from jaxdet.data.coco_files import find_coco
from jaxdet.data.dataset import DetectionDataset
from jaxdet.data.loader import Augmentation, LoaderSettings
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.multiscale import Multiscale
from jaxdet.data.prepared import PreparedDataset, prepared_folder
from jaxdet.data.shapes import ShapesDataset
from jaxdet.errors import UserError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def open_dataset(data: ConfigDict, split: str, *, masks: bool = True) -> DetectionDataset:
    """Opens the "train" or "val" split of `config.data`.

    A root that `jaxdet data prepare` made is recognised by itself. Validation data keeps its ground
    truth from the one reading of its annotations, as evaluation needs it.

    Args:
        masks: whether masks are trained, so that objects need one.

    Raises:
        UserError: the files a COCO-format dataset needs are missing or not in COCO's layout.
    """
    if data.name == "shapes":
        return ShapesDataset(split, data.shapes[f"{split}_images"], data.shapes.image_size)
    annotations, images = data[f"{split}_annotations"], data[f"{split}_images"]
    if data.root and not annotations and not images:
        prepared = prepared_folder(data.root)
        if prepared is not None:
            dataset = PreparedDataset(prepared, split, masks=masks)
            if data.orientation != dataset.orientation:
                raise UserError(
                    f"config.data.orientation must be {dataset.orientation!r}, as {data.root} was "
                    f"prepared; or prepare another with --orientation={data.orientation}"
                )
            return dataset
    files = find_coco(data.root, split, annotations, images)
    return CocoDataset(
        *files, masks=masks, orientation=data.orientation, keep_ground_truth=split == "val"
    )


def trains_on_validation(data: ConfigDict) -> bool:
    """Whether training and validation are the same images: their AP is not accuracy then."""
    if data.name == "shapes" or (data.root and prepared_folder(data.root) is not None):
        return False
    try:
        train, val = (
            find_coco(data.root, split, data[f"{split}_annotations"], data[f"{split}_images"])
            for split in ("train", "val")
        )
    except UserError:
        return False  # validation alone
    return all(a.resolve() == b.resolve() for a, b in zip(train, val, strict=True))


def augmentation_of(config: ConfigDict) -> Augmentation:
    """The augmentation of a detector's config; evaluation resizes by its `fit`."""
    data = config.data
    if data.augmentation == "lsj":
        return LargeScaleJitter(config.image_size, tuple(data.scale_range), data.flip)
    return Multiscale(config.image_size, tuple(data.short_sides), data.long_side, data.flip)


def loader_settings(
    data: ConfigDict, batch_size: int, process_index: int = 0, process_count: int = 1
) -> LoaderSettings:
    """Threads and workers of `config.data` for batches of a size.

    Raises:
        UserError: the batch cannot be split evenly over the processes.
    """
    return LoaderSettings(batch_size, data.threads, data.workers, process_index, process_count)
