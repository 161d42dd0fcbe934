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

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from jaxdet.config.mask_rcnn import check
from jaxdet.data.loader import Batch, LoaderSettings, train_batches
from jaxdet.data.source import augmentation_of, open_dataset
from jaxdet.errors import UserError
from jaxdet.flags import parse
from jaxdet.visualize import contact_sheet, draw_detections

SAMPLES = 12
COLUMNS = 4


def samples(config: ConfigDict) -> np.ndarray:
    """A sheet of the first training samples, uint8 [height, width, 3].

    Raises:
        UserError: the data cannot be read.
    """
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
    drawn = [_draw(batch, names) for batch in itertools.islice(batches, SAMPLES)]
    return contact_sheet(drawn, COLUMNS)


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
    pasted = np.zeros(hw, bool)
    first = np.ceil(box[:2] - 0.5).astype(int)
    last = np.minimum(np.ceil(box[2:] - 0.5).astype(int), hw[::-1])
    columns, rows = (
        ((np.arange(first[axis], last[axis]) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]))
        * len(mask)
        for axis in (0, 1)
    )
    pasted[first[1] : last[1], first[0] : last[0]] = mask[
        np.ix_(rows.astype(int), columns.astype(int))
    ]
    return pasted


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status (2 after an error of the user's)."""
    try:
        values = parse(sys.argv[1:] if arguments is None else arguments)
        if values.help:
            print(__doc__ + "\n" + values.main_module_help())
            return 0
        check(values.config)
        path = Path(values.workdir or "runs") / "samples.png"
        sheet = samples(values.config)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
