"""What the page of `jaxdet serve` shows of an image: drawings and numbers, from its bytes."""

from __future__ import annotations

import io
import threading
import time
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from jaxdet.data.dataset import LazyImage
from jaxdet.data.image import open_content
from jaxdet.errors import UserError
from jaxdet.inference.attention_maps import (
    attention_of,
    draw_attention,
    draw_features,
    feature_pyramid,
    grid_of,
    windows_of,
)
from jaxdet.inference.detector import Detector
from jaxdet.inference.prediction import DRAW_THRESHOLD, Prediction
from jaxdet.visualize import contact_sheet

KEPT = 4
"""Of the last images, how many results are kept."""

LISTED = 100
"""Detections that the page lists, best first."""


class Explorer:
    """Answers one question at a time, whatever threads ask; the last answers are kept.

    Args:
        name: what the page calls the detector.

    Attributes:
        facts: what the page has to know of the detector, as JSON values.
    """

    def __init__(self, detector: Detector, name: str):
        vit, size = detector.config.model.vit, detector.config.image_size
        self.facts = {
            "name": name,
            "classes": [category.name for category in detector.categories],
            "image_size": size,
            "heads": vit.heads,
            "windows": [windows_of(vit, block)[0] for block in range(vit.depth)],
            "score": DRAW_THRESHOLD,
        }
        self._detector = detector
        self._lock = threading.Lock()
        self._pixels = lru_cache(KEPT)(
            lambda content: detector.prepare(self._image(content))["image"][0]
        )
        self._predicted = lru_cache(KEPT)(self._predict)
        self._attention = lru_cache(KEPT)(self._attend)
        self._levels = lru_cache(KEPT)(
            lambda content: feature_pyramid(detector, self._image(content))
        )

    def compile(self) -> float:
        """Compiles detection; returns how many seconds it took."""
        started = time.monotonic()
        side = self.facts["image_size"]
        self._detector.predict(np.zeros((side, side, 3), np.uint8))
        return time.monotonic() - started

    def detections(self, content: bytes) -> dict[str, Any]:
        """The image's size, in pixels and as the model's grid of tokens, and what was found on it,
        best first.

        Raises:
            UserError: it cannot be read as an image.
        """
        with self._lock:
            found = self._predicted(content)
            grid = grid_of(self._detector.config.model.vit, self._pixels(content))
        height, width = found.image.shape[:2]
        best = zip(found.names, found.scores, found.boxes.tolist(), strict=True)
        return {
            "width": width,
            "height": height,
            "grid": grid,
            "found": len(found.results),
            "detections": [
                {"name": name, "score": float(score), "box": box} for name, score, box in best
            ][:LISTED],
        }

    def drawing(self, content: bytes, score: float) -> bytes:
        """The image with boxes and masks of at least this score, as PNG; errors as `detections`."""
        with self._lock:
            return _png(np.asarray(self._predicted(content).draw(score)))

    def attention(
        self, content: bytes, block: int, head: int | None, row: int, column: int
    ) -> bytes:
        """What a token attends to in a block, as PNG.

        Args:
            head: None for the mean over heads.

        Raises:
            UserError: there is no such block, head or token, or no image.
        """
        vit = self._detector.config.model.vit
        _validate("block", block, vit.depth)
        _validate("head", head or 0, vit.heads)
        with self._lock:
            pixels = self._pixels(content)
            rows, columns = grid_of(vit, pixels)
            _validate("row", row, rows)
            _validate("column", column, columns)
            heads = self._attention(content, (row, column))[block]
            shown = heads.mean(axis=0) if head is None else heads[head]
            window, shift = windows_of(vit, block)
            return _png(draw_attention(pixels, shown, window, (row, column), shift=shift))

    def pyramid(self, content: bytes) -> bytes:
        """The image as the model takes it and P2 ... P6, as PNG; errors as `detections`."""
        with self._lock:
            drawings = map(draw_features, self._levels(content))
            return _png(contact_sheet([self._pixels(content), *drawings], columns=3, cell=240))

    def _image(self, content: bytes) -> LazyImage:
        return open_content(content, "the file", self._detector.orientation)

    def _predict(self, content: bytes) -> Prediction:
        return self._detector.predict(self._image(content))

    def _attend(self, content: bytes, query: tuple[int, int]) -> list[np.ndarray]:
        return attention_of(self._detector, self._image(content), query)


def _validate(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise UserError(f"{name}={value} must be from 0 to {count - 1}")


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()
