"""TIDE's error types: equal to tidecv's numbers, and each found in a scene made for it."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxdet.errors import UserError
from jaxdet.evaluation.metric_names import MAIN_ERRORS
from jaxdet.evaluation.tide import RECALLS
from tests.evaluation.sets import coco, random_set, tide

SIDE = 100
CAT, DOG = 1, 2
FIRST, SECOND = [0, 0, 40, 40], [50, 50, 40, 40]


def rectangle(bbox):
    x, y, w, h = bbox
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    return mask_api.frPyObjects([polygon], SIDE, SIDE)[0]


def scene(*objects, image_ids=(1,)):
    """Ground truth of objects (category, bbox[, changes to the annotation])."""
    annotations = [
        {
            "image_id": 1,
            "category_id": category,
            "bbox": bbox,
            "iscrowd": 0,
            "segmentation": rectangle(bbox),
            **(changes[0] if changes else {}),
        }
        for category, bbox, *changes in objects
    ]
    return {
        "images": [{"id": image_id, "height": SIDE, "width": SIDE} for image_id in image_ids],
        "annotations": annotations,
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
    }


def found(*detections):
    """Detections (category, bbox[, changes to the result]), scores falling from .9."""
    return [
        {
            "image_id": 1,
            "category_id": category,
            "bbox": bbox,
            "score": 0.9 - 0.01 * rank,
            "segmentation": rectangle(bbox),
            **(changes[0] if changes else {}),
        }
        for rank, (category, bbox, *changes) in enumerate(detections)
    ]


def approx(**gains):
    return pytest.approx({**dict.fromkeys(MAIN_ERRORS, 0), **gains}, abs=1e-12)


@pytest.fixture
def real(shared):
    instances = json.loads((shared / "data/coco_val50/instances.json").read_text())
    detections = json.loads((shared / "reference/coco_eval/detections.json").read_text())
    return instances, detections


def test_equals_tidecv_on_real_images(real, shared):
    expected = json.loads((shared / "reference/coco_eval/expected_metrics.json").read_text())
    for iou_type, numbers in tide(*real).items():
        tidecv = expected[f"tide_{iou_type}"]
        assert 100 * numbers["AP"] == pytest.approx(tidecv["AP50"], abs=1e-9)
        for group in ("main", "special"):
            ours = {name: 100 * gain for name, gain in numbers[group].items()}
            assert ours == pytest.approx(tidecv[group], abs=1e-9)


def ap50(document, results, iou_type, recalls):
    """AP at IoU .5 by pycocotools itself, read at other recalls than its own."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(document)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), iou_type)
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.recThrs = recalls
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]
    return precision[precision > -1].mean()


def best_of_each_image(results, count):
    best = sorted(results, key=lambda result: -result["score"])
    taken = Counter()
    kept = []
    for result in best:
        taken[result["image_id"]] += 1
        if taken[result["image_id"]] <= count:
            kept.append(result)
    return kept


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_detections", [100, 4])
def test_ap_is_pycocotools_ap50_of_the_detections_that_count(seed, max_detections):
    """Of an image these are the best of all categories; precision is read at TIDE's recalls."""
    document, results = random_set(seed)
    counted = best_of_each_image(results, max_detections)
    for iou_type, numbers in tide(document, results, max_detections=max_detections).items():
        expected = ap50(document, counted, iou_type, RECALLS)
        assert numbers["AP"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_ap_is_coco_s_where_no_recall_is_a_hundredth(seed):
    """k of n objects are then no recall at which precision is read, but for none and all."""
    document, results = random_set(seed)
    counts = Counter(a["category_id"] for a in document["annotations"] if not a["iscrowd"])
    for category, count in counts.items():
        own = [
            a for a in document["annotations"] if a["category_id"] == category and not a["iscrowd"]
        ]
        while math.gcd(count, 100) > 1:
            count -= 1
            document["annotations"].remove(own.pop())
    expected = coco(document, results)
    for iou_type, numbers in tide(document, results).items():
        assert numbers["AP"] == pytest.approx(expected[iou_type]["AP50"], abs=1e-12)


def test_at_a_recall_of_35_hundredths_coco_s_ap_reads_the_next_precision():
    """7 of 20 objects are found before the only error; pycocotools' .35 is above 7 / 20."""
    places = [[20 * (i % 5), 20 * (i // 5), 15, 15] for i in range(20)]
    cats = [(CAT, place) for place in places]
    ground_truth = scene(*cats)
    detections = found(*cats[:7], (CAT, [90, 90, 5, 5]), *cats[7:])
    expected = coco(ground_truth, detections)
    for iou_type, numbers in tide(ground_truth, detections).items():
        difference = numbers["AP"] - expected[iou_type]["AP50"]
        assert difference == pytest.approx((1 - 20 / 21) / 101, abs=1e-12)


LOOSE = [8, 0, 40, 40]  # IoU with FIRST 32 / 48
OFF = [20, 0, 40, 40]  # IoU with FIRST 20 / 60
AWAY = [70, 0, 30, 30]  # IoU 0 with both

ONE_CAT = [(CAT, FIRST)]
TWO_CATS = [(CAT, FIRST), (CAT, SECOND)]
CAT_AND_DOG = [(CAT, FIRST), (DOG, SECOND)]
LOWER_HALF, UPPER_HALF = 51 / 101, 50 / 101  # of COCO's recalls: 0 to .5, .51 to 1


@pytest.mark.parametrize(
    ("objects", "detections", "ap", "main", "special"),
    [
        pytest.param(CAT_AND_DOG, CAT_AND_DOG, 1, {}, (0, 0), id="no error"),
        pytest.param(ONE_CAT, [(DOG, FIRST)], 0, {"Cls": 1}, (0, 0), id="Cls"),
        pytest.param(ONE_CAT, [(CAT, OFF)], 0, {"Loc": 1}, (0, 0), id="Loc"),
        pytest.param(
            CAT_AND_DOG, [(DOG, OFF), *CAT_AND_DOG], 0.75, {"Both": 0.25}, (0.25, 0), id="Both"
        ),
        pytest.param(
            TWO_CATS,
            [(CAT, FIRST), (CAT, LOOSE), (CAT, SECOND)],
            1 - UPPER_HALF / 3,
            {"Dupe": UPPER_HALF / 3},
            (UPPER_HALF / 3, 0),
            id="Dupe",
        ),
        pytest.param(ONE_CAT, [(CAT, AWAY), (CAT, FIRST)], 0.5, {"Bkg": 0.5}, (0.5, 0), id="Bkg"),
        pytest.param(
            TWO_CATS, ONE_CAT, LOWER_HALF, {"Miss": UPPER_HALF}, (0, UPPER_HALF), id="Miss"
        ),
        # One error of an object is fixed, that of best score; the others stand or go.
        pytest.param(ONE_CAT, [(CAT, OFF), (CAT, OFF)], 0, {"Loc": 1}, (0, 0), id="Loc twice"),
        pytest.param(
            ONE_CAT, [(CAT, OFF), (DOG, FIRST)], 0, {"Loc": 1}, (0, 0), id="Loc above Cls"
        ),
        pytest.param(
            ONE_CAT, [(DOG, FIRST), (CAT, OFF)], 0, {"Cls": 1}, (0, 0), id="Cls above Loc"
        ),
        # The object is found, so that fixing can only remove the error.
        pytest.param(
            ONE_CAT,
            [(CAT, OFF), (CAT, FIRST)],
            0.5,
            {"Loc": 0.5},
            (0.5, 0),
            id="Loc of a found one",
        ),
        # What a Loc or Cls error would find, if fixed, is no Miss; FalseNeg counts it.
        pytest.param(
            TWO_CATS,
            [(CAT, FIRST), (DOG, SECOND)],
            LOWER_HALF,
            {"Cls": UPPER_HALF},
            (0, UPPER_HALF),
            id="Cls, no Miss",
        ),
    ],
)
def test_each_error_costs_what_fixing_it_gains(objects, detections, ap, main, special):
    result = tide(scene(*objects), found(*detections))
    assert set(result) == {"bbox", "segm"}
    for numbers in result.values():
        assert numbers["AP"] == pytest.approx(ap, abs=1e-12)
        assert numbers["main"] == approx(**main)
        assert (numbers["special"]["FalsePos"], numbers["special"]["FalseNeg"]) == pytest.approx(
            special, abs=1e-12
        )


def test_masks_are_judged_by_masks_and_boxes_by_boxes():
    lower_half = {"segmentation": rectangle([0, 0, 40, 16])}
    result = tide(scene(*ONE_CAT), found((CAT, FIRST, lower_half)))
    assert result["bbox"]["AP"] == 1
    assert result["segm"]["AP"] == 0
    assert result["segm"]["main"] == approx(Loc=1)


def test_thresholds_move_the_borders_of_the_types():
    ground_truth, loose, off = scene(*ONE_CAT), found((CAT, LOOSE)), found((CAT, OFF), (CAT, FIRST))
    assert tide(ground_truth, loose)["bbox"]["AP"] == 1
    strict = tide(ground_truth, loose, foreground=0.75)["bbox"]
    assert (strict["AP"], strict["main"]) == (0, approx(Loc=1))
    assert tide(ground_truth, off)["bbox"]["main"] == approx(Loc=0.5)
    wide = tide(ground_truth, off, background=0.4)["bbox"]
    assert wide["main"] == approx(Bkg=0.5)


def test_in_a_crowd_region_a_detection_of_its_category_is_no_error():
    crowd = {"iscrowd": 1}
    detections = found((CAT, [75, 5, 10, 10]), (CAT, FIRST))
    for category, ap in ((CAT, 1), (DOG, 0.5)):
        ground_truth = scene((CAT, FIRST), (category, AWAY, crowd))
        for numbers in tide(ground_truth, detections).values():
            assert numbers["AP"] == pytest.approx(ap)
            assert numbers["main"] == approx(Bkg=1 - ap)


def test_a_detection_in_a_crowd_region_can_be_fixed_as_one_of_another_category():
    ground_truth = scene((DOG, FIRST), (CAT, FIRST, {"iscrowd": 1}))
    for numbers in tide(ground_truth, found((CAT, FIRST))).values():
        assert (numbers["AP"], numbers["main"]) == (0, approx(Cls=1))


def test_a_category_without_ground_truth_does_not_enter_the_mean():
    numbers = tide(scene(*ONE_CAT), found((CAT, FIRST), (DOG, AWAY)))["bbox"]
    assert numbers["AP"] == 1
    assert numbers["main"] == approx()


def test_the_mean_is_over_the_same_categories_whatever_is_fixed():
    """In tidecv the dog would leave the mean with Miss fixed, and AP would rise by .5."""
    numbers = tide(scene(*CAT_AND_DOG), found((CAT, FIRST)))["bbox"]
    assert numbers["AP"] == 0.5
    assert numbers["main"] == approx()
    assert numbers["special"] == {"FalsePos": 0, "FalseNeg": 0}


def test_ground_truth_without_masks_is_scored_by_boxes(real):
    instances, detections = real
    boxes = {
        **instances,
        "annotations": [
            {name: value for name, value in annotation.items() if name != "segmentation"}
            for annotation in instances["annotations"]
        ],
    }
    result = tide(boxes, detections)
    assert result["bbox"] == tide(*real)["bbox"]
    assert math.isnan(result["segm"]["AP"])


def test_detections_without_masks_are_scored_by_boxes():
    boxes = [{k: v for k, v in d.items() if k != "segmentation"} for d in found(*ONE_CAT)]
    assert tide(scene(*ONE_CAT), boxes, iou_types=("bbox",))["bbox"]["AP"] == 1
    with pytest.raises(UserError, match=r"detections\[0\]: segmentation is missing"):
        tide(scene(*ONE_CAT), boxes)


def test_without_detections_ap_is_0_and_there_is_nothing_to_fix():
    for numbers in tide(scene(*CAT_AND_DOG), []).values():
        assert numbers["AP"] == 0
        assert numbers["main"] == approx()


@pytest.mark.parametrize("image_ids", [(1,), ()])
def test_without_ground_truth_the_numbers_are_nan(image_ids):
    detections = found(*ONE_CAT) if image_ids else []
    for numbers in tide(scene(image_ids=image_ids), detections).values():
        gains = [*numbers["main"].values(), *numbers["special"].values()]
        assert all(math.isnan(number) for number in (numbers["AP"], *gains))


def test_max_detections_count_over_all_categories():
    detections = found((DOG, AWAY), (CAT, AWAY), (CAT, FIRST))
    every = tide(scene(*ONE_CAT), detections)["bbox"]
    assert (every["AP"], every["main"]) == (0.5, approx(Bkg=0.5))
    assert tide(scene(*ONE_CAT), detections, max_detections=2)["bbox"]["AP"] == 0


def test_images_are_judged_apart():
    ground_truth = scene(*ONE_CAT, image_ids=(2, 1))
    detections = found((CAT, FIRST, {"image_id": 2}), (CAT, FIRST))
    for numbers in tide(ground_truth, detections).values():
        assert (numbers["AP"], numbers["main"]) == (0.5, approx(Bkg=0.5))


def test_the_numbers_are_json_and_the_arguments_left_alone():
    arguments = scene(*CAT_AND_DOG), found((DOG, OFF), *CAT_AND_DOG)
    before = copy.deepcopy(arguments)
    result = tide(*arguments)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert arguments == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_types": ("keypoints",)}, "keypoints"),
        ({"max_detections": 0}, "max_detections"),
        ({"background": 0.5}, "background"),
        ({"background": 0}, "background"),
        ({"foreground": 1.1}, "foreground"),
        ({"foreground": math.nan}, "foreground"),
    ],
)
def test_an_unusable_option_is_named(options, message):
    with pytest.raises(UserError, match=message):
        tide(scene(*ONE_CAT), [], **options)


def test_a_malformed_detection_is_named():
    with pytest.raises(UserError, match=r"detections\[1\]: score"):
        tide(scene(*ONE_CAT), found((CAT, FIRST), (CAT, FIRST, {"score": math.nan})))
