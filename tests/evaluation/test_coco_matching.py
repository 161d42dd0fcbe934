"""Every number equals pycocotools' own to the last digit, also where scores and IoUs are tied."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.cocoeval import COCOeval

from jaxdet.errors import UserError
from jaxdet.evaluation.coco import evaluate_coco
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth


def pycocotools(inputs: EvalInputs, iou_type: str, max_detections: int) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCOeval(inputs.truth.indexed[iou_type], inputs.detections, iou_type)
        theirs.params.maxDets = sorted({1, 10, 100, max_detections})
        theirs.evaluate()
        theirs.accumulate()
    best = theirs.params.maxDets.index(max_detections)
    precision, recall = theirs.eval["precision"], theirs.eval["recall"]
    numbers = {
        "AP": precision[:, :, :, 0, best],
        "AP50": precision[0, :, :, 0, best],
        "AP75": precision[5, :, :, 0, best],
    }
    for area, suffix in enumerate("sml", start=1):
        numbers[f"AP{suffix}"] = precision[:, :, :, area, best]
        numbers[f"AR{suffix}"] = recall[:, :, area, best]
    for limit in (1, 10, 100):
        numbers[f"AR{limit}"] = recall[:, :, 0, theirs.params.maxDets.index(limit)]
    for k, category in enumerate(inputs.truth.categories):
        numbers[category["name"]] = precision[:, :, k, 0, best]
    return {
        name: float(values[values > -1].mean()) if (values > -1).any() else math.nan
        for name, values in numbers.items()
    }


def assert_equal(inputs: EvalInputs, max_detections: int = 100) -> None:
    metrics = evaluate_coco(inputs, max_detections=max_detections)
    for iou_type in inputs.truth.iou_types:
        ours = metrics[iou_type] | metrics[iou_type]["per_category"]
        del ours["per_category"]
        np.testing.assert_equal(ours, pycocotools(inputs, iou_type, max_detections))


def random_boxes(rng: np.random.Generator, count: int, tied: bool) -> np.ndarray:
    sizes = np.exp(rng.uniform(np.log(6), np.log(250), (count, 2)))
    boxes = np.hstack([rng.uniform(0, 200, (count, 2)), sizes])
    return boxes.round() if tied else boxes


def random_set(seed: int) -> tuple[dict, list[dict]]:
    """Every other set has ties everywhere: whole pixels, scores of one digit, many crowds."""
    rng, tied = np.random.default_rng(seed), seed % 2 == 0
    images = [{"id": 7 * number + 3, "height": 480, "width": 480} for number in range(12)]
    annotations, results = [], []
    for image in images[1:]:
        boxes = random_boxes(rng, rng.poisson(6), tied)
        categories = rng.integers(1, 5, len(boxes)).tolist()
        for box, category in zip(boxes, categories, strict=True):
            annotations.append(
                {
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < (0.3 if tied else 0.05)),
                }
            )
        near = boxes[rng.integers(0, max(len(boxes), 1), 30 if len(boxes) else 0)]
        near = near * (1 + rng.normal(0, 0.08, near.shape) * (rng.random((len(near), 1)) < 0.6))
        for box in np.concatenate([np.abs(near), random_boxes(rng, 10, tied)]):
            score = rng.random()
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": int(rng.choice([*categories, 1, 5])),
                    "bbox": (box.round() if tied else box).tolist(),
                    "score": round(score, 1) if tied else score,
                }
            )
    listed = [{"id": number, "name": f"class {number}"} for number in (5, 4, 2, 1, 3, 9)]
    return {"images": images, "annotations": annotations, "categories": listed}, results


@pytest.mark.parametrize("seed", range(4))
def test_random_boxes(seed):
    document, results = random_set(seed)
    inputs = EvalInputs(GroundTruth(document, ("bbox",)), results)
    for limit in (5, 300):
        assert_equal(inputs, limit)


def test_random_masks():
    document, results = random_set(1)
    for entry in (*document["annotations"], *results):
        x, y, width, height = entry["bbox"]
        corners = [x, y, x + width, y, x + width / 2, y + height]
        entry["segmentation"] = [corners]
    assert_equal(EvalInputs(GroundTruth(document), results))


def test_more_groups_than_are_matched_at_once(monkeypatch):
    monkeypatch.setattr("jaxdet.evaluation.coco_matching.GROUPS_AT_ONCE", 3)
    document, results = random_set(4)
    assert_equal(EvalInputs(GroundTruth(document, ("bbox",)), results))


@pytest.mark.parametrize("nothing", ["images", "annotations", "categories", "results"])
def test_sets_without(nothing):
    document, results = random_set(0)
    document |= {nothing: []} if nothing != "results" else {}
    inputs = EvalInputs(
        GroundTruth(document, ("bbox",)), results if nothing == "annotations" else []
    )
    metrics = evaluate_coco(inputs)["bbox"]
    expected = 0.0 if nothing == "results" else math.nan
    np.testing.assert_equal((metrics["AP"], metrics["AR100"]), (expected, expected))


def test_ids_that_a_table_wrote_as_fractions_are_ids():
    document, results = random_set(1)
    truth = GroundTruth(document, ("bbox",))
    exported = [
        {
            **result,
            "image_id": float(result["image_id"]),
            "category_id": float(result["category_id"]),
        }
        for result in results
    ]
    np.testing.assert_equal(
        evaluate_coco(EvalInputs(truth, exported)), evaluate_coco(EvalInputs(truth, results))
    )
    exported[3]["image_id"] += 0.5
    with pytest.raises(UserError, match=r"detections\[3\]: image_id .* is not among the images"):
        EvalInputs(truth, exported)
