"""What devices that share a step send each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet import parallel
from jaxdet.benchmark.cost import hlo
from jaxdet.benchmark.cost.devices import ACCELERATORS
from jaxdet.benchmark.cost.roofline import roofline
from jaxdet.benchmark.cost.step import compile_step
from jaxdet.training.data_parallel import over_devices
from tests.models.test_vit import TODAYS_PARTS
from tests.tiny import get_config


def messages(sharding: str) -> tuple[dict[tuple[str, str], int], int]:
    """Bytes by kind and dtype of all messages of a bfloat16 step, and of the parameters."""
    config = get_config()
    config.model.dtype, config.sharding = "bfloat16", sharding
    config.model.vit.update(TODAYS_PARTS)
    config.model.heads.mask = False
    step = compile_step(config, 4, parallel.data_mesh(8, 8))
    found = roofline(hlo.parse(step.compiled.as_text()), ACCELERATORS[0], 8).collectives
    sizes = {(one.kind, one.dtype): size for one, (_, size) in found.items()}
    return sizes, 4 * sum(step.parameters.values())


def test_a_step_sends_its_gradients_once_in_float32():
    sizes, parameters = messages("replicated")
    assert sizes.keys() == {("all-reduce", "f32")}
    assert parameters <= sizes["all-reduce", "f32"] <= 1.05 * parameters


def test_a_split_state_is_gathered_once_and_its_gradients_are_left_split(monkeypatch):
    monkeypatch.setattr(parallel, "SMALLEST_SPLIT", 128)
    sizes, parameters = messages("fsdp")
    kinds = ("all-gather", "reduce-scatter", "all-reduce")
    assert sizes.keys() == {(kind, "f32") for kind in kinds}
    gathered, scattered, reduced = (sizes[kind, "f32"] for kind in kinds)
    assert gathered == scattered > 0.9 * parameters
    assert parameters <= scattered + reduced <= 1.05 * parameters


@pytest.mark.parametrize("reduce_dtype", ["float32", "bfloat16"])
def test_gradients_are_added_up_in_the_dtype_that_is_asked_for(reduce_dtype):
    mesh = parallel.data_mesh(8, 8)
    params = {"w": np.zeros(3, np.float32), "held": np.ones(2, np.float32)}
    image = np.float32(1 + 2.0**-10 * np.arange(24).reshape(8, 3))

    def differentiate(params, stats, batch, keys):
        gradients = {"w": batch["image"].mean(0), "held": params["held"]}
        return gradients, {"loss": batch["image"].mean()}, stats

    function = over_devices(
        differentiate,
        mesh,
        parallel.state_sharding(mesh, params, "replicated"),
        reduce_dtype=reduce_dtype,
        frozen=("held",),
    )
    keys = jax.random.split(jax.random.key(0), 8)
    gradients, metrics, _ = jax.jit(function)(params, {}, {"image": image}, keys)
    found = gradients["w"]
    is_rounded = found == found.astype(jnp.bfloat16)
    assert is_rounded.all() == (reduce_dtype == "bfloat16")
    np.testing.assert_allclose(found, image.mean(0), rtol=2**-7 if is_rounded.all() else 1e-6)
    np.testing.assert_array_equal(gradients["held"], 0)
    np.testing.assert_allclose(metrics["loss"], image.mean(), rtol=1e-6)
