from __future__ import annotations

import numpy as np
import pytest

from jaxdet.ops import boxes as box_ops

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@pytest.mark.parametrize(("name", "weights"), [("rpn", RPN_WEIGHTS), ("roi", ROI_WEIGHTS)])
def test_coder_agrees_with_reference(reference, name, weights):
    stored = reference("box_coder.npz")
    deltas = box_ops.encode(stored["source"], stored["target"], weights)
    np.testing.assert_allclose(deltas, stored[f"deltas_{name}"], rtol=1e-5)
    decoded = box_ops.decode(stored[f"random_deltas_{name}"], stored["source"], weights)
    np.testing.assert_allclose(decoded, stored[f"decoded_{name}"], rtol=1e-5)


def test_decode_inverts_encode():
    corner, size = np.random.default_rng(0).uniform(5, 100, (2, 2, 50, 2)).astype(np.float32)
    source, target = np.concatenate([corner, corner + size], -1)
    deltas = box_ops.encode(source, target, ROI_WEIGHTS)
    decoded = box_ops.decode(deltas, source, ROI_WEIGHTS)
    np.testing.assert_allclose(decoded, target, rtol=1e-5, atol=1e-4)


def test_decode_broadcasts_over_classes():
    random = np.random.default_rng(0)
    boxes = np.sort(random.uniform(0, 100, (6, 2, 2)), 1).reshape(6, 4).astype(np.float32)
    deltas = random.normal(size=(6, 3, 4)).astype(np.float32)
    together = box_ops.decode(deltas, boxes[:, None], ROI_WEIGHTS)
    assert together.shape == (6, 3, 4)
    for k in range(3):
        alone = box_ops.decode(deltas[:, k], boxes, ROI_WEIGHTS)
        np.testing.assert_allclose(together[:, k], alone, rtol=1e-6)


def test_decode_caps_growth():
    box = np.array([[10.0, 10.0, 26.0, 26.0]], np.float32)
    grown = box_ops.decode(np.array([[0.0, 0.0, 1e6, 100.0]], np.float32), box, RPN_WEIGHTS)
    np.testing.assert_allclose(grown, [[-482, -482, 518, 518]], rtol=1e-5)


def test_iou_agrees_with_reference(reference):
    stored = reference("matcher.npz")
    np.testing.assert_allclose(
        box_ops.iou(stored["gt_boxes"], stored["boxes"]), stored["iou"], rtol=1e-5
    )


def test_iou_of_empty_and_touching_boxes_is_zero():
    boxes = np.array([[0, 0, 0, 0], [5, 5, 5, 9], [0, 0, 2, 2], [2, 0, 4, 2]], np.float32)
    np.testing.assert_array_equal(box_ops.iou(boxes, boxes), np.diag([0, 0, 1, 1]))


def test_clip_and_emptiness():
    boxes = np.array([[-5, -5, 5, 5], [90, 10, 120, 80], [101, 2, 130, 9]], np.float32)
    clipped = box_ops.clip(boxes, np.array([60, 100]))
    np.testing.assert_array_equal(clipped, [[0, 0, 5, 5], [90, 10, 100, 60], [100, 2, 100, 9]])
    np.testing.assert_array_equal(box_ops.is_nonempty(clipped), [True, True, False])
    np.testing.assert_array_equal(box_ops.area(clipped), [25, 500, 0])


def test_giou_is_the_definition():
    a, b = np.random.default_rng(0).uniform(0, 50, (2, 60, 2, 2))
    a, b = (np.concatenate([x.min(1), x.max(1)], -1).astype(np.float32) for x in (a, b))
    a[:2], b[:2] = [(0, 0, 4, 4), (10, 10, 10, 10)], [(0, 0, 4, 4), (10, 10, 10, 10)]
    expected = []
    for (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) in zip(a, b, strict=True):
        overlap = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
        union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - overlap
        hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
        union, hull = max(union, 1e-6), max(hull, 1e-6)
        expected.append(overlap / union - (hull - union) / hull)
    np.testing.assert_allclose(box_ops.giou(a, b), expected, rtol=1e-4, atol=1e-5)
    assert box_ops.giou(a, b)[0] == 1
