from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops import roi_align as module
from jaxdet.ops.roi_align import assign_levels

STRIDES = (4, 8, 16, 32)

STATIC = ("strides", "output_size", "sampling_ratio", "canonical_size")

roi_align = jax.jit(module.roi_align, static_argnames=STATIC)

sampling = pytest.mark.parametrize("ratio", [0, 2])
sizes = pytest.mark.parametrize("size", [7, 14])


@pytest.fixture(params=["anywhere", "on GPUs"])
def each_form(request, monkeypatch):
    """RoIAlign in the form for GPUs and in that for all others."""
    if request.param == "anywhere":
        return roi_align
    monkeypatch.setattr(module, "pool_in_sequence", module.pool_listed)
    monkeypatch.setattr(module, "scatter_in_sequence", module.scatter_at_once)
    return jax.jit(lambda *a, **options: module.roi_align(*a, **options), static_argnames=STATIC)


def naive_roi_align(features, boxes, levels, strides, size, ratio):
    """The definition: the mean of bilinear samples, box by box, in float64."""
    pooled = []
    for box, level in zip(np.asarray(boxes, np.float64), levels, strict=True):
        feature = np.asarray(features[level], np.float64)
        x1, y1, x2, y2 = box / strides[level] - 0.5

        def interpolation(start, end, cells):
            samples = ratio or int(np.ceil((end - start) / size))
            matrix = np.zeros((size, cells))
            for p in range(size):
                for i in range(samples):
                    position = start + (p + (i + 0.5) / samples) * (end - start) / size
                    position = np.clip(position, 0, cells - 1)
                    low = int(position)
                    matrix[p, low] += (low + 1 - position) / samples
                    matrix[p, min(low + 1, cells - 1)] += (position - low) / samples
            return matrix

        rows = interpolation(y1, y2, feature.shape[0])
        columns = interpolation(x1, x2, feature.shape[1])
        pooled.append(np.einsum("ph,qw,hwc->pqc", rows, columns, feature))
    return np.stack(pooled)


def random_pyramid(image_size, channels, images=None, strides=STRIDES):
    random = np.random.default_rng(0)
    batch = () if images is None else (images,)
    return [
        random.normal(size=(*batch, image_size // s, image_size // s, channels)).astype(np.float32)
        for s in strides
    ]


def random_boxes(image_size, *shape):
    random = np.random.default_rng(1)
    corner = random.uniform(0, 0.9 * image_size, (*shape, 2))
    size = np.exp(random.uniform(0, np.log(image_size), (*shape, 2)))
    return np.concatenate([corner, np.minimum(corner + size, image_size)], -1).astype(np.float32)


@sampling
@sizes
def test_pyramid_agrees_with_reference(reference, each_form, size, ratio):
    stored = reference("multilevel_roi_align.npz")
    for image, boxes in enumerate(stored["boxes"]):
        features = [stored[f"p{level}"][image].transpose(1, 2, 0) for level in range(2, 6)]
        np.testing.assert_array_equal(assign_levels(boxes, STRIDES) + 2, stored["level"][image])
        pooled = each_form(features, boxes, strides=STRIDES, output_size=size, sampling_ratio=ratio)
        expected = stored[f"out{size}_sampling{ratio}"][image].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(pooled, expected, atol=1e-4)


@sampling
@sizes
def test_one_level_agrees_with_reference(reference, each_form, size, ratio):
    stored = reference("roi_align.npz")
    stride = round(1 / float(stored["spatial_scale"]))
    outputs = stored[f"out{size}_sampling{ratio}"]
    weights = np.linspace(-1, 1, outputs.size, dtype=np.float32).reshape(outputs.shape)
    for image, feature in enumerate(stored["features"]):
        of_image = stored["batch_index"] == image

        def pool(feature, rois=stored["rois"][of_image]):
            return each_form(
                [feature], rois, strides=(stride,), output_size=size, sampling_ratio=ratio
            )

        pooled, pull_back = jax.vjp(pool, jnp.asarray(feature.transpose(1, 2, 0)))
        expected = outputs[of_image].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(pooled, expected, atol=1e-4)
        (gradient,) = pull_back(jnp.asarray(weights[of_image].transpose(0, 2, 3, 1)))
        expected = stored[f"grad{size}_sampling{ratio}"][image].transpose(1, 2, 0)
        np.testing.assert_allclose(gradient, expected, atol=1e-3)


EXTREME_BOXES = np.array(
    [
        [0, 0, 1024, 1024],
        [0, 0, 1024, 12.2],
        [300, 0, 312.2, 1024],
        [0, 511, 1024, 511.01],
        [1020, 1020, 1024, 1024],
        [3, 0, 115, 112],
        [3, 0, 114.9, 111.9],
        [0, 7, 896, 21.99],
        [10.5, 20.5, 10.6, 20.6],
        [0, 400, 1024, 449],
        [77, 0, 126, 1024],
        [800, 0, 997, 1020],
        [0, 0, 447.9, 447.9],
        [5, 9, 453, 457],
    ],
    np.float32,
)


@sampling
@sizes
def test_extreme_boxes_on_a_full_size_image(size, ratio):
    features = random_pyramid(1024, 3)
    levels = np.asarray(assign_levels(EXTREME_BOXES, STRIDES))
    pooled = roi_align(
        features, EXTREME_BOXES, strides=STRIDES, output_size=size, sampling_ratio=ratio
    )
    expected = naive_roi_align(features, EXTREME_BOXES, levels, STRIDES, size, ratio)
    np.testing.assert_allclose(pooled, expected, atol=2e-4)


def test_strides_of_patches_of_14_pixels():
    strides, boxes = (3.5, 7.0, 14.0, 28.0), random_boxes(112, 40)
    random = np.random.default_rng(0)
    features = [random.normal(size=(side, side, 3)).astype(np.float32) for side in (32, 16, 8, 4)]
    levels = np.asarray(assign_levels(boxes, strides, 28.0))
    assert len(set(levels)) == 4
    pooled = roi_align(
        features, boxes, strides=strides, output_size=7, sampling_ratio=0, canonical_size=28.0
    )
    expected = naive_roi_align(features, boxes, levels, strides, 7, 0)
    np.testing.assert_allclose(pooled, expected, atol=1e-4)


@sampling
@pytest.mark.parametrize("canonical_size", [28.0, 224.0])
def test_random_boxes_on_a_small_image(ratio, canonical_size):
    features, boxes = random_pyramid(128, 4), random_boxes(128, 60)
    boxes[-1] = (0, 0, 128, 128)
    rule = {"strides": STRIDES, "canonical_size": canonical_size}
    levels = np.asarray(assign_levels(boxes, **rule))
    assert len(set(levels)) == (4 if canonical_size == 28 else 2)
    weights = np.random.default_rng(2).normal(size=(60, 7, 7, 4)).astype(np.float32)

    def pool(features):
        return roi_align(features, boxes, output_size=7, sampling_ratio=ratio, **rule)

    pooled, pull_back = jax.vjp(pool, features)
    expected = naive_roi_align(features, boxes, levels, STRIDES, 7, ratio)
    np.testing.assert_allclose(pooled, expected, atol=1e-4)
    # The pooling is linear: against any direction, the gradient is the pooled direction.
    (gradient,) = pull_back(jnp.asarray(weights))
    direction = [np.roll(f, 1, 0) for f in features]
    slope = sum(np.vdot(g, d) for g, d in zip(gradient, direction, strict=True))
    along = naive_roi_align(direction, boxes, levels, STRIDES, 7, ratio)
    np.testing.assert_allclose(slope, np.vdot(weights, along), rtol=1e-3, atol=1e-2)


def test_levels_change_at_halves_of_the_canonical_size():
    sides = np.array([1, 111.9, 112, 223.9, 224, 447.9, 448, 1024], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], -1)
    np.testing.assert_array_equal(assign_levels(boxes, STRIDES), [0, 0, 1, 1, 2, 2, 3, 3])
    shrunk = boxes / 8
    np.testing.assert_array_equal(
        assign_levels(shrunk, STRIDES, canonical_size=28.0), [0, 0, 1, 1, 2, 2, 3, 3]
    )


@sampling
def test_padded_boxes_are_harmless(ratio):
    features = random_pyramid(128, 2)
    boxes = np.zeros((3, 4), np.float32)

    def pool(features, boxes):
        return roi_align(features, boxes, strides=STRIDES, output_size=7, sampling_ratio=ratio)

    assert np.isfinite(pool(features, boxes)).all()
    gradient, of_boxes = jax.jit(jax.grad(lambda *a: pool(*a).sum(), (0, 1)))(features, boxes)
    assert all(np.isfinite(g).all() for g in gradient)
    np.testing.assert_array_equal(of_boxes, 0)


def test_low_precision_features_are_summed_in_float32():
    features = [jnp.asarray(f, jnp.bfloat16) for f in random_pyramid(128, 4)]
    boxes = np.tile(random_boxes(128, 4), (64, 1))

    def pool(features):
        return roi_align(features, boxes, strides=STRIDES, output_size=7, sampling_ratio=0)

    def total(features):
        return pool(features).astype(jnp.float32).sum()

    exact = [f.astype(jnp.float32) for f in features]
    pooled = pool(features)
    assert pooled.dtype == jnp.bfloat16
    np.testing.assert_array_equal(pooled, pool(exact).astype(jnp.bfloat16))
    for gradient, expected in zip(jax.grad(total)(features), jax.grad(total)(exact), strict=True):
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(gradient.astype(jnp.float32), expected, rtol=2**-8)


@sampling
def test_batched_over_devices_without_exchange(ratio, collectives):
    features, boxes = random_pyramid(64, 2, images=8), random_boxes(64, 8, 5)

    def pool(features, boxes):
        return roi_align(features, boxes, strides=STRIDES, output_size=7, sampling_ratio=ratio)

    def gradient(features, boxes):
        return jax.grad(lambda features: (jax.vmap(pool)(features, boxes) ** 2).sum())(features)

    for image, pooled in enumerate(jax.vmap(pool)(features, boxes)):
        alone = pool([f[image] for f in features], boxes[image])
        np.testing.assert_allclose(pooled, alone, atol=1e-5)
    assert collectives(jax.vmap(pool), features, boxes) == set()
    assert collectives(gradient, features, boxes) == set()


@pytest.mark.parametrize(("size", "rois"), [(7, 512), (14, 128)])
def test_memory_is_that_of_the_features_and_the_result(size, rois):
    channels = 256
    features = [
        jax.ShapeDtypeStruct((1024 // s, 1024 // s, channels), jnp.float32) for s in STRIDES
    ]
    boxes = jax.ShapeDtypeStruct((rois, 4), jnp.float32)
    result = jax.ShapeDtypeStruct((rois, size, size, channels), jnp.float32)

    def pool(features, boxes):
        return roi_align(features, boxes, strides=STRIDES, output_size=size, sampling_ratio=0)

    def gradient(features, boxes, of_result):
        return jax.vjp(lambda features: pool(features, boxes), features)[1](of_result)

    limit = 1.1 * (sum(f.size for f in features) + result.size) * 4
    for f, arguments in ((pool, (features, boxes)), (gradient, (features, boxes, result))):
        memory = jax.jit(f).lower(*arguments).compile().memory_analysis()
        assert memory.temp_size_in_bytes < limit
