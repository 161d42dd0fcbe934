"""A detector's outputs as COCO results: masks pasted and encoded."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from jaxdet.inference.coco_results import coco_results, encode_mask


def decoded(mask, box, height, width, **threshold):
    """What the code of a mask stands for; it must be the one pycocotools gives it."""
    code = encode_mask(mask, box, height, width, **threshold)
    image = coco_mask.decode(code)
    assert code == coco_mask.encode(np.asfortranarray(image))
    return image.astype(bool)


def test_paste_agrees_with_reference(reference):
    stored = reference("masks.npz")
    height, width = stored["image_size"]
    expected = np.unpackbits(stored["pasted"], axis=-1)[..., :width].astype(bool)
    for soft, box, image in zip(stored["soft_masks"], stored["boxes"], expected, strict=True):
        pasted = decoded(soft, box, height, width)
        assert pasted.shape == (height, width)
        assert np.mean(pasted == image) >= 0.999
        # Most of the image is empty: hold the object itself to the same.
        assert (pasted & image).sum() >= 0.999 * (pasted | image).sum()


@pytest.mark.parametrize(
    ("box", "covered"),
    [
        ([-10.0, -10.0, 5.0, 7.0], (slice(0, 7), slice(0, 5))),
        ([25.0, 12.0, 70.0, 90.0], (slice(12, 20), slice(25, 30))),
        ([-5.0, -5.0, 50.0, 50.0], (slice(0, 20), slice(0, 30))),
        ([4.0, 3.0, 9.0, 6.0], (slice(3, 6), slice(4, 9))),
        ([-40.0, 3.0, -20.0, 6.0], (slice(0, 0), slice(0, 0))),
        ([31.0, 50.0, 60.0, 60.0], (slice(0, 0), slice(0, 0))),
        ([8.0, 8.0, 8.0, 12.0], (slice(0, 0), slice(0, 0))),
    ],
)
def test_paste_of_a_full_mask_covers_the_box(box, covered):
    expected = np.zeros((20, 30), bool)
    expected[covered] = True
    pasted = decoded(np.ones((28, 28), np.float32), np.array(box), 20, 30)
    np.testing.assert_array_equal(pasted, expected)


def test_paste_threshold():
    mask, box = np.full((28, 28), 0.4, np.float32), np.array([2.0, 2.0, 8.0, 8.0])
    assert not decoded(mask, box, 10, 10).any()
    assert decoded(mask, box, 10, 10, threshold=0.3)[3:7, 3:7].all()


def test_a_mask_may_fill_the_image_or_its_last_column():
    ones = np.ones((28, 28), np.float32)
    assert decoded(ones, np.array([-9.0, -9.0, 50.0, 40.0]), 20, 30).all()
    column = decoded(ones, np.array([29.0, 0.0, 30.0, 20.0]), 20, 30)
    assert column[:, 29].all()
    assert column.sum() == 20


def test_results_are_in_the_frame_of_the_original_image():
    boxes = np.array([[[0, 0, 32, 16], [8, 8, 90, 16], [0, 4, 8, 4]]], np.float32)
    detections = {
        "boxes": boxes,
        "scores": np.array([[0.9, 0.5, 0.4]], np.float32),
        "labels": np.array([[1, 0, 1]]),
        "valid": np.array([[True, True, True]]),
        "masks": None,
    }
    batch = {
        "image_id": np.array([7]),
        "image_hw": np.array([[32, 64]]),
        "original_hw": np.array([[64, 128]]),
        "is_real": np.array([True]),
    }
    found = coco_results(detections, batch, [10, 20])
    assert found == [
        {"image_id": 7, "category_id": 20, "bbox": [0, 0, 64, 32], "score": pytest.approx(0.9)},
        {"image_id": 7, "category_id": 10, "bbox": [16, 16, 112, 16], "score": 0.5},
    ]  # clipped to the image; the third is empty
    detections["masks"] = np.ones((1, 3, 28, 28), np.float32)
    first = coco_results(detections, batch, [10, 20])[0]["segmentation"]
    assert coco_mask.area({**first, "counts": first["counts"].encode()}) == 64 * 32
    assert coco_results(detections, {**batch, "is_real": np.array([False])}, [10, 20]) == []


def test_a_worker_s_imports_leave_jax_out():
    command = (
        "import sys, jaxdet.main, jaxdet.inference.coco_results; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0
