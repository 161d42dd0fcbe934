"""What a detector found on one image: as arrays, as a drawing, in a notebook."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from jaxdet.data.dataset import Category
from jaxdet.visualize import draw_detections

DRAW_THRESHOLD = 0.5
"""The least score of a detection that is drawn, unless another is given."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector found on one image, best first.

    Attributes:
        image: uint8 [height, width, 3].
        results: the detections in COCO's result layout.
        categories: all that the detector tells apart; labels are positions in them.
    """

    image: np.ndarray
    results: list[dict[str, Any]]
    categories: tuple[Category, ...]

    @property
    def boxes(self) -> np.ndarray:
        """float64 [detections, 4], (x1, y1, x2, y2) in pixels of the image."""
        boxes = np.array([result["bbox"] for result in self.results]).reshape(-1, 4)
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    @property
    def scores(self) -> np.ndarray:
        """float64 [detections], in 0..1."""
        return np.array([result["score"] for result in self.results])

    @property
    def labels(self) -> np.ndarray:
        """int64 [detections]."""
        label_of = {category.id: label for label, category in enumerate(self.categories)}
        return np.array([label_of[result["category_id"]] for result in self.results], np.int64)

    @property
    def names(self) -> list[str]:
        """The name of each detection's category."""
        return [self.categories[label].name for label in self.labels]

    @property
    def masks(self) -> np.ndarray | None:
        """bool [detections, height, width], decoded at each call; None where something was
        found without a mask."""
        if any("segmentation" not in result for result in self.results):
            return None
        masks = [mask_api.decode(result["segmentation"]) for result in self.results]
        return np.array(masks, bool).reshape(-1, *self.image.shape[:2])

    def above(self, score: float) -> Prediction:
        """The detections of at least this score."""
        return replace(self, results=[found for found in self.results if found["score"] >= score])

    def draw(self, score: float = DRAW_THRESHOLD) -> Image.Image:
        """The image with the detections of at least this score; a small image is enlarged."""
        shown = self.above(score)
        names = [category.name for category in self.categories]
        return Image.fromarray(
            draw_detections(self.image, shown.boxes, shown.labels, shown.scores, shown.masks, names)
        )

    def show(self, score: float = DRAW_THRESHOLD) -> None:
        """Displays the drawing: in a notebook under its cell, else in the system's viewer."""
        ipython = sys.modules.get("IPython")
        if ipython is not None and ipython.get_ipython() is not None:
            ipython.display.display(self.draw(score))
        else:
            self.draw(score).show()

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.draw().save(content, "PNG")
        return content.getvalue()
