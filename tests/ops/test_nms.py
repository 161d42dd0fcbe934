from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops.nms import nms, soft_nms, suppress_in_sequence, suppress_to_fixed_point


def greedy(boxes, scores, valid, threshold, groups=None):
    """The definition, one box at a time: which boxes stay, in score order."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not valid[i]:
            continue
        for j in kept:
            if groups is not None and groups[i] != groups[j]:
                continue
            size = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
            intersection = np.prod(np.maximum(size, 0))
            if intersection > 0 and intersection / (area[i] + area[j] - intersection) > threshold:
                break
        else:
            kept.append(i)
    return kept


def in_score_order(keep, scores):
    order = np.argsort(-scores, kind="stable")
    return order[np.asarray(keep)[order]]


def clustered_boxes(seed, n=250, clusters=12):
    """Jittered copies of few boxes, as a proposal network yields them, and some strays."""
    random = np.random.default_rng(seed)
    center = random.uniform(0, 300, (clusters, 2))
    size = np.exp(random.uniform(2, 5, (clusters, 2)))
    of = random.integers(0, clusters, n)
    centers = center[of] + random.normal(0, 0.12, (n, 2)) * size[of]
    sizes = size[of] * np.exp(random.normal(0, 0.15, (n, 2)))
    stray = random.uniform(size=n) < 0.2
    centers[stray] = random.uniform(0, 300, (stray.sum(), 2))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], -1).astype(np.float32)
    scores = random.permutation(n).astype(np.float32) / n
    return boxes, scores, random.uniform(size=n) < 0.9, random.integers(0, 3, n)


@pytest.fixture(params=[suppress_in_sequence, suppress_to_fixed_point])
def algorithm(request, monkeypatch):
    """Makes nms use one algorithm, whatever the platform."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *operands, **_: request.param(*operands)
    )


@pytest.mark.parametrize("percent", [30, 50, 70])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.usefixtures("algorithm")
def test_agrees_with_reference(reference, percent, per_class):
    stored = reference("nms.npz")
    boxes, scores = stored["boxes"], stored["scores"]
    groups = stored["classes"] if per_class else None
    keep = nms(boxes, scores, np.ones(len(boxes), bool), percent / 100, groups)
    expected = stored[f"batched_keep_{percent}" if per_class else f"keep_{percent}"]
    np.testing.assert_array_equal(in_score_order(keep, scores), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
@pytest.mark.usefixtures("algorithm")
def test_is_greedy_suppression(seed, threshold):
    boxes, scores, valid, groups = clustered_boxes(seed)
    for of in (None, groups):
        expected = greedy(boxes, scores, valid, threshold, of)
        keep = nms(boxes, scores, valid, threshold, of)
        np.testing.assert_array_equal(in_score_order(keep, scores), expected)
        assert 0 < len(expected) < valid.sum()


@pytest.mark.usefixtures("algorithm")
def test_chain_of_suppressions():
    # Each box overlaps its neighbours only: every second one stays, settled one after the other.
    left = np.arange(40.0)
    boxes = np.stack([left, 0 * left, left + 1.9, 0 * left + 1], -1).astype(np.float32)
    keep = nms(boxes, -left.astype(np.float32), np.ones(40, bool), 0.3)
    np.testing.assert_array_equal(keep, np.arange(40) % 2 == 0)


@pytest.mark.usefixtures("algorithm")
def test_equal_scores_and_equal_boxes_keep_the_first():
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (4, 1))
    valid = np.array([False, True, True, True])
    keep = nms(boxes, np.zeros(4, np.float32), valid, 0.5)
    np.testing.assert_array_equal(keep, [False, True, False, False])


@pytest.mark.usefixtures("algorithm")
def test_padding_neither_stays_nor_suppresses():
    boxes, scores, valid, _ = clustered_boxes(0)
    garbage = np.where(valid[:, None], boxes, boxes[np.argmax(scores)])
    keep = nms(garbage, np.where(valid, scores, np.float32(9)), valid, 0.5)
    np.testing.assert_array_equal(keep, nms(boxes, scores, valid, 0.5))
    assert not np.asarray(keep)[~valid].any()
    assert not nms(boxes, scores, np.zeros_like(valid), 0.5).any()


def test_platform_choice_under_vmap_and_jit():
    batch = [np.stack(arrays) for arrays in zip(*map(clustered_boxes, range(3)), strict=True)]
    batched = jax.jit(jax.vmap(lambda b, s, v, g: nms(b, s, v, 0.5, g)))(*batch)
    for row, (boxes, scores, valid, groups) in zip(batched, zip(*batch, strict=True), strict=True):
        np.testing.assert_array_equal(
            in_score_order(row, scores), greedy(boxes, scores, valid, 0.5, groups)
        )
    assert batched.dtype == jnp.bool_


def test_no_exchange_between_devices(collectives):
    batch = [np.stack(arrays) for arrays in zip(*map(clustered_boxes, range(8)), strict=True)]
    batched = jax.vmap(lambda b, s, v, g: nms(b, s, v, 0.5, g))
    assert collectives(batched, *batch) == set()


def soft_greedy(boxes, scores, valid, groups, *, method, iou_threshold, sigma, min_score):
    """The definition, one box at a time: (position, score) of the boxes that stay."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = {i: scores[i] for i in range(len(boxes)) if valid[i]}
    kept = []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        score = left.pop(best)
        if score <= min_score:
            break
        kept.append((best, score))
        for i in left:
            if groups is not None and groups[i] != groups[best]:
                continue
            size = np.minimum(boxes[i, 2:], boxes[best, 2:])
            size = np.maximum(size - np.maximum(boxes[i, :2], boxes[best, :2]), 0)
            intersection = size[0] * size[1]
            iou = intersection / (area[i] + area[best] - intersection)
            if method == "gaussian":
                left[i] *= np.exp(-(iou**2) / np.float32(sigma))
            elif iou > iou_threshold:
                left[i] *= 1 - iou
    return kept


def soft(boxes, scores, valid, groups, **options):
    """`soft_nms` of host arrays."""
    groups = None if groups is None else jnp.asarray(groups)
    return jax.device_get(
        soft_nms(*map(jnp.asarray, (boxes, scores, valid)), groups=groups, **options)
    )


SOFT = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 0.05}


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_soft_suppression_is_the_greedy_one(method, per_class, seed):
    boxes, scores, valid, groups = clustered_boxes(seed)
    groups = groups if per_class else None
    expected = soft_greedy(boxes, scores, valid, groups, method=method, **SOFT)
    index, fallen, stays = soft(boxes, scores, valid, groups, count=200, method=method, **SOFT)
    assert 20 < len(expected) < 200
    np.testing.assert_array_equal(np.arange(200) < len(expected), stays)
    np.testing.assert_array_equal(index[: len(expected)], [i for i, _ in expected])
    np.testing.assert_allclose(fallen[: len(expected)], [score for _, score in expected], rtol=2e-6)


def test_soft_suppression_of_everything_that_overlaps_is_hard_suppression():
    boxes, scores, valid, groups = clustered_boxes(1)
    limit = SOFT | {"sigma": 1e-12, "min_score": 0.0}
    index, fallen, stays = soft(boxes, scores, valid, groups, count=250, method="gaussian", **limit)
    keep = nms(boxes, scores, valid, 0.0, groups)
    np.testing.assert_array_equal(index[stays], in_score_order(keep, scores))
    np.testing.assert_array_equal(fallen[stays], scores[index[stays]])


def test_few_picks_are_the_first_of_many():
    boxes, scores, valid, groups = clustered_boxes(2)
    few = soft(boxes, scores, valid, groups, count=7, method="linear", **SOFT)
    many = soft(boxes, scores, valid, groups, count=100, method="linear", **SOFT)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:7])
    none = np.zeros_like(valid)
    assert not soft(boxes, scores, none, groups, count=7, method="linear", **SOFT)[2].any()


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_padding_that_is_not_finite_changes_no_score(method):
    boxes, scores, valid, groups = clustered_boxes(3)
    broken = np.where(valid[:, None], boxes, np.nan)
    assert not valid.all()
    clean, found = (
        soft(b, scores, valid, groups, count=60, method=method, **SOFT) for b in (boxes, broken)
    )
    for a, b in zip(clean, found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", ["linear_0", "linear_1", "gaussian_0", "gaussian_1"])
def test_soft_suppression_is_mmcv_s(reference, case):
    arrays = reference("soft_nms.npz")
    boxes, scores = arrays["boxes"], arrays["scores"]
    threshold, sigma, least = arrays[f"{case}_params"].tolist()
    run = jax.jit(
        lambda groups: soft_nms(
            boxes,
            scores,
            np.ones(len(boxes), bool),
            count=len(boxes),
            method=case.split("_")[0],
            iou_threshold=threshold,
            sigma=sigma,
            min_score=least,
            groups=groups,
        )
    )
    classes = arrays["classes"].astype(np.int32)
    for form, groups in (("", classes), ("agnostic_", np.zeros_like(classes))):
        index, fallen, stays = jax.device_get(run(groups))
        ours = dict(zip(index[stays].tolist(), fallen[stays].tolist(), strict=True))
        names = f"{case}_{form}keep", f"{case}_{form}scores"
        theirs = dict(zip(*(arrays[name].tolist() for name in names), strict=True))
        assert ours == pytest.approx(theirs, abs=1e-7)
