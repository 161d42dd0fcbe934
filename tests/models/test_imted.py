"""imTED against its official classes: the same weights, the same outputs; and its gate, chunks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints_convert.conversion import convert
from checkpoints_convert.plan import Options
from checkpoints_convert.reading import read
from jaxdet.config import check
from jaxdet.config_imted import imted
from jaxdet.models.build import Functional, build_detector
from jaxdet.optim import path_name

NUM_CLASSES = 4


def reference_config():
    config = imted("b", drop_path=0.0, masks=True)
    config.model.dtype = "float32"
    config.model.vit.update(
        width=64, depth=4, heads=2, global_blocks=(0, 1, 2, 3), taps=(3,), remat=False
    )
    config.model.decoder.update(width=32, depth=2, heads=2)
    config.model.pyramid.channels = 16
    config.model.heads.update(mask_conv_dim=16, roi_chunks=1)
    check(config)
    return config


@pytest.fixture(scope="module")
def case(shared):
    """(functional, params, stats, reference outputs) of the stored detector."""
    pytest.importorskip("torch")
    converted = convert(read(shared / "reference" / "imted_tiny.pth"), Options()).arrays
    arrays = {path: tensor.read() for path, tensor in converted.items()}
    functional = Functional(lambda rngs: build_detector(reference_config(), NUM_CLASSES, rngs))

    def take(path, leaf):
        value = arrays.pop(path_name(path))
        assert value.shape == leaf.shape, path_name(path)
        return jnp.asarray(value)

    params, stats = (jax.tree_util.tree_map_with_path(take, tree) for tree in functional.abstract)
    assert not arrays, f"left over: {sorted(arrays)}"
    with np.load(shared / "reference" / "imted_tiny_outputs.npz") as outputs:
        return functional, params, stats, dict(outputs)


def run(case, compute, *inputs):
    functional, params, stats, _ = case
    with jax.default_matmul_precision("highest"):
        call = jax.jit(lambda p, s, *a: compute(functional.bind(p, s), *a))
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
