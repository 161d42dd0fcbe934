"""Training on any number of devices and processes, and what may interrupt it."""

from __future__ import annotations

import copy
import json
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxdet.train
from jaxdet import parallel
from jaxdet.errors import PreemptedError, UserError
from jaxdet.evaluation.evaluate import Evaluator
from jaxdet.main import main
from jaxdet.train import train, training_batches
from jaxdet.training import loop
from jaxdet.training.checkpoint import Checkpoints, abstract, latest_step
from jaxdet.training.experiment import Experiment
from jaxdet.training.step import abstract_state
from tests.runs import finish, kill, logged, start, stop_after
from tests.tiny import get_config

pytestmark = pytest.mark.usefixtures("shared_programs")


def experiment_on(devices: int, workdir: Path, **keys) -> Experiment:
    """An experiment on the first few devices of the test machine."""
    config = get_config()
    config.update(**keys)
    experiment = Experiment(config, workdir)
    experiment.mesh = Mesh(np.array(jax.devices()[:devices]), (parallel.BATCH_AXIS,))
    return experiment


def saved_arrays(experiment: Experiment, step: int):
    """Everything a checkpoint holds, on one device."""
    shapes = abstract_state(experiment.stateless, experiment.optimizer)
    placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(experiment.checkpoint_folder) as checkpoints:
        return jax.device_get(checkpoints.restore(step, abstract(shapes, placement)))


def test_a_run_stopped_by_sigterm_saves_and_resumes_to_the_same_end(
    finished, tmp_path, monkeypatch
):
    workdir = tmp_path / "work"
    stop_after(monkeypatch, 1)
    with pytest.raises(PreemptedError, match=r"saved step 1 of 4"):
        train(experiment_on(8, workdir))
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    experiment = experiment_on(8, workdir, profile_steps=(2, 2))
    np.testing.assert_equal(train(experiment), finished[1])
    jax.tree.map(
        np.testing.assert_array_equal, saved_arrays(experiment, 4), saved_arrays(finished[0], 4)
    )
    assert list((workdir / "profile").rglob("*.xplane.pb"))
    names = {"loss", "grad_norm/backbone", "learning_rate_lowest", "input_wait_share"}
    names |= {"foreground_rois", "skipped_steps"}
    assert names <= logged(workdir)[-1].keys()


def test_the_command_line_reports_that_it_was_stopped(monkeypatch, capsys, tmp_path):
    def stop(experiment):
        raise PreemptedError("asked to stop; saved step 1")

    monkeypatch.setattr(jaxdet.train, "train", stop)
    assert main([f"--workdir={tmp_path}"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "asked to stop; saved step 1\n"


def on_two_devices(workdir: Path) -> Experiment:
    """In microbatches, and saved after each step."""
    return experiment_on(2, workdir, accumulate=2, checkpoint_every=0.5)


def test_a_run_resumes_on_other_numbers_of_devices(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "work"

    def killed(self, params, stats):
        raise MemoryError

    for experiment, step in (
        (experiment_on(8, workdir, checkpoint_every=0.5), 1),
        (on_two_devices(workdir), 2),
    ):
        stop_after(monkeypatch, step)
        monkeypatch.setattr(Evaluator, "__call__", killed)  # which SIGTERM keeps from starting
        with pytest.raises(PreemptedError, match=f"saved step {step} of 4"):
            train(experiment)
        monkeypatch.undo()
    # Step 2 was saved but not evaluated: that is done first, and whatever happens then is no loss.
    monkeypatch.setattr(Evaluator, "__call__", killed)
    with pytest.raises(MemoryError):
        train(on_two_devices(workdir))
    monkeypatch.undo()
    assert latest_step(workdir / "checkpoints") == 2
    train(on_two_devices(workdir))
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val/bbox/AP" in line] == [2, 4]
    found, expected = logged(workdir), logged(finished[0].workdir)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    for name in ("loss_mask", "loss_rpn_objectness", "grad_norm/mask_head"):
        values = [[line[name] for line in lines] for lines in (found, expected)]
        # Which boxes are sampled may turn on rounding, so that the end is not quite the same.
        np.testing.assert_allclose(values[0][:2], values[1][:2], rtol=1e-4)
        np.testing.assert_allclose(*values, rtol=2e-2)


def test_another_number_of_training_images_is_rejected(finished):
    experiment = experiment_on(8, finished[0].workdir)
    experiment.trained_images = 17
    with pytest.raises(UserError, match="the number of training images was 16 and is now 17"):
        train(experiment)


@pytest.fixture(scope="module")
def one_batch(finished):
    experiment = finished[0]
    batch = next(training_batches(experiment))
    del batch["image_id"]
    return parallel.shard_batch(batch, experiment.mesh)


@pytest.fixture(scope="module")
def fresh(finished):
    """The state from which the finished run started, on the host."""
    run = finished[0]
    return jax.device_get(loop.random_state(run, parallel.replicated(run.mesh)))


def first_step(experiment, before, batch, sharding: str):
    """The state after one step, and its metrics."""
    mesh, shapes = experiment.mesh, abstract_state(experiment.stateless, experiment.optimizer)
    state = jax.device_put(before, parallel.state_sharding(mesh, shapes, sharding))
    train_step = loop.make_train_step(
        experiment.stateless,
        experiment.optimizer,
        mesh,
        accumulate=1,
        batch_statistics="batch",
        frozen=(),
        sharding=sharding,
        reduce_dtype="float32",
    )
    key = jax.device_put(jax.random.key(0), parallel.replicated(mesh))
    after, metrics = train_step(state, batch, key)
    return after, jax.device_get(metrics)


def test_a_state_split_over_devices_makes_the_same_step(finished, fresh, one_batch, monkeypatch):
    monkeypatch.setattr(parallel, "SMALLEST_SPLIT", 128)
    whole, metrics = first_step(finished[0], fresh, one_batch, "replicated")
    split, split_metrics = first_step(finished[0], fresh, one_batch, "fsdp")

    def on_one_device(state) -> int:
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))

    assert on_one_device(split) < 0.25 * on_one_device(whole)
    for name, value in metrics.items():
        np.testing.assert_allclose(split_metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    # Adam's first step is the sign of the gradient where that is more than rounding.
    moments = [state["opt_state"][0].mu for state in (split, whole)]

    def assert_close(a, b):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 1e-9

    jax.tree.map(assert_close, *jax.device_get(moments))


def test_a_step_that_is_not_finite_changes_nothing(finished, fresh, one_batch):
    before = copy.deepcopy(fresh)
    before["params"]["rpn"]["objectness"]["bias"] *= np.nan
    after, metrics = first_step(finished[0], before, one_batch, "replicated")
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["loss"])
    after = jax.device_get(after)
    assert after.pop("step") == before.pop("step") + 1
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_the_loop_reads_nothing_from_the_device_unasked(finished, tmp_path):
    if jax.default_backend() == "cpu":
        pytest.skip("a CPU is its own host: JAX guards no transfers there")
    with jax.transfer_guard_device_to_host("disallow"):
        train(experiment_on(len(jax.devices()), tmp_path / "work"))


ONE_BLOCK = [
    f"--config.model.vit.{key}" for key in ("depth=1", "global_blocks=(0,)", "out_indices=(0,)")
]


def test_two_processes_killed_and_resumed_end_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["jaxdet.main", "--config=tests/tiny.py", "--config.checkpoint_every=0.5", *ONE_BLOCK]
    finish(start([*command, f"--workdir={one}"], 1))
    command.append(f"--workdir={two}")
    killed = start(command, 2)
    try:
        deadline = time.monotonic() + 600
        while not (two / "checkpoints" / "1").is_dir():
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in killed)
            time.sleep(0.02)
    finally:
        kill(killed)
    assert not (two / "result.json").exists()

    finish(start(command, 2))
    results = [json.loads((workdir / "result.json").read_text()) for workdir in (one, two)]
    for same in ("metrics", "checkpoint_sha256"):
        assert results[0][same] == results[1][same]
    assert results[0]["step"] == results[1]["step"] == 4
    assert (one / "detections.json").read_bytes() == (two / "detections.json").read_bytes()
    losses = [[line["loss"] for line in logged(workdir)] for workdir in (one, two)]
    assert losses[0] == losses[1]
