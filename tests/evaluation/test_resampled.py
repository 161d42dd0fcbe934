"""AP of drawn images: what COCO's metric says of a set that holds them so often."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.resampled import ResampledAP
from tests.evaluation.sets import coco, random_set


def copied(document, results, times):
    """Ground truth and detections with each image as often as given."""
    images, annotations, found = [], [], []
    for image, count in zip(sorted(document["images"], key=lambda i: i["id"]), times, strict=True):
        for copy in range(count):
            image_id = 10_000 * copy + image["id"]
            images.append({**image, "id": image_id})
            for entries, into in ((document["annotations"], annotations), (results, found)):
                into += [
                    {**entry, "image_id": image_id}
                    for entry in entries
                    if entry["image_id"] == image["id"]
                ]
    annotations = [{**entry, "id": number} for number, entry in enumerate(annotations, 1)]
    return {**document, "images": images, "annotations": annotations}, found


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_the_metric_of_the_set_of_copies(iou_type):
    document, results = random_set(3)
    for number, result in enumerate(results):  # copies of equal scores may be sorted otherwise
        result["score"] += 1e-6 * number
    resampled = ResampledAP(
        EvalInputs(GroundTruth(document, (iou_type,)), results), iou_type, max_detections=5
    )
    draws = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=4)
    seen = set()
    for times in (np.ones(12, int), *draws):
        expected = coco(*copied(document, results, times), (iou_type,), max_detections=5)
        seen.add(resampled(times))
        assert resampled(times) == pytest.approx(expected[iou_type]["AP"], abs=1e-12)
    assert len(seen) == 5


def test_without_objects_it_is_undefined():
    document, results = random_set(3)
    resampled = ResampledAP(EvalInputs(GroundTruth(document, ("bbox",)), results), "bbox")
    assert resampled.images == 12
    assert math.isnan(resampled(np.zeros(12, int)))
