"""Runs whose detections on the shapes are made up, with the inspection of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxdet.data.shapes import ShapesDataset
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.inspection import inspect

IMAGES, SIZE = 8, 64

KEYS = {"data__shapes__val_images": IMAGES, "data__shapes__image_size": SIZE}
"""Of the config that is validated on these shapes."""


@cache
def truth() -> dict[str, Any]:
    return ShapesDataset("val", IMAGES, SIZE).ground_truth()


def found(missed: float, seed: int) -> list[dict[str, Any]]:
    """The objects but for a share that is missed, and as large a share of wrong categories."""
    draw = np.random.default_rng(seed)
    results = []
    for each in truth()["annotations"]:
        fate, score = draw.random(2)
        category = each["category_id"] % 4 + 1 if fate > 1 - missed else each["category_id"]
        if fate >= missed:
            about = {"image_id": each["image_id"], "category_id": category}
            results.append({**about, "bbox": each["bbox"], "score": 0.5 + float(score) / 2})
    return results


def inspect_run(folder: Path, missed: float = 0.3, seed: int = 0, edit: Callable | None = None):
    """Writes the inspection of a run that was validated on these shapes, boxes alone."""
    content = inspect(EvalInputs(GroundTruth(truth(), ("bbox",)), found(missed, seed)))
    result = json.loads((folder / "result.json").read_text("utf-8"))
    content["checkpoint_sha256"] = result["checkpoint_sha256"]
    content["objects"]["train"] = [40, 30, 20, 10]
    if edit:
        edit(content)
    (folder / "inspection.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
