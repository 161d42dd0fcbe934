"""imTED against its official classes: the same weights, the same outputs; and what its parts do."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from jaxdet.config.imted import imted
from jaxdet.config.mask_rcnn import check
from jaxdet.models.batching import in_chunks
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.paths import path_name
from jaxdet.models.roi_features import Features, ModulatedRoIs
from jaxdet.models.settings import Settings

NUM_CLASSES = 4


def reference_config():
    config = imted("b", drop_path=0.0, masks=True)
    config.model.dtype = "float32"
    config.model.vit.update(
        width=64, depth=4, heads=2, global_blocks=(0, 1, 2, 3), out_indices=(3,), remat="none"
    )
    config.model.decoder.update(width=32, depth=2, heads=2)
    config.model.pyramid.channels = 16
    config.model.heads.update(mask_conv_dim=16, roi_chunks=1)
    check(config)
    return config


@pytest.fixture(scope="module")
def case(reference, reference_file):
    """(stateless model, params, stats, reference outputs) of the stored detector."""
    pytest.importorskip("torch")
    converted = convert(read(reference_file("imted_tiny.pth")), Options()).arrays
    arrays = {path: tensor.read() for path, tensor in converted.items()}
    stateless = StatelessModel(lambda rngs: build_detector(reference_config(), NUM_CLASSES, rngs))

    def take(path, leaf):
        value = arrays.pop(path_name(path))
        assert value.shape == leaf.shape, path_name(path)
        return jnp.asarray(value)

    params, stats = (jax.tree_util.tree_map_with_path(take, tree) for tree in stateless.abstract)
    assert not arrays, f"left over: {sorted(arrays)}"
    return stateless, params, stats, reference("imted_tiny_outputs.npz")


def run(case, compute, *inputs):
    stateless, params, stats, _ = case
    with jax.default_matmul_precision("highest"):
        call = jax.jit(lambda p, s, *a: compute(stateless.bind(p, s), *a))
        return jax.device_get(call(params, stats, *inputs))


def nhwc(array):
    return array.transpose(0, 2, 3, 1)


def test_encoder_pyramid_and_rpn(case):
    outputs = case[3]

    def compute(model, image):
        maps = model.backbone(image)
        pyramid = model.pyramid
        first, *_ = projected = pyramid.project(maps)
        merged = pyramid.merge(projected, train=False)
        adaptors = {
            4: pyramid.up4_second(
                jax.nn.gelu(pyramid.up4_norm(first, train=False), approximate=False)
            ),
            8: pyramid.up2(maps[0]),
            16: maps[0],
            32: nnx.max_pool(maps[0], (2, 2), strides=(2, 2)),
        }
        return maps[-1], adaptors, merged, model.rpn(merged)

    encoded, adaptors, pyramid, (objectness, deltas) = run(case, compute, nhwc(outputs["image"]))
    tokens = outputs["tokens"][:, 1:].reshape(encoded.shape)
    np.testing.assert_allclose(encoded, tokens, atol=1e-4)
    for stride, adaptor in adaptors.items():
        np.testing.assert_allclose(adaptor, nhwc(outputs[f"adaptor_{stride}"]), atol=1e-4)
    for level, name in enumerate(("p2", "p3", "p4", "p5", "p6")):
        np.testing.assert_allclose(pyramid[level], nhwc(outputs[name]), atol=1e-4, err_msg=name)
        expected = nhwc(outputs[f"objectness_{name}"]).reshape(1, -1)
        np.testing.assert_allclose(objectness[level], expected, atol=1e-4, err_msg=name)
        expected = nhwc(outputs[f"deltas_{name}"]).reshape(1, -1, 4)
        np.testing.assert_allclose(deltas[level], expected, atol=1e-4, err_msg=name)


def test_modulator_and_decoder_head(case):
    outputs = case[3]

    def compute(model, single, multi):
        modulated = model.box_features.combine((single, multi))
        valid = jnp.ones(len(single), bool)
        heads = [model.box_head(x, valid=valid, train=False) for x in (modulated, single)]
        return modulated, heads

    pooled = nhwc(outputs["roi_single"]), nhwc(outputs["roi_multi_fpn"])
    modulated, (with_pyramid, alone) = run(case, compute, *pooled)
    np.testing.assert_allclose(modulated, nhwc(outputs["roi_modulated"]), atol=1e-4)
    assert np.abs(modulated - pooled[0]).max() > 0.1
    for found, suffix in ((with_pyramid, ""), (alone, "_single_only")):
        np.testing.assert_allclose(found[0], outputs[f"class_logits{suffix}"], atol=1e-4)
        np.testing.assert_allclose(found[1], outputs[f"box_deltas{suffix}"], atol=1e-4)


def test_mask_head(case):
    outputs = case[3]

    def compute(model, rois):
        return model.mask_head(rois, valid=jnp.ones(len(rois), bool), train=False)

    found = run(case, compute, nhwc(outputs["mask_roi"]))
    np.testing.assert_allclose(found, nhwc(outputs["mask_logits"]), atol=1e-4)


def test_the_gate_starts_at_exactly_no_effect():
    settings = Settings(num_classes=NUM_CLASSES)
    rois = ModulatedRoIs(settings, channels=4, width=6, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(s, s, 4)).astype(np.float32) for s in (32, 16, 8, 4, 2)]
    encoded = jnp.asarray(rng.normal(size=(8, 8, 6)), jnp.float32)
    boxes = jnp.array([(0, 0, 128, 128), (5, 70, 30, 90), (0, 0, 0, 0)], jnp.float32)

    def features(gate, project):
        rois.gate[...], rois.project.kernel[...] = gate, project
        return rois.combine(rois.pool(Features(pyramid, encoded), boxes, 7))

    start, project = rois.gate[...], rois.project.kernel[...]
    assert not start.any()
    alone = rois.from_encoder.pool(Features(pyramid, encoded), boxes, 7)
    np.testing.assert_array_equal(features(start, project), alone)
    assert (features(start + 1, project) != alone).any()
    # At first the gate alone learns, as there is nothing behind it yet.
    graph, params, rest = nnx.split(rois, nnx.Param, ...)

    def total(params):
        model = nnx.merge(graph, params, rest)
        return model.combine(model.pool(Features(pyramid, encoded), boxes, 7)).sum()

    params["gate"][...] = start
    gradient = jax.grad(total)(params)
    assert gradient["gate"][...].all()
    assert not gradient["project"]["kernel"][...].any()


@pytest.mark.parametrize("chunks", [1, 3, 4])
def test_chunks_give_the_same_values_and_gradients(chunks):
    x = jnp.arange(2.0 * 8 * 3).reshape(2, 8, 3)
    weight = jnp.arange(12.0).reshape(3, 4) / 10

    def function(x):
        return {"y": jnp.tanh(x @ weight), "sum": x.sum(-1)}

    def total(x):
        found = in_chunks(function, chunks, x)
        return (found["y"] ** 2).sum() + found["sum"][:, 1:].sum(), found

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(x)
    # Compiled loops and single operations round differently.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, function(x))
    expected = jax.grad(lambda x: (function(x)["y"] ** 2).sum() + x[:, 1:].sum())(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_the_pyramid_s_block_of_vit_l_is_the_published_one():
    assert imted("l", drop_path=0.3, masks=True).model.vit.out_indices == (11, 23)
    assert imted("b", drop_path=0.2, masks=True).model.vit.out_indices == (11,)
