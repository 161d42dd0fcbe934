"""What is told of detections beside their AP, on a set small enough to judge by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxdet.data.shapes import ShapesDataset
from jaxdet.errors import UserError
from jaxdet.evaluation.coco import evaluate_coco
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.inspection import inspect, object_counts

CAT, DOG, BACKGROUND = 0, 1, 2

DOCUMENT = {
    "images": [
        {"id": 7, "file_name": "b.jpg", "height": 100, "width": 200},
        {"id": 3, "file_name": "a.jpg", "height": 100, "width": 200},
    ],
    "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 2, "bbox": [0, 0, 40, 40]},
        {"id": 2, "image_id": 3, "category_id": 5, "bbox": [100, 0, 40, 40]},
        {"id": 3, "image_id": 7, "category_id": 5, "bbox": [0, 0, 20, 20]},
        {"id": 4, "image_id": 7, "category_id": 2, "bbox": [100, 0, 60, 60], "iscrowd": 1},
    ],
}


def found(image_id, category_id, score, *bbox):
    return {"image_id": image_id, "category_id": category_id, "score": score, "bbox": [*bbox]}


RESULTS = [
    found(3, 2, 0.9, 0, 0, 40, 40),  # right
    found(3, 2, 0.8, 100, 0, 40, 40),  # a dog taken for a cat
    found(3, 5, 0.7, 101, 0, 40, 40),  # the dog, right in its category
    found(7, 2, 0.75, 100, 0, 20, 20),  # in the crowd of cats: neither right nor wrong
    found(7, 5, 0.2, 100, 60, 20, 20),  # below the working point
]


@pytest.fixture(scope="module")
def inspected():
    return inspect(EvalInputs(GroundTruth(DOCUMENT, ("bbox",)), RESULTS))


def test_the_working_point_is_that_of_the_best_f1(inspected):
    # F1 after each that counts: 2/4, 2/5, 4/6, 4/7.
    assert inspected["score"] == 0.7


def test_confusions_are_of_objects_and_what_was_found_there(inspected):
    assert inspected["categories"] == ["cat", "dog"]
    assert inspected["confusion"] == [
        [CAT, CAT, 1],
        [DOG, CAT, 1],  # the better score has the object
        [DOG, BACKGROUND, 1],
        [BACKGROUND, DOG, 1],
    ]
    assert inspected["objects"] == {"val": [1, 2]}


def test_images_list_what_is_right_and_what_is_wrong(inspected):
    first, second = inspected["images"]
    assert first == {
        "id": 3,
        "file": "a.jpg",
        "hw": [100, 200],
        "objects": [[CAT, 0, 0, 40, 40, True], [DOG, 100, 0, 40, 40, True]],
        "detections": [
            [CAT, 0.9, 0, 0, 40, 40, "right"],
            [CAT, 0.8, 100, 0, 40, 40, "Cls"],
            [DOG, 0.7, 101, 0, 40, 40, "right"],
        ],
    }
    assert second["objects"] == [[DOG, 0, 0, 20, 20, False]]
    assert second["detections"] == []


def test_the_mean_of_the_last_curve_is_ap():
    document = ShapesDataset("val", 20, 64).ground_truth()
    draw = np.random.default_rng(0)
    results = []
    for each in document["annotations"]:
        moved = [float(v) for v in np.array(each["bbox"]) + draw.normal(0, 2, 4)]
        box = [*moved[:2], max(moved[2], 1.0), max(moved[3], 1.0)]
        results.append({**each, "bbox": box, "score": float(draw.random())})
    inputs = EvalInputs(GroundTruth(document), results)
    expected = evaluate_coco(inputs)
    content = json.loads(json.dumps(inspect(inputs), allow_nan=False))
    for kind, curves in content["precision"].items():
        assert np.mean(curves["0.5:0.95"]) == pytest.approx(expected[kind]["AP"], abs=1e-4)
        assert np.mean(curves["0.5"]) == pytest.approx(expected[kind]["AP50"], abs=1e-4)
        assert np.mean(curves["0.75"]) == pytest.approx(expected[kind]["AP75"], abs=1e-4)


@pytest.mark.parametrize("document", [DOCUMENT, {**DOCUMENT, "annotations": []}])
def test_nothing_found_and_nothing_to_find_are_inspected(document):
    content = inspect(EvalInputs(GroundTruth(document, ("bbox",)), []))
    assert content["score"] == 0.5
    assert len(content["images"]) == 2
    json.dumps(content, allow_nan=False)


def test_objects_to_train_on_are_counted():
    dataset = ShapesDataset("train", 10, 64)
    counts = object_counts(dataset)
    assert sum(counts) == sum(len(dataset[i].labels) for i in range(10))
    assert len(counts) == 4


def test_objects_of_a_set_that_lists_no_labels_are_not_counted(monkeypatch):
    def labels(*_):
        raise UserError("lists no labels")

    dataset = ShapesDataset("train", 10, 64)
    monkeypatch.setattr(ShapesDataset, "labels", labels)
    assert object_counts(dataset) is None
