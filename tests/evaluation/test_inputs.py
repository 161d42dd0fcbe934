"""What every metric reads: checked, and each mask run-length coded once."""

from __future__ import annotations

import copy
import math

import pytest

from jaxdet.errors import UserError
from jaxdet.evaluation import inputs
from jaxdet.evaluation.evaluate import Evaluator
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.scoring import score
from jaxdet.training.experiment import Experiment
from tests.evaluation.sets import coco, random_set
from tests.tiny import get_config


@pytest.fixture
def coded(monkeypatch):
    """The masks that were made run-length codes, in order."""
    masks = []
    convert = inputs.compressed_rles

    def counted(given):
        given = list(given)
        masks.extend(given)
        return convert(given)

    monkeypatch.setattr(inputs, "compressed_rles", counted)
    return masks


def test_each_mask_is_coded_once_for_all_metrics(coded):
    document, results = random_set(0)
    truth = GroundTruth(document)
    assert len(coded) == len(document["annotations"])
    coded.clear()
    score(EvalInputs(truth, results), max_detections=100)
    assert len(coded) == len(results)


def test_no_mask_is_coded_where_only_boxes_are_scored(coded):
    document, results = random_set(0)
    score(EvalInputs(GroundTruth(document, ("bbox",)), results), max_detections=100)
    assert coded == []


def test_an_evaluator_reads_the_annotations_once(coded, monkeypatch, tmp_path):
    experiment = Experiment(get_config(), tmp_path)
    document, readings = experiment.val_set.ground_truth(), []
    found = [{**annotation, "score": 0.5} for annotation in document["annotations"]]
    monkeypatch.setattr(experiment.val_set, "ground_truth", lambda: readings.append(1) or document)
    monkeypatch.setattr(Evaluator, "detect", lambda self, params, stats: (found, 1.0))
    evaluator = Evaluator(experiment)
    first, second = evaluator({}, {}), evaluator({}, {})
    assert str(first.metrics) == str(second.metrics)
    assert len(readings) == 1
    assert len(coded) == len(document["annotations"]) + 2 * len(found)


def test_numbers_do_not_depend_on_earlier_evaluations():
    """pycocotools writes into what it is given."""
    document, results = random_set(1)
    truth = GroundTruth(document)
    score(EvalInputs(truth, results[::2]), max_detections=3)
    again = score(EvalInputs(truth, results), max_detections=100)
    assert str(again) == str(score(EvalInputs(GroundTruth(document), results), max_detections=100))


def test_arguments_are_left_alone(ground_truth, perfect):
    before = copy.deepcopy((ground_truth, perfect))
    coco(ground_truth, perfect)
    assert (ground_truth, perfect) == before


def test_annotations_may_be_numbered_from_zero(ground_truth, perfect):
    """pycocotools by itself counts a match with annotation 0 as a false positive."""
    from_zero = copy.deepcopy(ground_truth)
    for number, annotation in enumerate(from_zero["annotations"]):
        annotation["id"] = number
    assert coco(from_zero, perfect)["bbox"]["AP"] == pytest.approx(1)


def test_unusable_masks_are_left_out_of_segm_only(ground_truth, perfect):
    damaged = copy.deepcopy(ground_truth)
    annotations = damaged["annotations"]
    annotations[0]["segmentation"] = []
    annotations[1]["segmentation"] = [[1, 2, 30, 40]]
    del annotations[2]["segmentation"]
    annotations[3]["segmentation"]["counts"] = "11"
    annotations[4]["segmentation"] = [[1, 2, 3, math.nan, 5, 6]]
    kept = [perfect[0], *perfect[5:]]
    metrics = coco(damaged, kept)
    assert metrics["segm"]["AR100"] == pytest.approx(1)
    assert metrics["bbox"]["AR100"] < 1
    assert coco(damaged, perfect)["bbox"]["AP"] == pytest.approx(1)


def test_area_and_iscrowd_may_be_missing(ground_truth, perfect):
    bare = copy.deepcopy(ground_truth)
    for annotation in bare["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    metrics, expected = coco(bare, perfect), coco(ground_truth, perfect)
    assert str(metrics["segm"]) == str(expected["segm"])
    assert metrics["bbox"]["AP"] == pytest.approx(1)


def test_only_listed_images_are_scored(ground_truth, perfect):
    first = ground_truth["images"][0]
    alone = {**ground_truth, "images": [first]}
    detections = [detection for detection in perfect if detection["image_id"] == first["id"]]
    assert coco(alone, detections)["bbox"]["AP"] == pytest.approx(1)


def test_masks_can_be_scored_without_boxes_and_boxes_without_masks(ground_truth, perfect):
    masks = [{k: v for k, v in d.items() if k != "bbox"} for d in perfect]
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in perfect]
    assert coco(ground_truth, masks, iou_types=("segm",))["segm"]["AP"] == pytest.approx(1)
    assert coco(ground_truth, boxes, iou_types=("bbox",))["bbox"]["AP"] == pytest.approx(1)
    with pytest.raises(UserError, match=r"detections\[0\]: segmentation is missing"):
        coco(ground_truth, boxes)
    with pytest.raises(UserError, match=r"detections\[0\]: bbox is missing"):
        coco(ground_truth, masks)


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
        coco(ground_truth, perfect)


@pytest.mark.parametrize("detections", [{"annotations": []}, ["x"]])
def test_a_file_that_is_no_result_file_is_named(ground_truth, detections):
    with pytest.raises(UserError, match="detections"):
        coco(ground_truth, detections)


def test_unknown_iou_types_are_named(ground_truth):
    with pytest.raises(UserError, match="keypoints"):
        GroundTruth(ground_truth, ("keypoints",))
