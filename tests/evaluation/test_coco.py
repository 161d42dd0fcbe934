"""COCO's numbers: equal to pycocotools' own, right in the cases it stumbles over."""

from __future__ import annotations

import copy
import json
import math

import pytest

from tests.evaluation.sets import coco

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def test_equals_pycocotools_on_real_images(shared):
    instances = json.loads((shared / "data/coco_val50/instances.json").read_text())
    detections = json.loads((shared / "reference/coco_eval/detections.json").read_text())
    expected = json.loads((shared / "reference/coco_eval/expected_metrics.json").read_text())
    metrics = coco(instances, detections)
    for iou_type in ("bbox", "segm"):
        ours = {name: metrics[iou_type][name] for name in NUMBERS}
        assert ours == expected[iou_type]


def test_per_category_ap_averages_to_ap(shared):
    instances = json.loads((shared / "data/coco_val50/instances.json").read_text())
    detections = json.loads((shared / "reference/coco_eval/detections.json").read_text())
    box = coco(instances, detections, iou_types=("bbox",))["bbox"]
    assert len(box["per_category"]) == len(instances["categories"])
    present = {a["category_id"] for a in instances["annotations"] if not a["iscrowd"]}
    for category in instances["categories"]:
        ap = box["per_category"][category["name"]]
        assert math.isnan(ap) == (category["id"] not in present)
    defined = [ap for ap in box["per_category"].values() if not math.isnan(ap)]
    assert sum(defined) / len(defined) == pytest.approx(box["AP"], abs=1e-12)


def test_perfect_detections_score_one(ground_truth, perfect):
    metrics = coco(ground_truth, perfect)
    for iou_type in ("bbox", "segm"):
        for name in ("AP", "AP50", "AP75", "APs", "APm", "AR100", "ARs", "ARm"):
            assert metrics[iou_type][name] == pytest.approx(1, abs=1e-12), name
        assert metrics[iou_type]["AR1"] < 1
        assert math.isnan(metrics[iou_type]["APl"])
        assert math.isnan(metrics[iou_type]["ARl"])
        assert metrics[iou_type]["per_category"] == pytest.approx(
            {"disc": 1, "box": 1, "triangle": 1, "star": 1}
        )


def test_boxes_lose_ap_the_further_they_are_shifted(ground_truth, perfect):
    scores = []
    for shift in (0, 0.1, 0.2, 0.8):
        shifted = copy.deepcopy(perfect)
        for detection in shifted:
            detection["bbox"][0] += shift * detection["bbox"][2]
        scores.append(coco(ground_truth, shifted, iou_types=("bbox",))["bbox"]["AP"])
    # Shifted by a tenth, IoU = .9 / 1.1: right up to .80, the seventh of ten thresholds.
    assert scores[0] == pytest.approx(1)
    assert scores[1] == pytest.approx(0.7, abs=0.03)
    assert scores[1] > scores[2] > scores[3]
    assert scores[3] < 0.05


def test_wrong_classes_score_nothing(ground_truth, perfect):
    for detection in perfect:
        detection["category_id"] = detection["category_id"] % 4 + 1
    assert coco(ground_truth, perfect)["segm"]["AP50"] < 0.1


def test_no_detections_score_zero(ground_truth):
    metrics = coco(ground_truth, [])
    for iou_type in ("bbox", "segm"):
        for name in NUMBERS:
            if name.endswith("l"):
                assert math.isnan(metrics[iou_type][name])
            else:
                assert metrics[iou_type][name] == 0


def test_nothing_to_find_is_nan(ground_truth, perfect):
    empty = {**ground_truth, "annotations": []}
    metrics = coco(empty, perfect)
    assert all(math.isnan(metrics["bbox"][name]) for name in NUMBERS)


def test_nothing_is_printed(ground_truth, perfect, capsys):
    coco(ground_truth, perfect)
    assert capsys.readouterr().out == ""


def test_max_detections_keeps_the_best_scores(ground_truth, perfect):
    noise = [
        {**detection, "bbox": [0, 0, 1, 1], "score": 0.95 + 0.01 * copy_number}
        for detection in perfect
        for copy_number in range(3)
    ]
    one = coco(ground_truth, perfect + noise, iou_types=("bbox",), max_detections=1)
    many = coco(ground_truth, perfect + noise, iou_types=("bbox",), max_detections=300)
    assert one["bbox"]["AP"] == 0
    assert many["bbox"]["AP"] > 0.2
    assert one["bbox"]["AR100"] == many["bbox"]["AR100"] == pytest.approx(1)
