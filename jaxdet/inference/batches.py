"""Detection over a data set: its images at one size, or at several whose results are merged; padded
to a square, or to rectangles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.data.canvases import rows_of
from jaxdet.data.dataset import DetectionDataset
from jaxdet.data.loader import Batch, LoaderSettings, eval_batches
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.source import augmentation_of
from jaxdet.inference.tta import Augmented, View
from jaxdet.models.build import StatelessModel, Tree
from jaxdet.models.detections import Detections

Inputs = dict[str, Any]
"""What detection takes of a batch: "image" and "image_hw", or "views" and "original_hw"."""


def inputs_of(
    config: ConfigDict, dataset: DetectionDataset, settings: LoaderSettings
) -> Iterator[tuple[Batch, Inputs]]:
    """What `coco_results` has to know of each batch, and what detection takes of it, on the host.

    With test-time augmentation, boxes are in pixels of the original images.
    """
    detector = config.model.detector
    augmentations = [LargeScaleJitter(size) for size in detector.tta_sizes]
    augmentations = augmentations or [augmentation_of(config)]
    rows = rows_of(dataset, augmentations, settings.batch_size, detector.pad_multiple)
    # The images are read once for each size: detection at one takes longer.
    streams = [
        eval_batches(dataset, augmentation, settings, of_one)
        for augmentation, of_one in zip(augmentations, rows, strict=True)
    ]
    for hosts in zip(*streams, strict=True):
        if not detector.tta_sizes:
            yield _known(hosts[0]), {name: hosts[0][name] for name in ("image", "image_hw")}
            continue
        original_hw = hosts[0]["original_hw"]
        views = [View(host["image"], host["image_hw"]) for host in hosts]
        known = {**_known(hosts[0]), "image_hw": original_hw}
        yield known, {"views": views, "original_hw": original_hw}


def _known(host: Batch) -> dict[str, np.ndarray]:
    return {name: values for name, values in host.items() if name != "image"}


def detect_function(
    config: ConfigDict, stateless: StatelessModel, mesh: jax.sharding.Mesh
) -> Callable[[Tree, Tree, Inputs], Detections]:
    """The detector of parameters and batch statistics on `inputs_of` a batch on the devices,
    compiled at its first call with inputs of a shape."""
    if config.model.detector.tta_sizes:
        augmented = Augmented(stateless, mesh, flip=config.model.detector.tta_flip)
        return lambda params, stats, inputs: augmented(params, stats, **inputs)

    def detect(params: Tree, stats: Tree, inputs: Inputs) -> Detections:
        return stateless.bind(params, stats).detect(inputs)

    return jax.jit(detect, out_shardings=parallel.batch_sharding(mesh))
