"""COCO's numbers: equal to pycocotools' own, right in the cases it stumbles over."""

from __future__ import annotations

import copy
import json
import math

import pytest

from jaxdet.data.shapes import ShapesDataset
from jaxdet.errors import UserError
from jaxdet.evaluation.coco import evaluate_coco

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


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


def test_equals_pycocotools_on_real_images(shared):
    instances = json.loads((shared / "data/coco_val50/instances.json").read_text())
    detections = json.loads((shared / "reference/coco_eval/detections.json").read_text())
    expected = json.loads((shared / "reference/coco_eval/expected_metrics.json").read_text())
    metrics = evaluate_coco(instances, detections)
    for iou_type in ("bbox", "segm"):
        ours = {name: metrics[iou_type][name] for name in NUMBERS}
        assert ours == pytest.approx(expected[iou_type], abs=1e-9)


def test_per_category_ap_averages_to_ap(shared):
    instances = json.loads((shared / "data/coco_val50/instances.json").read_text())
    detections = json.loads((shared / "reference/coco_eval/detections.json").read_text())
    box = evaluate_coco(instances, detections, iou_types=("bbox",))["bbox"]
    assert len(box["per_category"]) == len(instances["categories"])
    present = {a["category_id"] for a in instances["annotations"] if not a["iscrowd"]}
    for category in instances["categories"]:
        ap = box["per_category"][category["name"]]
        assert math.isnan(ap) == (category["id"] not in present)
    defined = [ap for ap in box["per_category"].values() if not math.isnan(ap)]
    assert sum(defined) / len(defined) == pytest.approx(box["AP"], abs=1e-12)


def test_perfect_detections_score_one(ground_truth, perfect):
    metrics = evaluate_coco(ground_truth, perfect)
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
        scores.append(evaluate_coco(ground_truth, shifted, iou_types=("bbox",))["bbox"]["AP"])
    # Shifted by a tenth, IoU = .9 / 1.1: right up to .80, the seventh of ten thresholds.
    assert scores[0] == pytest.approx(1)
    assert scores[1] == pytest.approx(0.7, abs=0.03)
    assert scores[1] > scores[2] > scores[3]
    assert scores[3] < 0.05


def test_wrong_classes_score_nothing(ground_truth, perfect):
    for detection in perfect:
        detection["category_id"] = detection["category_id"] % 4 + 1
    assert evaluate_coco(ground_truth, perfect)["segm"]["AP50"] < 0.1


def test_no_detections_score_zero(ground_truth):
    metrics = evaluate_coco(ground_truth, [])
    for iou_type in ("bbox", "segm"):
        for name in NUMBERS:
            if name.endswith("l"):
                assert math.isnan(metrics[iou_type][name])
            else:
                assert metrics[iou_type][name] == 0


def test_nothing_to_find_is_nan(ground_truth, perfect):
    empty = {**ground_truth, "annotations": []}
    metrics = evaluate_coco(empty, perfect)
    assert all(math.isnan(metrics["bbox"][name]) for name in NUMBERS)


def test_arguments_are_left_alone(ground_truth, perfect):
    before = copy.deepcopy((ground_truth, perfect))
    evaluate_coco(ground_truth, perfect)
    assert (ground_truth, perfect) == before


def test_nothing_is_printed(ground_truth, perfect, capsys):
    evaluate_coco(ground_truth, perfect)
    assert capsys.readouterr().out == ""


def test_annotations_may_be_numbered_from_zero(ground_truth, perfect):
    """pycocotools by itself counts a match with annotation 0 as a false positive."""
    from_zero = copy.deepcopy(ground_truth)
    for number, annotation in enumerate(from_zero["annotations"]):
        annotation["id"] = number
    assert evaluate_coco(from_zero, perfect)["bbox"]["AP"] == pytest.approx(1)


def test_unusable_masks_are_left_out_of_segm_only(ground_truth, perfect):
    damaged = copy.deepcopy(ground_truth)
    atomic_write = damaged["annotations"]
    atomic_write[0]["segmentation"] = []
    atomic_write[1]["segmentation"] = [[1, 2, 30, 40]]
    del atomic_write[2]["segmentation"]
    atomic_write[3]["segmentation"]["counts"] = "11"
    atomic_write[4]["segmentation"] = [[1, 2, 3, math.nan, 5, 6]]
    kept = [perfect[0], *perfect[5:]]
    metrics = evaluate_coco(damaged, kept)
    assert metrics["segm"]["AR100"] == pytest.approx(1)
    assert metrics["bbox"]["AR100"] < 1
    assert evaluate_coco(damaged, perfect)["bbox"]["AP"] == pytest.approx(1)


def test_area_and_iscrowd_may_be_missing(ground_truth, perfect):
    bare = copy.deepcopy(ground_truth)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    metrics, expected = evaluate_coco(bare, perfect), evaluate_coco(ground_truth, perfect)
    assert str(metrics["segm"]) == str(expected["segm"])
    assert metrics["bbox"]["AP"] == pytest.approx(1)


def test_only_listed_images_are_scored(ground_truth, perfect):
    first = ground_truth["images"][0]
    alone = {**ground_truth, "images": [first]}
    detections = [detection for detection in perfect if detection["image_id"] == first["id"]]
    assert evaluate_coco(alone, detections)["bbox"]["AP"] == pytest.approx(1)


def test_max_detections_keeps_the_best_scores(ground_truth, perfect):
    noise = [
        {**detection, "bbox": [0, 0, 1, 1], "score": 0.95 + 0.01 * copy_number}
        for detection in perfect
        for copy_number in range(3)
    ]
    one = evaluate_coco(ground_truth, perfect + noise, iou_types=("bbox",), max_detections=1)
    many = evaluate_coco(ground_truth, perfect + noise, iou_types=("bbox",), max_detections=300)
    assert one["bbox"]["AP"] == 0
    assert many["bbox"]["AP"] > 0.2
    assert one["bbox"]["AR100"] == many["bbox"]["AR100"] == pytest.approx(1)


def test_masks_can_be_scored_without_boxes_and_boxes_without_masks(ground_truth, perfect):
    masks = [{k: v for k, v in d.items() if k != "bbox"} for d in perfect]
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in perfect]
    assert evaluate_coco(ground_truth, masks, iou_types=("segm",))["segm"]["AP"] == pytest.approx(1)
    assert evaluate_coco(ground_truth, boxes, iou_types=("bbox",))["bbox"]["AP"] == pytest.approx(1)
    with pytest.raises(UserError, match=r"detections\[0\]: segmentation is missing"):
        evaluate_coco(ground_truth, boxes)
    with pytest.raises(UserError, match=r"detections\[0\]: bbox is missing"):
        evaluate_coco(ground_truth, masks)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_id", 999),
        ("image_id", [1]),
        ("category_id", 5),
        ("category_id", None),
        ("score", math.nan),
        ("score", "high"),
        ("bbox", [0, 0, 1]),
        ("bbox", [0, 0, -1, 1]),
        ("bbox", [0, 0, math.inf, 1]),
        ("bbox", "abcd"),
        ("segmentation", {"size": [1, 1], "counts": "1"}),
        ("segmentation", "mask"),
    ],
)
def test_a_malformed_detection_is_named(ground_truth, perfect, field, value):
    perfect[3][field] = value
    with pytest.raises(UserError, match=rf"detections\[3\]: {field}"):
        evaluate_coco(ground_truth, perfect)


@pytest.mark.parametrize("detections", [{"annotations": []}, ["x"]])
def test_a_file_that_is_no_result_file_is_named(ground_truth, detections):
    with pytest.raises(UserError, match="detections"):
        evaluate_coco(ground_truth, detections)


def test_unknown_iou_types_are_named(ground_truth):
    with pytest.raises(UserError, match="keypoints"):
        evaluate_coco(ground_truth, [], iou_types=("keypoints",))
