"""Groups of COCO's classes, by name; imports nothing."""

from __future__ import annotations

VOC = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table"),
    "tv",
)
"""The 20 of COCO's classes that PASCAL VOC has too, novel in COCO's few-shot protocol."""
