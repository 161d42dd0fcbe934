"""Training on any number of devices and processes, and what may interrupt it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxdet.train
from jaxdet import parallel
from jaxdet.errors import PreemptedError, UserError
from jaxdet.evaluation.evaluate import Evaluator
from jaxdet.main import main
from jaxdet.train import train, training_batches
from jaxdet.training.checkpoint import Checkpoints, abstract, latest_step
from jaxdet.training.experiment import Experiment
from jaxdet.training.step import abstract_state, initial_state, make_train_step
from tests.runs import finish, logged, start, stop_after
from tests.tiny import get_config


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


def test_a_run_resumes_on_other_numbers_of_devices(finished, tmp_path, monkeypatch):
    workdir = tmp_path / "work"

    def killed(self, params, stats):
        raise MemoryError

    for devices, step in ((8, 1), (4, 2)):
        stop_after(monkeypatch, step)
        monkeypatch.setattr(Evaluator, "__call__", killed)  # which SIGTERM keeps from starting
        with pytest.raises(PreemptedError, match=f"saved step {step} of 4"):
            train(experiment_on(devices, workdir))
        monkeypatch.undo()
    # Step 2 was saved but not evaluated: that is done first, and whatever happens then is no loss.
    monkeypatch.setattr(Evaluator, "__call__", killed)
    with pytest.raises(MemoryError):
        train(experiment_on(1, workdir, accumulate=2))
    monkeypatch.undo()
    assert latest_step(workdir / "checkpoints") == 2
    train(experiment_on(1, workdir, accumulate=2))
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


def first_step(experiment, batch, sharding: str, poison: bool = False):
    """The state before and after one step, and its metrics."""
    stateless, optimizer, mesh = experiment.stateless, experiment.optimizer, experiment.mesh
    placement = parallel.state_sharding(mesh, abstract_state(stateless, optimizer), sharding)
    state = jax.jit(
        lambda: initial_state(stateless, optimizer, jax.random.key(0)),
        out_shardings=placement,
    )()
    if poison:
        bias = state["params"]["rpn"]["objectness"]["bias"]
        state["params"]["rpn"]["objectness"]["bias"] = bias * jnp.nan
    before = jax.device_get(state)
    key = jax.device_put(jax.random.key(0), parallel.replicated(mesh))
    after, metrics = make_train_step(stateless, optimizer, mesh, sharding=sharding)(
        state, batch, key
    )
    return before, after, jax.device_get(metrics)


def test_a_state_split_over_devices_makes_the_same_step(finished, one_batch, monkeypatch):
    monkeypatch.setattr(parallel, "SMALLEST_SPLIT", 128)
    _, whole, metrics = first_step(finished[0], one_batch, "replicated")
    _, split, split_metrics = first_step(finished[0], one_batch, "fsdp")

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


def test_a_step_that_is_not_finite_changes_nothing(finished, one_batch):
    before, after, metrics = first_step(finished[0], one_batch, "replicated", poison=True)
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


def test_two_processes_killed_and_resumed_end_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["jaxdet.main", "--config=tests/tiny.py", "--config.checkpoint_every=0.5"]
    finish(start([*command, f"--workdir={one}"], 1))
    killed = start([*command, f"--workdir={two}"], 2)
    deadline = time.monotonic() + 600
    while not (two / "checkpoints" / "1").is_dir():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in killed)
        time.sleep(0.02)
    for process in killed:
        process.kill()
        process.communicate()
    assert not (two / "result.json").exists()

    finish(start([*command, f"--workdir={two}"], 2))
    results = [json.loads((workdir / "result.json").read_text()) for workdir in (one, two)]
    for same in ("metrics", "checkpoint_sha256"):
        assert results[0][same] == results[1][same]
    assert results[0]["step"] == results[1]["step"] == 4
    assert (one / "detections.json").read_bytes() == (two / "detections.json").read_bytes()
    losses = [[line["loss"] for line in logged(workdir)] for workdir in (one, two)]
    assert losses[0] == losses[1]
