"""Mask targets: outlines pixel for pixel as pycocotools', coverage as RoIAlign of the raster."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from jaxdet.data.training_masks import touched_pixels, write_coverage, write_outlines
from jaxdet.models.batching import per_image
from jaxdet.ops import masks
from jaxdet.parallel import data_mesh

SIZE, RECTANGLES = 112, 36
targets_of = jax.jit(masks.mask_targets, static_argnames="out")


def rasterise(outlines, box, side=28):
    """Detectron2's `rasterize_polygons_within_box`."""
    scale = np.float32(side) / np.maximum(box[2:] - box[:2], np.float32(0.1))
    points = [((outline - box[:2]) * scale).ravel() for outline in outlines]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(points, side, side)))


def outlined(objects, rois, matched=None, out=28):
    """Targets of objects given as lists of polygons."""
    data = np.stack([write_outlines(outlines, SIZE) for outlines in objects])
    matched = np.arange(len(rois)) if matched is None else matched
    truth = np.ones(len(data), bool), np.zeros((len(data), 4), np.float32)
    return np.asarray(targets_of(data, *truth, rois.astype(np.float32), matched, out=out))


def iou(one, other):
    one, other = np.asarray(one, bool), np.asarray(other, bool)
    return np.mean((one & other).sum((-2, -1)) / np.maximum((one | other).sum((-2, -1)), 1))


@pytest.fixture(scope="module")
def stored(reference):
    return dict(reference("masks.npz"))


@pytest.fixture(scope="module")
def polygons(stored):
    return [[polygon.reshape(-1, 2)] for polygon in stored["polygons"]]


def test_targets_of_polygons_are_detectron2s(stored, polygons):
    np.testing.assert_array_equal(outlined(polygons, stored["boxes"]), stored["targets_28"])


@pytest.mark.parametrize("out", [14, 28])
def test_targets_in_shifted_boxes_are_pycocotools(stored, polygons, out):
    random = np.random.default_rng(0)
    matched = np.arange(36) % len(polygons)
    rois = stored["boxes"][matched] + random.normal(0, 6, (36, 4)).astype(np.float32)
    expected = [rasterise(polygons[m], roi, out) for m, roi in zip(matched, rois, strict=True)]
    np.testing.assert_array_equal(outlined(polygons, rois, matched, out), np.stack(expected))


def test_any_outline_gives_pycocotools_pixels():
    """Stars that cross themselves, overlapping parts, edges of all directions, parts outside."""
    random = np.random.default_rng(1)
    objects = [
        [
            random.uniform(0, 60, (random.integers(3, 20), 2)).round(random.integers(0, 3))
            for _ in range(random.integers(1, 4))
        ]
        for _ in range(RECTANGLES)
    ]
    corner = random.uniform(0, 20, (RECTANGLES, 2))
    rois = np.hstack([corner, corner + random.uniform(20, 40, (RECTANGLES, 2))]).astype(np.float32)
    expected = np.stack([rasterise(o, roi) for o, roi in zip(objects, rois, strict=True)])
    found = outlined(objects, rois)
    # A corner on the border of two steps is rounded in float32 here and in float64 there.
    assert np.mean(found != expected) < 2e-4
    assert np.mean((found != expected).any((1, 2))) < 0.1


def test_two_parts_that_overlap_are_one(polygons):
    square = np.array([(0, 0), (20, 0), (20, 20), (0, 20)], float)
    target = outlined([[square, square + 8, square[::-1] + 4]], np.array([[0, 0, 28, 28]]))[0]
    expected = np.zeros((28, 28), bool)
    expected[:20, :20] = expected[8:, 8:] = expected[4:24, 4:24] = True
    np.testing.assert_array_equal(target, expected)


def covered(pixels, boxes, rois, size=SIZE):
    """Targets of objects given as pixels of the canvas [height, width]."""
    data = []
    for mask, box in zip(pixels, boxes, strict=True):
        x1, y1, x2, y2 = touched_pixels(box)
        data.append(write_coverage(mask[y1:y2, x1:x2].astype(np.uint8), size))
    none = np.zeros(len(boxes), bool)
    return np.asarray(targets_of(np.stack(data), none, boxes, rois, np.arange(len(rois))))


def bins(start, end, length, out=28):
    """RoIAlign's weights of pixels along an axis, inside the canvas: [out, length]."""
    size = (end - start) / out
    count = max(1, int(np.ceil(size)))
    samples = start + size * (np.arange(out)[:, None] + (np.arange(count) + 0.5) / count)
    near = 1 - np.abs(samples[..., None] - (np.arange(length) + 0.5))
    return np.maximum(near, 0).mean(1)


@pytest.mark.parametrize(("side", "least"), [(24, 0.999), (80, 0.999), (300, 0.97)])
def test_targets_of_coverage_are_roi_align_of_the_pixels(side, least):
    """Detectron2's `BitMasks.crop_and_resize`, of blots of which some are as fine as a bin."""
    random, count, canvas = np.random.default_rng(2), 8, 384
    boxes = np.float32([40.3, 30.6, 40.3 + side, 30.6 + side]) + np.zeros((count, 1), np.float32)
    rois = boxes + random.normal(0, side / 12, boxes.shape).astype(np.float32)
    spectrum = np.fft.rfft2(random.normal(size=(count, canvas, canvas)))
    distance = np.hypot(np.fft.fftfreq(canvas)[:, None], np.fft.rfftfreq(canvas))
    noise = np.fft.irfft2(spectrum * np.exp(-((distance * side / 9) ** 2)))
    pixels = np.zeros((count, canvas, canvas), bool)
    x1, y1, x2, y2 = touched_pixels(boxes[0])
    pixels[:, y1:y2, x1:x2] = noise[:, y1:y2, x1:x2] > 0
    expected = [
        bins(roi[1], roi[3], canvas) @ mask @ bins(roi[0], roi[2], canvas).T >= 0.5
        for mask, roi in zip(pixels, rois, strict=True)
    ]
    assert iou(covered(pixels, boxes, rois), expected) >= least


def test_parity_is_the_same_in_both_forms():
    rng = np.random.default_rng(5)
    lowest = rng.integers(-20, 60, (3, 8, 12)).astype(np.int32)
    bits = np.where(rng.random((3, 8, 12)) < 0.4, 1 << rng.integers(0, 32, (3, 1, 12)), 0)
    bits[..., 9:] = 0
    steps = 5 * np.arange(7, dtype=np.int32) + 2
    expected = np.zeros((3, 7, 8), np.uint32)
    for edge in range(12):
        crosses = lowest[:, None, :, edge] <= steps[:, None]
        expected ^= np.where(crosses, bits[:, None, :, edge], 0).astype(np.uint32)
    for form in (masks.parity_at_once, masks.parity_in_sequence):
        found = jax.jit(form)(lowest, bits.astype(np.uint32), steps)
        np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 20


def test_target_is_zero_outside_the_object_box():
    full = np.ones((3, 96, 96), bool)
    box = np.array([[21, 21, 63, 63]] * 3, np.float32)
    rois = np.array([[0, 0, 84, 84], [21, 21, 63, 63], [64, 0, 90, 90]], np.float32)
    targets = covered(full, box, rois)
    inside = (np.arange(28) >= 7) & (np.arange(28) < 21)
    np.testing.assert_array_equal(targets[0], inside[:, None] & inside)
    assert targets[1].all()
    assert not targets[2].any()


def test_targets_of_padding_are_defined():
    nothing = np.zeros((2, SIZE, SIZE), np.uint8)
    for flag in (False, True):
        flags = np.full(2, flag)
        padded = targets_of(nothing, flags, np.zeros((2, 4)), np.zeros((3, 4)), np.zeros(3, int))
        assert padded.shape == (3, 28, 28)
        assert flag or not np.asarray(padded).any()


def test_targets_need_no_exchange_between_devices(collectives):
    data = np.zeros((8, 4, SIZE, SIZE), np.uint8)
    boxes, matched = np.zeros((8, 4, 4), np.float32), np.zeros((8, 4), int)
    mesh = data_mesh(8, 8)
    mapped = per_image(masks.mask_targets, mesh)
    assert collectives(mapped, data, np.zeros((8, 4), bool), boxes, boxes + 1, matched) == set()
