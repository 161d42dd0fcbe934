"""Fixtures of the metrics' tests."""

from __future__ import annotations

import pytest

from jaxdet.data.shapes import ShapesDataset


@pytest.fixture(scope="module")
def ground_truth():
    return ShapesDataset("val", 20).ground_truth()


@pytest.fixture
def perfect(ground_truth):
    """The ground truth itself as detections."""
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": list(annotation["bbox"]),
            "score": 0.9 - 1e-4 * number,
            "segmentation": annotation["segmentation"],
        }
        for number, annotation in enumerate(ground_truth["annotations"])
    ]
