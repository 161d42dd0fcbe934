"""Draws training samples of a config as the model sees them: boxes, masks and classes.

    python -m jaxdet.data.show --config=configs/coco_small.py --config.data.root=/data/my_set \\
        --workdir=runs/my_set

Takes the command line of `jaxdet.main` and writes <workdir>/samples.png. The first samples of the
run itself are shown, augmented, on their canvas.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from jaxdet.flags import parse, run_main
from jaxdet.visualize import contact_sheet, draw_detections

if TYPE_CHECKING:
    from ml_collections import ConfigDict

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

    dataset = open_dataset(config.data, "train")
    names = [category.name for category in dataset.categories]
    batches = train_batches(
        dataset,
        augmentation_of(config),
        LoaderSettings(1, config.data.threads),
        max_instances=config.data.max_instances,
        mask_size=config.data.mask_size,
        seed=config.seed,
    )
    images = [_draw(batch, names) for batch in itertools.islice(batches, SAMPLES)]
    return contact_sheet(images, COLUMNS)


def _draw(batch: Batch, names: list[str]) -> np.ndarray:
    (image,), (valid,) = batch["image"], batch["valid"]
    boxes = batch["boxes"][0, valid]
    masks = [
        _paste(mask, box, image.shape[:2])
        for mask, box in zip(batch["masks"][0, valid], boxes, strict=True)
    ]
    return draw_detections(image, boxes, batch["labels"][0, valid], None, masks, names)


def _paste(mask: np.ndarray, box: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """The mask's pixel nearest to each pixel centre inside its box; bool [height, width]."""
    scale = len(mask) / (box[2:] - box[:2])
    to_mask = np.column_stack([np.diag(scale), (0.5 - box[:2]) * scale - 0.5])
    return (
        cv2.warpAffine(mask, to_mask, hw[::-1], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(arguments))


def _run(arguments: list[str] | None) -> None:
    values = parse(sys.argv[1:] if arguments is None else arguments)
    if values.help:
        print(__doc__ + "\n" + values.main_module_help())
        return
    from jaxdet.config.mask_rcnn import check

    check(values.config)
    path = Path(values.workdir or "runs") / "samples.png"
    sheet = samples(values.config)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
