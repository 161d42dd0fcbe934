"""Sets of objects and detections, and their numbers, for the tests of metrics."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as mask_api

from jaxdet.evaluation.coco import evaluate_coco
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.metric_names import IOU_TYPES
from jaxdet.evaluation.tide import evaluate_tide

HEIGHT, WIDTH, CATEGORIES = 120, 160, 6


def coco(document, results, iou_types=IOU_TYPES, **options):
    """COCO's numbers of detections as files hold them."""
    return evaluate_coco(EvalInputs(GroundTruth(document, iou_types), results), **options)


def tide(document, results, iou_types=IOU_TYPES, **options):
    """TIDE's numbers of detections as files hold them."""
    return evaluate_tide(EvalInputs(GroundTruth(document, iou_types), results), **options)


def random_set(seed: int, images: int = 12):
    """Ground truth and detections: hits, near misses, wrong categories, duplicates, crowd regions,
    equal scores, a category without objects, and images without either.
    """
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(1000)[:images].tolist()
    annotations, results = [], []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 9)):
            size = rng.uniform(8, 80, 2)
            box = np.concatenate([rng.uniform(0, [WIDTH, HEIGHT] - size), size])
            category = int(rng.integers(1, CATEGORIES))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "iscrowd": int(rng.random() < 0.1),
                    **_entry(image_id, category, box),
                }
            )
            for _ in range(rng.integers(0, 4)):
                moved = box + rng.normal(0, 0.12, 4) * np.tile(size, 2)
                moved[2:] = np.maximum(moved[2:], 4)
                is_right = rng.random() < 0.8
                label = category if is_right else int(rng.integers(1, CATEGORIES + 1))
                score = float(rng.integers(1, 40)) / 40
                results.append({**_entry(image_id, label, moved), "score": score})
    rng.shuffle(results)
    document = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CATEGORIES + 1)],
    }
    return document, results


def _entry(image_id: int, category: int, box: np.ndarray):
    x, y, w, h = (float(value) for value in box)
    corners = [x, y, x + w, y, x + 0.8 * w, y + h, x, y + h]
    (mask,) = mask_api.frPyObjects([corners], HEIGHT, WIDTH)
    return {
        "image_id": image_id,
        "category_id": category,
        "bbox": [x, y, w, h],
        "area": w * h,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": mask["counts"].decode()},
    }
