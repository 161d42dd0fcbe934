"""Where a run starts: from the newest sound checkpoint of its own."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxdet import parallel
from jaxdet.errors import UserError
from jaxdet.training import loop
from jaxdet.training.checkpoint import Checkpoints
from tests.tiny import get_config


def state_at(step: int) -> dict:
    arrays = {name: {"a": jnp.arange(4.0) + step} for name in ("params", "stats", "opt_state")}
    return {**arrays, "step": jnp.int32(step)}


def run_in(workdir, **recorded):
    """What `_start` takes of a run: nothing is built or compiled."""
    config = get_config()
    plain = json.loads(config.to_json())
    return SimpleNamespace(
        config=config,
        plain_config=plain,
        workdir=workdir,
        checkpoint_folder=workdir / "checkpoints",
        mesh=Mesh(np.array(jax.devices()), (parallel.BATCH_AXIS,)),
        stateless=None,
        optimizer=None,
        compared={
            "train_images": "images",
            "train_annotations_sha256": "the SHA-256 of the labels",
        },
        record=lambda step: {"config": plain, "train_images": 3, **recorded},
    )


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a run whose workdir has checkpoints of steps 2, the best, and 4."""
    run = run_in(tmp_path, train_annotations_sha256="1" * 64)
    monkeypatch.setattr(loop, "abstract_state", lambda *_: jax.eval_shape(lambda: state_at(0)))
    with Checkpoints(run.checkpoint_folder) as checkpoints:
        for step, score in ((2, 0.5), (4, 0.1)):
            checkpoints.save(state_at(step), step, run.record(step))
            checkpoints.record_score(step, score)

    def started(run=run):
        with Checkpoints(run.checkpoint_folder) as checkpoints:
            state, step = loop._start(loop.Task(run, batches=None), checkpoints)
        np.testing.assert_array_equal(state["params"]["a"], state_at(step)["params"]["a"])
        return step

    return started


def flip_a_byte(folder):
    (path, *_) = (folder / "params" / "d").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_newest_checkpoint_is_resumed(start, tmp_path, capsys):
    assert start() == 4
    assert capsys.readouterr().err == ""
    assert (tmp_path / "config.json").is_file()


@pytest.mark.parametrize("damage", ["flipped", "empty"])
def test_a_damaged_checkpoint_gives_way_with_a_line(start, tmp_path, capsys, damage):
    folder = tmp_path / "checkpoints"
    if damage == "empty":
        (folder / "6").mkdir()
        assert start() == 4
    else:
        flip_a_byte(folder / "4")
        assert start() == 2
    note = capsys.readouterr().err
    assert "is damaged" in note
    assert "instead, and the damaged one lies beside it" in note
    assert note.count("\n") == 1


def test_without_an_older_one_the_damage_is_an_error(start, tmp_path):
    for step in (2, 4):
        flip_a_byte(tmp_path / "checkpoints" / str(step))
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged .*; put back a copy of it"):
        start()


def test_changed_annotations_are_noticed_where_they_are_known(start, tmp_path):
    assert start(run_in(tmp_path, train_annotations_sha256=None)) == 4
    with pytest.raises(UserError, match=r"the SHA-256 of the labels was '1+' and is now '2+'"):
        start(run_in(tmp_path, train_annotations_sha256="2" * 64))


def test_how_often_a_run_looks_at_itself_may_change(start, tmp_path):
    run = run_in(tmp_path, train_annotations_sha256=None)
    run.config.update(eval_every=0.5, checkpoint_every=0.25)
    plain = json.loads(run.config.to_json())
    run.record = lambda step: {"config": plain, "train_images": 3, "train_annotations_sha256": None}
    assert start(run) == 4
    plain["optim"]["lr"] = 7.0
    with pytest.raises(UserError, match=r"config\.optim\.lr was 0\.001 and is now 7\.0"):
        start(run)


def test_compile_times_are_of_runs_whose_step_compiles_alike(tmp_path):
    def times(name, frozen=(), **changes):
        (tmp_path / name).mkdir(exist_ok=True)
        run = run_in(tmp_path / name)
        run.config.update(changes)
        run.plain_config = json.loads(run.config.to_json())
        run.stateless = _NoModel()
        run.batch_statistics, run.frozen = "batch", frozen
        return loop._compile_times(run)

    times("a").keep("the step", 5.0)
    assert times("b", seed=7).expectation("the step") == f"0:05 the last time, in {tmp_path / 'a'}"
    others = ({"frozen": ("backbone",)}, {"accumulate": 2}, {"model": {"dtype": "bfloat16"}})
    assert [times("b", **other).expectation("the step") for other in others] == [None] * 3


class _NoModel:
    abstract = ({}, {})


SCORES = {2: 0.1, 4: 0.3, 6: 0.3, 8: 0.2, 10: 0.1, 12: 0.9}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains a run of 12 steps, evaluated at every second, whose model is a few numbers."""

    def step_of(*_, **__):
        metrics = {"loss": jnp.float32(1.0), "skipped": jnp.float32(0.0)}
        return lambda state, batch, key: ({**state, "step": state["step"] + 1}, metrics)

    monkeypatch.setattr(loop, "make_train_step", step_of)
    monkeypatch.setattr(loop, "abstract_state", lambda *_: jax.eval_shape(lambda: state_at(0)))
    monkeypatch.setattr(loop, "initial_state", lambda *_: state_at(0))
    monkeypatch.setattr(loop, "_introduce", lambda *_: None)
    monkeypatch.setattr(loop.parallel, "shard_batch", lambda batch, mesh: batch)

    def batches(start_step):
        while True:
            yield {}

    def train(early_stop):
        run = run_in(tmp_path)
        run.config.early_stop = early_stop
        run.plain_config["early_stop"] = early_stop
        run.total_steps, run.batch_statistics, run.frozen = 12, "batch", ()
        run.steps_every = lambda epochs: {6, 12}
        run.stateless = _NoModel()
        run.scalars = lambda step: {}
        seen = []

        def evaluate(state):
            seen.append(int(state["step"]))
            return loop.Evaluated(SCORES[seen[-1]], {}, "a summary")

        task = loop.Task(run, batches, eval_steps={*SCORES}, evaluate=evaluate)
        return int(loop.fit(task)["step"]), seen

    return train


def test_training_stops_when_evaluations_no_longer_gain(trained, tmp_path, capsys):
    assert trained(early_stop=2) == (10, [2, 4, 6, 8, 10])  # of equals the later is the best
    said = "stopping at step 10 of 12: no better score since step 6, whose checkpoint is kept"
    assert said in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"6", "10"}
    assert trained(early_stop=2) == (10, [])  # the same command does not train on
    assert said in capsys.readouterr().err


def test_without_early_stop_training_goes_to_its_end(trained):
    assert trained(early_stop=0) == (12, [*SCORES])
