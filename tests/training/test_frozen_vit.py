"""A training step with config.optim.train="heads": what it leaves alone, and what it needs not."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxdet import parallel
from jaxdet.models.paths import leaves_by_name
from jaxdet.train import training_batches
from jaxdet.training.checkpoint import Checkpoints, abstract
from jaxdet.training.experiment import Experiment
from jaxdet.training.loop import random_state
from jaxdet.training.step import abstract_state, make_train_step
from tests.tiny import get_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = get_config()
    config.optim.train = "heads"
    return Experiment(config, tmp_path_factory.mktemp("frozen") / "work")


@pytest.fixture(scope="module")
def shardings(run):
    return parallel.state_sharding(run.mesh, abstract_state(run.stateless, run.optimizer), "fsdp")


def host(tree):
    return {name: np.asarray(leaf) for name, leaf in leaves_by_name(tree).items()}


def test_a_step_leaves_the_vit_as_it_is_and_trains_the_rest(run, shardings, tmp_path):
    state = random_state(run, shardings)
    before = host(state["params"])
    step = make_train_step(
        run.stateless, run.optimizer, run.mesh, frozen=run.frozen, sharding="fsdp"
    )
    batches = training_batches(run)
    batch = {name: value for name, value in next(batches).items() if name != "image_id"}
    batches.close()
    state, metrics = step(state, parallel.shard_batch(batch, run.mesh), jax.random.key(0))
    after = host(state["params"])
    assert metrics["grad_norm/backbone"] == 0 < metrics["grad_norm"]
    still = {name for name in before if (before[name] == after[name]).all()}
    vit = {name for name in before if name.startswith("backbone.")}
    assert vit <= still
    assert {name.partition(".")[0] for name in before.keys() - still} >= {"pyramid", "rpn"}
    kept = [name for name in host(state["opt_state"]) if "backbone" in name]
    assert kept == []

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, 1, run.record(1))
        checkpoints.wait()
        target = abstract(abstract_state(run.stateless, run.optimizer), shardings)
        again = host(checkpoints.restore(1, target)["opt_state"])
    expected = host(state["opt_state"])
    assert again.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(again[name], value)


def test_a_run_says_what_has_no_effect_then(run):
    assert any("config.optim.layer_decay" in line for line in run.summary)
    assert run.scalars(0)["learning_rate_lowest"] == run.scalars(0)["learning_rate"]
