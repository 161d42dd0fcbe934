"""Attention in its forms: equal to each other, and rejected where they cannot run."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks.attention_agreement import disagreement
from jaxdet.errors import UserError
from jaxdet.models import attention
from jaxdet.models.attention import (
    attend,
    attend_with_position_channels,
    choose,
    require_cudnn,
)
from jaxdet.models.position import DecomposedRelativePosition, by_offset, offsets
from jaxdet.models.settings import VitSettings
from jaxdet.ops.fused_attention import fused_attention


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (5, 5)])
def test_position_channels_are_the_bias(rows, columns):
    """Forward and every gradient, for a number of channels whose root is not exact."""
    rng, heads, channels = np.random.default_rng(0), 2, 6

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    shape = (2, rows * columns, heads, channels)
    inputs = {name: draw(*shape) for name in ("query", "key", "value")}
    inputs |= {"height": draw(2 * rows - 1, channels), "width": draw(2 * columns - 1, channels)}
    weights = draw(*shape)

    def values(inputs, with_channels):
        def attention(inputs):
            position = DecomposedRelativePosition((rows, columns), channels)
            position.height[...], position.width[...] = inputs["height"], inputs["width"]
            q, k, v = (inputs[name] for name in ("query", "key", "value"))
            if with_channels:
                return attend_with_position_channels(q, k, v, position, "xla")
            return attend(q, k, v, None, position, "xla")

        y, backward = jax.vjp(attention, inputs)
        return {"output": y, **backward(weights)[0]}

    expected, found = (jax.jit(values, static_argnums=1)(inputs, c) for c in (False, True))
    for name, value in expected.items():
        assert abs(value).max() > 0.1
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


AGREEMENT = {"side": 8, "heads": 2, "channels": 16, "sequences": 3}


@pytest.mark.parametrize("relative_position", ["shared", "decomposed", "none"])
def test_bfloat16_agrees_with_float32(relative_position):
    found = disagreement("xla", relative_position, **AGREEMENT)
    biases = {"shared": {"bias"}, "decomposed": {"height", "width"}, "none": set()}
    assert set(found) == {"output", "query", "key", "value"} | biases[relative_position]
    assert 0 < max(found.values()) < 0.02, found


def test_a_missing_gradient_shows_as_a_disagreement(monkeypatch):
    def without_gradient(query, key, value, bias, **options):
        bias = jax.lax.stop_gradient(bias) if query.dtype == jnp.bfloat16 else bias
        return original(query, key, value, bias, **options)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", without_gradient)
    assert disagreement("xla", "shared", **AGREEMENT)["bias"] == 1.0


@pytest.mark.parametrize("relative_position", ["decomposed", "none"])
def test_cudnn_is_given_an_even_number_of_tokens(monkeypatch, relative_position):
    """JAX refuses to train with it on an odd one; computed by XLA, which cuDNN's stands in for."""

    def even(query, key, value, bias=None, *, implementation, **options):
        assert implementation == "xla" or (query.shape[1] % 2 == 0 and key.shape[1] % 2 == 0)
        return original(query, key, value, bias, implementation="xla", **options)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", even)
    found = disagreement("cudnn", relative_position, **{**AGREEMENT, "side": 7})
    assert 0 < max(found.values()) < 0.02, found


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("relative_position", "side"),
    [
        *((position, side) for position in ("shared", "decomposed", "none") for side in (14, 32)),
        *((position, 13) for position in ("decomposed", "none")),
    ],
)
def test_cudnn_agrees_with_float32(relative_position, side):
    found = disagreement("cudnn", relative_position, side=side, heads=4, channels=64, sequences=3)
    assert max(found.values()) < 0.02, found


def test_a_tpu_s_kernel_agrees_with_float32(monkeypatch):
    """Simulated; of the two positions the one that changes its inputs."""
    monkeypatch.setattr(attention, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(attention, "fused_attention", partial(fused_attention, interpret=True))
    found = disagreement("pallas", "decomposed", side=12, heads=1, channels=8, sequences=2)
    assert set(found) == {"output", "query", "key", "value", "height", "width"}
    assert 0 < max(found.values()) < 0.02, found


def test_a_bias_by_offset_is_the_one_by_index():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 3)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 5, 3)), jnp.float32)
    found, back = jax.vjp(lambda t: by_offset(t, 5, axis=1), table)
    expected, expected_back = jax.vjp(lambda t: t[:, offsets(5)], table)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(back(weights)[0], expected_back(weights)[0], rtol=1e-5)


class Device(SimpleNamespace):
    """What is asked of a device."""

    __hash__ = object.__hash__


@pytest.fixture
def a100(monkeypatch):
    device = Device(
        compute_capability="8.0",
        device_kind="NVIDIA A100-SXM4-80GB",
        platform="gpu",
    )
    monkeypatch.setattr(jax, "devices", lambda: [device])
    return device


def vit(head_width: int, relative_position: str, window: int, grid: int | None = None):
    """A ViT with windowed blocks, and a global one on a grid of tokens where there is one."""
    return VitSettings(
        width=2 * head_width,
        heads=2,
        depth=2,
        window=window,
        image_size=16 * (grid or window),
        global_blocks=(1,) if grid else (),
        out_indices=(1,),
        relative_position=relative_position,
    )


@pytest.mark.parametrize(
    ("settings", "dtype", "expected"),
    [
        (vit(64, "shared", 14), "float32", "needs config.model.dtype='bfloat16', not 'float32'"),
        (vit(60, "none", 14), "bfloat16", "a multiple of 8 and at most 128 on NVIDIA A100"),
        (vit(64, "decomposed", 14, 64), "bfloat16", "attention within 64 x 64 tokens .* has 192"),
        (vit(64, "shared", 7), "bfloat16", "an even number of tokens .* within 7 x 7 tokens"),
    ],
)
def test_cudnn_errors_state_the_rule(a100, settings, dtype, expected):
    with pytest.raises(UserError, match=expected):
        require_cudnn(settings, dtype, a100)
    chosen = choose(replace(settings, attention="auto"), dtype)
    assert chosen.name == "xla"
    assert re.search(expected, chosen.reason)


def test_cudnn_is_chosen_where_it_can_train(a100):
    def name(*shape) -> str:
        return choose(replace(vit(*shape), attention="auto"), "bfloat16").name

    assert name(64, "shared", 14, 64) == name(64, "decomposed", 14) == "cudnn"
    assert name(64, "decomposed", 14, 64) == "xla"
    a100.compute_capability = "9.0"
    assert name(64, "decomposed", 14, 64) == "cudnn"


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "name"),
    [
        ("tpu", None, "bfloat16", "pallas"),
        ("tpu", None, "float32", "xla"),
        ("gpu", "8.0", "bfloat16", "cudnn"),
        ("gpu", "gfx942", "bfloat16", "xla"),
        ("cpu", None, "bfloat16", "xla"),
    ],
)
def test_the_devices_of_the_mesh_choose(platform, capability, dtype, name):
    device = Device(platform=platform, compute_capability=capability)
    mesh = Mesh(np.array([device]), ("data",))
    settings = vit(64, "shared", 14)
    assert choose(replace(settings, attention="auto"), dtype, mesh).name == name
    assert choose(settings, dtype, mesh).name == "xla", "as the settings ask for"


def test_cudnn_is_rejected_without_a_gpu():
    cpu = Device(platform="cpu")
    with pytest.raises(UserError, match=r"'cudnn' needs an NVIDIA GPU, and jax runs on cpu"):
        require_cudnn(vit(64, "shared", 14), "bfloat16", cpu)
