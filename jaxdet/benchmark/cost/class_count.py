"""How many classes a config is for, as far as its keys say: where its data cannot be opened."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxdet.benchmark.cost.analytic import COCO_CLASSES
from jaxdet.config.lvis import LVIS_CLASSES

SHAPES_CLASSES = 4


def usual_classes(config: ConfigDict) -> tuple[int, str]:
    """The classes of the built-in shapes, of LVIS v1 or of COCO; and which of them."""
    if config.data.name == "shapes":
        return SHAPES_CLASSES, "the shapes"
    if config.data.metric == "lvis":
        return LVIS_CLASSES, "LVIS"
    return COCO_CLASSES, "COCO"
