"""ViTDet's other backbones and images that are not square, against Detectron2's ViT."""

from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from checkpoints_convert.conversion_plan import Known, Options, TensorReader
from checkpoints_convert.detector import plan_leaf
from checkpoints_convert.detectron2 import RENAMES
from checkpoints_convert.reading import read
from checkpoints_convert.vit import plan_backbone
from jaxdet.config.keys import Detector
from jaxdet.models.conv_residual import KERNELS, ConvResidual
from jaxdet.models.paths import path_name
from jaxdet.models.position import resize_linear
from jaxdet.models.pyramid import FPN, SimplePyramid
from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT
from jaxdet.models.windows import merge_windows, partition_windows
from jaxdet.training.optim import step_multipliers

SIZE = {"image_size": 128, "width": 32, "depth": 4, "heads": 2, "window": 3, "pretrain_grid": 4}
EVERY = (0, 1, 2, 3)
VARIANTS = {
    "convprop": {"global_blocks": (), "conv_blocks": EVERY},
    "convprop2": {"global_blocks": (), "conv_blocks": (1, 3)},
    "nonsquare": {"global_blocks": (1, 3)},
}


class Backbone(nnx.Module):
    def __init__(self, variant: str):
        settings = VitSettings(
            **SIZE, **VARIANTS[variant], out_indices=EVERY, relative_position="decomposed"
        )
        part = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        self.backbone = ViT(settings, **part)
        self.pyramid = SimplePyramid(32, 16, **part)


def converted(path) -> dict[str, np.ndarray]:
    """Arrays under our paths, and the keys the converter asks for, of a backbone and a pyramid."""
    state = {}
    for name, tensor in read(path).state.items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    vit = {name.removeprefix("vit."): state[name] for name in state if name.startswith("vit.")}
    plan = plan_backbone(TensorReader(vit), Options(), Known("gelu"))
    for name, tensor in state.items():
        if name.startswith("pyramid."):
            plan_leaf(plan, name, tensor)
    return {path: tensor.read() for path, tensor in plan.arrays.items()}, plan.keys


@pytest.fixture(scope="module")
def load(shared):
    """Makes a variant's compiled function, images to token maps and pyramid, and its outputs."""
    pytest.importorskip("torch")

    def make(variant: str):
        name = f"vitdet_{variant}_tiny"
        arrays, keys = converted(shared / "reference" / f"{name}.pth")
        blocks = list(VARIANTS[variant].get("conv_blocks", ()))
        assert keys.get("model.vit.conv_blocks", []) == blocks
        graph, state = nnx.split(nnx.eval_shape(lambda: Backbone(variant)))
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: jnp.asarray(arrays.pop(path_name(path))),
            nnx.to_pure_dict(state),
        )
        assert not arrays
        nnx.replace_by_pure_dict(state, params)

        @jax.jit
        def compute(state, images):
            model = nnx.merge(graph, state)
            maps = model.backbone(images)
            return maps, model.pyramid.project(maps)

        with np.load(shared / "reference" / f"{name}_outputs.npz") as outputs:
            stored = dict(outputs)

        def run(images):
            with jax.default_matmul_precision("highest"):
                return jax.device_get(compute(state, images))

        return run, stored

    return make


def normalised(images: np.ndarray, sizes, hw) -> np.ndarray:
    """[n, 3, h, w] as the network gets them: normalised, then padded with zeros to `hw`."""
    given = images.transpose(0, 2, 3, 1).astype(np.float32)
    given = (given - np.float32(Detector.pixel_mean)) / np.float32(Detector.pixel_std)
    padded = np.zeros((len(images), *hw, 3), np.float32)
    for i, (h, w) in enumerate(sizes):
        padded[i, :h, :w] = given[i, :h, :w]
    return padded


def assert_same(found, stored, prefix: str = "") -> None:
    maps, pyramid = found
    for i, x in enumerate(maps):
        np.testing.assert_allclose(x, stored[f"{prefix}tokens"][i], atol=1e-4)
    for level, x in enumerate(pyramid, start=2):
        expected = stored[f"{prefix}p{level}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(x, expected, atol=1e-3)


@pytest.mark.parametrize("variant", ["convprop", "convprop2"])
def test_propagation_by_convolutions(load, variant):
    run, stored = load(variant)
    images = normalised(stored["image"], stored["image_sizes"], (128, 128))
    assert_same(run(images), stored)
    if variant == "convprop":
        assert_same(run(images[:, :96]), stored, "wide_")


def test_images_that_are_not_square(load):
    run, stored = load("nonsquare")
    for kind in ("wide", "tall", "large"):
        image, hw = stored[f"{kind}_image"], stored[f"{kind}_padded_hw"]
        images = normalised(image[None], [image.shape[1:]], hw)
        assert_same(run(images), stored, f"{kind}_")


@pytest.mark.parametrize("kind", KERNELS)
def test_a_residual_block_starts_as_nothing(kind):
    block = ConvResidual(kind, 8, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert [c.kernel.shape[0] for c in block.convs] == list(KERNELS[kind])
    x = jax.random.normal(jax.random.key(0), (1, 3, 4, 8))
    np.testing.assert_array_equal(block(x), x)
    block.norms[-1].scale[...] = jnp.ones(8)
    assert not np.allclose(block(x), x)


def test_an_fpn_of_the_last_map_sees_no_other():
    options = {"groups": 2, "norm": "layer", "dtype": jnp.float32}
    keys = jax.random.split(jax.random.key(0), 4)
    maps = [jax.random.normal(key, (1, 2, 4, 8)) for key in keys]
    others = [maps[1], maps[2], maps[0], maps[3]]

    @partial(jax.jit, static_argnums=1)
    def compute(given, from_last):
        fpn = FPN(8, 4, from_last=from_last, rngs=nnx.Rngs(0), **options)
        return fpn.merge(fpn.project(given), train=True)

    for from_last in (True, False):
        found = [compute(given, from_last) for given in (maps, others)]
        assert [x.shape[1:3] for x in found[0]] == [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]
        assert np.allclose(found[0][0], found[1][0]) == from_last


def test_shifted_windows_see_over_the_borders_of_the_others():
    x = jnp.arange(1.0, 36.0).reshape(1, 5, 7, 1)
    windows = partition_windows(x, 4, shift=2)
    assert windows.shape == (2 * 3, 16, 1)
    np.testing.assert_array_equal(
        windows[0, :, 0].reshape(4, 4), [[0] * 4, [0] * 4, [0, 0, 1, 2], [0, 0, 8, 9]]
    )
    np.testing.assert_array_equal(merge_windows(windows, 4, (5, 7), shift=2), x)


def test_vectors_of_relative_positions_are_resized_as_torch_does():
    torch = pytest.importorskip("torch")
    rows = np.random.default_rng(0).normal(size=(15, 4)).astype(np.float32)
    for length in (11, 15, 27):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(rows.T[None].astype(float)), size=length, mode="linear"
        )[0].T
        np.testing.assert_allclose(resize_linear(jnp.asarray(rows), length), expected, atol=1e-6)


def test_residual_blocks_are_left_out_of_layer_decay():
    names = ("attn", "residual")
    params = {"backbone": {"blocks": {1: {name: {"kernel": jnp.zeros(1)} for name in names}}}}
    found = step_multipliers(params, 0.5, 4)["backbone"]["blocks"][1]
    assert found == {"attn": {"kernel": 0.125}, "residual": {"kernel": 1.0}}
