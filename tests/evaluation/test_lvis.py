"""LVIS's metrics: those of its own package, to the last digit, and its rules one by one."""

from __future__ import annotations

import json
import math

import pytest

from jaxdet.errors import UserError
from jaxdet.evaluation.evaluate import Evaluator, evaluate_detections
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.lvis import check_lvis, evaluate_lvis
from jaxdet.evaluation.scoring import score
from jaxdet.training.experiment import Experiment
from tests import tiny


@pytest.fixture(scope="module")
def real(shared):
    folder = shared / "reference/lvis_eval"
    names = ("annotations", "detections", "expected_metrics")
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def test_equals_the_package_to_the_last_digit(real):
    document, detections, expected = real
    metrics = evaluate_lvis(EvalInputs(GroundTruth(document), detections))
    for kind in ("bbox", "segm"):
        per_category = metrics[kind].pop("per_category")
        assert metrics[kind] == expected[kind]
        wanted = expected[f"{kind}_per_category_AP"]
        assert {name: -1 if math.isnan(ap) else ap for name, ap in per_category.items()} == wanted


def test_equals_the_package_without_the_limit(real):
    document, detections, expected = real
    inputs = EvalInputs(GroundTruth(document, ["bbox"]), detections)
    found = evaluate_lvis(inputs, max_detections=len(detections))["bbox"]
    wanted = expected["bbox_without_the_limit"]
    assert {name: found[name.replace("@300", f"@{len(detections)}")] for name in wanted} == wanted


def document(**image):
    """One image that shows one object of category 1; 2 is negative, 3 and 4 are not looked for."""
    return {
        "images": [
            {
                "id": 7,
                "height": 100,
                "width": 100,
                "neg_category_ids": [2],
                "not_exhaustive_category_ids": [],
                **image,
            }
        ],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 10, 50, 50]}],
        "categories": [
            {"id": number, "name": name, "frequency": frequency}
            for number, (name, frequency) in enumerate(zip("abcd", "rcff", strict=True), start=1)
        ],
    }


def detection(category, score, box=(10, 10, 50, 50)):
    return {"image_id": 7, "category_id": category, "bbox": list(box), "score": score}


def numbers(truth, *detections, **kwargs):
    return evaluate_lvis(EvalInputs(GroundTruth(truth, ["bbox"]), [*detections]), **kwargs)["bbox"]


def test_frequencies_and_what_has_nothing_to_find():
    found = numbers(document(), detection(1, 0.5))
    assert [found[name] for name in ("AP", "APr", "AR@300")] == pytest.approx([1, 1, 1])
    assert all(math.isnan(found[name]) for name in ("APc", "APf", "APs"))


def test_detections_of_what_was_not_looked_for_count_neither_way():
    truth = document()
    truth["annotations"].append({**truth["annotations"][0], "id": 2, "category_id": 3})
    truth["images"].append({**truth["images"][0], "id": 8})
    unknown = numbers(truth, detection(3, 0.5), {**detection(3, 0.9), "image_id": 8})
    assert unknown["per_category"]["c"] == pytest.approx(1)
    truth["images"][1]["neg_category_ids"] = [3]
    negative = numbers(truth, detection(3, 0.5), {**detection(3, 0.9), "image_id": 8})
    assert negative["per_category"]["c"] == pytest.approx(0.5)


def test_what_is_not_annotated_exhaustively_has_no_false_positives():
    wrong = detection(1, 0.9, (60, 60, 30, 30))
    assert numbers(document(), wrong, detection(1, 0.5))["AP"] == pytest.approx(0.5)
    truth = document(not_exhaustive_category_ids=[1])
    assert numbers(truth, wrong, detection(1, 0.5))["AP"] == pytest.approx(1)


def test_the_limit_counts_detections_of_all_categories():
    others = [detection(4, 0.9)] * 2
    assert numbers(document(), *others, detection(1, 0.5), max_detections=3)["AR@3"] == 1
    assert numbers(document(), *others, detection(1, 0.5), max_detections=2)["AR@2"] == 0


def test_masks_have_their_own_areas():
    truth = document()
    truth["annotations"][0] |= {
        "segmentation": [[30, 30, 50, 30, 50, 50, 30, 50]],
        "area": 400.0,
    }
    hit = detection(1, 0.5) | {"segmentation": truth["annotations"][0]["segmentation"]}
    wrong = detection(1, 0.9) | {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
    metrics = evaluate_lvis(EvalInputs(GroundTruth(truth), [wrong, hit]))
    # The wrong mask of 400 pixels is a small one, its box of 2500 would be a medium one.
    assert metrics["segm"]["APs"] == pytest.approx(0.5)


def test_other_annotations_are_refused():
    truth = document()
    del truth["images"][0]["neg_category_ids"]
    with pytest.raises(UserError, match=r"image 7 must have a list 'neg_category_ids'.*metric"):
        numbers(truth)
    truth = document()
    del truth["categories"][1]["frequency"]
    with pytest.raises(UserError, match="category 'b' must have a frequency of 'r', 'c' or 'f'"):
        numbers(truth)
    with pytest.raises(UserError, match="max_detections=0 must be at least 1"):
        numbers(document(), max_detections=0)


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("images", "neg_category_ids", None, "image 7 must have a list 'neg_category_ids'"),
        ("images", "neg_category_ids", [[1]], "a list 'neg_category_ids' of category ids"),
        ("images", "not_exhaustive_category_ids", "1", "'not_exhaustive_category_ids' of category"),
        ("images", "not_exhaustive_category_ids", [{}], "'not_exhaustive_category_ids' of cat"),
        ("categories", "frequency", ["r"], "category 'a' must have a frequency of 'r', 'c' or 'f'"),
        ("categories", "frequency", "rare", "category 'a' must have a frequency"),
    ],
)
def test_what_lvis_lacks_is_said_before_anything_is_trained(part, key, value, said):
    truth = document()
    check_lvis(truth)
    truth[part][0][key] = value
    with pytest.raises(UserError, match=said):
        check_lvis(truth)


def test_an_evaluator_of_lvis_needs_its_annotations(tmp_path):
    config = tiny.get_config()
    config.data.metric = "lvis"
    with pytest.raises(UserError, match="must have a frequency of 'r', 'c' or 'f'"):
        Evaluator(Experiment(config, tmp_path))
    file = tmp_path / "detections.json"
    file.write_text("[]")
    with pytest.raises(UserError, match=r"^category .* must have a frequency"):  # not the file's
        evaluate_detections(Experiment(config, tmp_path), file)


def test_scores_of_lvis_have_no_errors_of_tide():
    inputs = EvalInputs(GroundTruth(document(), ["bbox"]), [detection(1, 0.5)])
    metrics = score(inputs, max_detections=300, metric="lvis")
    assert [*metrics] == ["bbox"]
    assert metrics["bbox"]["APr"] == pytest.approx(1)
