"""Draws training samples of a config as the model sees them: boxes, masks and classes.

    jaxdet data show --config=coco_small --config.data.root=/data/my_set --workdir=runs/my_set

Takes the config of `jaxdet train` and writes <workdir>/samples.png. The first samples of the
run itself are shown, augmented, on their canvas.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jaxdet.config.command_line import DEFAULT_CONFIG, parse_with_config
from jaxdet.config.mask_rcnn import check
from jaxdet.data.training_masks import pasted_mask
from jaxdet.files import atomic_write
from jaxdet.flags import Parser, run_main
from jaxdet.visualize import contact_sheet, draw_detections

if TYPE_CHECKING:
    from jaxdet.data.loader import Batch

SAMPLES = 12
COLUMNS = 4


def samples(config: ConfigDict) -> np.ndarray:
    """A sheet of the first training samples, uint8 [height, width, 3].

    Raises:
        UserError: the data cannot be read.
    """
    from jaxdet.data.loader import LoaderSettings, train_batches
    from jaxdet.data.source import augmentation_of, open_dataset

    dataset = open_dataset(config.data, "train", masks=config.model.heads.mask)
    names = [category.name for category in dataset.categories]
    batches = train_batches(
        dataset,
        augmentation_of(config),
        LoaderSettings(1, config.data.threads),
        max_instances=config.data.max_instances,
        mask_size=config.data.mask_size,
        seed=config.seed,
        empty_images=config.data.empty_images,
        repeat_threshold=config.data.repeat_threshold,
    )
    images = [_draw(batch, names) for batch in itertools.islice(batches, SAMPLES)]
    return contact_sheet(images, COLUMNS)


def _draw(batch: Batch, names: list[str]) -> np.ndarray:
    (image,), (valid,) = batch["image"], batch["valid"]
    boxes = batch["boxes"][0, valid]
    masks = [
        pasted_mask(mask, outlined, box, image.shape[:2])
        for mask, outlined, box in zip(
            batch["masks"][0, valid], batch["outlined"][0, valid], boxes, strict=True
        )
    ]
    return draw_detections(image, boxes, batch["labels"][0, valid], None, masks, names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> None:
    parser = Parser("jaxdet data show", __doc__)
    options, config = parse_with_config(parser, arguments, DEFAULT_CONFIG)
    check(config)
    sheet = samples(config)
    path = options.workdir / "samples.png"
    with atomic_write(path) as partial:
        Image.fromarray(sheet).save(partial, "PNG")
    print(path)


if __name__ == "__main__":
    sys.exit(main())
