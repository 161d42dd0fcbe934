from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops import boxes as box_ops
from jaxdet.ops import matching

RPN = {"thresholds": (0.3, 0.7), "labels": (0, -1, 1), "allow_low_quality": True}
ROI = {"thresholds": (0.5,), "labels": (0, 1)}


sample = jax.jit(matching.sample, static_argnums=(2, 3))
sample_indices = jax.jit(matching.sample_indices, static_argnums=(2, 3))


def random_boxes(random, *shape, image_size=200.0):
    corner = random.uniform(0, 0.8 * image_size, (*shape, 2))
    size = random.uniform(0.02 * image_size, 0.4 * image_size, (*shape, 2))
    return np.concatenate([corner, corner + size], -1).astype(np.float32)


def with_padding(gt_boxes, boxes):
    """The ground truth among padding, one box of zeros and one that equals a box."""
    padded = np.concatenate([np.zeros((1, 4)), boxes[:1], gt_boxes, np.zeros((3, 4))])
    valid = np.zeros(len(padded), bool)
    valid[2:-3] = True
    return padded.astype(np.float32), valid


@pytest.fixture(params=["best_in_sequence", "best_by_reductions"])
def match_boxes(request, monkeypatch):
    """`match_boxes` in the form for GPUs and in that for all others."""
    monkeypatch.setattr(matching, "best_in_sequence", getattr(matching, request.param))
    return lambda *a, **rule: jax.jit(lambda *a: matching.match_boxes(*a, **rule))(*a)


@pytest.mark.parametrize(("name", "rule"), [("rpn", RPN), ("roi", ROI)])
@pytest.mark.parametrize("padded", [False, True])
def test_matching_agrees_with_reference(reference, match_boxes, name, rule, padded):
    stored = reference("matcher.npz")
    boxes, gt_boxes = stored["boxes"], stored["gt_boxes"]
    valid, shift = np.ones(len(gt_boxes), bool), 0
    if padded:
        (gt_boxes, valid), shift = with_padding(gt_boxes, boxes), 2
    for matched, labels in (
        matching.match(box_ops.iou(gt_boxes, boxes), valid, **rule),
        match_boxes(gt_boxes, valid, boxes, **rule),
    ):
        np.testing.assert_array_equal(matched - shift, stored[f"{name}_matches"])
        np.testing.assert_array_equal(labels, stored[f"{name}_labels"])
        assert matched.dtype == jnp.int32
        assert labels.dtype == jnp.int8


@pytest.mark.parametrize("seed", range(5))
def test_match_boxes_is_match_of_the_iou(seed, match_boxes):
    random = np.random.default_rng(seed)
    gt_boxes, boxes = random_boxes(random, 12), random_boxes(random, 500)
    boxes[::50] = gt_boxes[:10]
    boxes[1::50] = gt_boxes[:10]
    valid = random.uniform(size=12) < 0.7
    expected = jax.jit(lambda *a: matching.match(box_ops.iou(a[0], a[2]), a[1], **RPN))(
        gt_boxes, valid, boxes
    )
    result = match_boxes(gt_boxes, valid, boxes, **RPN)
    np.testing.assert_array_equal(result[0], expected[0])
    np.testing.assert_array_equal(result[1], expected[1])
    assert set(np.asarray(result[0])) <= set(np.flatnonzero(valid))


def test_thresholds_belong_to_the_upper_range():
    iou = np.array([[0.29, 0.3, 0.69, 0.7]], np.float32)
    _, labels = matching.match(iou, np.ones(1, bool), (0.3, 0.7), (0, -1, 1))
    np.testing.assert_array_equal(labels, [0, -1, -1, 1])


def test_low_quality_matches_include_ties_and_keep_the_best_match():
    iou = np.array([[0.2, 0.2, 0.1, 0.0], [0.25, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    matched, labels = matching.match(iou, np.ones(3, bool), **RPN)
    np.testing.assert_array_equal(labels, [1, 1, 0, 0])
    np.testing.assert_array_equal(matched, [1, 0, 0, 0])


@pytest.mark.parametrize(("other_iou", "expected"), [(0.4, 1), (0.6, 0)])
def test_the_example_in_the_docstring(other_iou, expected):
    iou = np.array([[0.85, other_iou, 0.1, 0.05, 0], [0.2, 0.5, 0.25, 0, 0], [0] * 5], np.float32)
    matched, labels = matching.match(iou, np.ones(3, bool), **RPN)
    np.testing.assert_array_equal(matched, [0, expected, 1, 0, 0])
    np.testing.assert_array_equal(labels, [1, 1, 0, 0, 0])


@pytest.mark.parametrize("rule", [RPN, ROI])
@pytest.mark.parametrize("padding", [0, 4])
def test_image_without_objects_is_all_negative(rule, padding, match_boxes):
    boxes = random_boxes(np.random.default_rng(0), 30)
    gt_boxes, valid = boxes[:padding], np.zeros(padding, bool)
    _, labels = match_boxes(gt_boxes, valid, boxes, **rule)
    np.testing.assert_array_equal(labels, np.zeros(30))
    if padding:
        _, labels = matching.match(box_ops.iou(gt_boxes, boxes), valid, **rule)
        np.testing.assert_array_equal(labels, np.zeros(30))


def test_match_boxes_needs_no_iou_matrix():
    anchors, objects, images = 261_888, 100, 2
    shapes = (
        jax.ShapeDtypeStruct((images, objects, 4), jnp.float32),
        jax.ShapeDtypeStruct((images, objects), bool),
        jax.ShapeDtypeStruct((anchors, 4), jnp.float32),
    )
    batched = jax.vmap(lambda *a: matching.match_boxes(*a, **RPN), (0, 0, None))
    memory = jax.jit(batched).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 32 * images * anchors


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(50, 500, (16, 48)), (3, 500, (3, 61)), (0, 500, (0, 64)), (50, 10, (16, 10)), (0, 0, (0, 0))],
)
def test_sample_counts(positives, negatives, expected):
    random = np.random.default_rng(1)
    rest = 600 - positives - negatives
    labels = np.repeat([1, 0, -1], [positives, negatives, rest]).astype(np.int8)
    random.shuffle(labels)
    for seed in range(5):
        key = jax.random.key(seed)
        sampled = np.asarray(sample(key, labels, 64, 0.25))
        assert ((sampled == 1).sum(), (sampled == 0).sum()) == expected
        assert (sampled[sampled >= 0] == labels[sampled >= 0]).all()

        indices, is_sampled, is_positive = (
            np.asarray(a) for a in sample_indices(key, labels, 64, 0.25)
        )
        assert indices.shape == is_sampled.shape == is_positive.shape == (64,)
        entry = np.arange(64)
        np.testing.assert_array_equal(is_positive, entry < expected[0])
        np.testing.assert_array_equal(is_sampled, entry < sum(expected))
        used = indices[is_sampled]
        assert set(used) == set(np.flatnonzero(sampled >= 0))
        assert len(set(used)) == len(used)
        np.testing.assert_array_equal(labels[used] == 1, is_positive[is_sampled])
        assert (indices[~is_sampled] == 0).all()


def test_fewer_boxes_than_samples():
    labels = np.array([0, 1, -1], np.int8)
    indices, is_sampled, is_positive = sample_indices(jax.random.key(0), labels, 8, 0.5)
    np.testing.assert_array_equal(indices, [1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(is_sampled, np.arange(8) < 2)
    np.testing.assert_array_equal(is_positive, np.arange(8) < 1)


def test_samples_are_uniform_and_vary_with_the_key():
    labels = np.repeat([1, 0], 20).astype(np.int8)
    keys = jax.random.split(jax.random.key(0), 4000)
    sampled = np.asarray(jax.vmap(lambda key: sample(key, labels, 10, 0.5))(keys))
    # 5 of 20 each: a share of 1/4 with a standard deviation of .0068 over 4000 samples.
    np.testing.assert_allclose((sampled >= 0).mean(0), 0.25, atol=0.035)
    assert len(np.unique(sampled, axis=0)) > 3900


@pytest.mark.parametrize("step", [1, 4])
def test_a_search_finds_the_largest_cut(step):
    random = np.random.default_rng(0)
    values = random.integers(0, 2**32, (2, 50), np.uint32) & np.array([[2**32 - 1], [7]], np.uint32)
    for count in (0, 1, 20, 49):
        cut = matching._search(jnp.asarray(values), jnp.full(2, count), step=step, bits=32)
        np.testing.assert_array_equal(cut[:, 0], np.sort(values)[:, count])
    cut = matching._search(jnp.asarray(values), jnp.full(2, 50), step=step, bits=32)
    np.testing.assert_array_equal(cut[:, 0], 2**32 - 1)


def test_equal_priorities_do_not_change_the_counts(monkeypatch):
    monkeypatch.setattr(jax.random, "bits", lambda key, shape: jnp.full(shape, 6, jnp.uint32))
    labels = np.array([-1, 0, 0, 1, 1, 0, 1, 0], np.int8)
    sampled = matching.sample(jax.random.key(0), labels, 4, 0.5)
    np.testing.assert_array_equal(sampled, [-1, 0, 0, 1, 1, -1, -1, -1])


def test_no_exchange_between_devices(collectives):
    random = np.random.default_rng(0)
    gt_boxes, boxes = random_boxes(random, 8, 5), random_boxes(random, 300)
    valid = random.uniform(size=(8, 5)) < 0.5
    keys = jax.random.split(jax.random.key(0), 8)

    def one_image(key, gt_boxes, valid):
        _, rpn_labels = matching.match_boxes(gt_boxes, valid, boxes, **RPN)
        _, roi_labels = matching.match(box_ops.iou(gt_boxes, boxes), valid, **ROI)
        return (
            matching.sample(key, rpn_labels, 64, 0.5),
            matching.sample_indices(key, roi_labels, 64, 0.25),
        )

    assert collectives(jax.vmap(one_image), keys, gt_boxes, valid) == set()
