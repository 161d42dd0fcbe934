"""Training on any number of devices and processes, and what may interrupt it."""

from __future__ import annotations

import json
import resource
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxdet.train
from jaxdet import parallel
from jaxdet.errors import PreemptedError, UserError
from jaxdet.main import main
from jaxdet.train import train, training_batches
from jaxdet.training.checkpoint import Checkpoints, abstract
from jaxdet.training.experiment import Experiment
from jaxdet.training.monitor import Monitor
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


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Four steps on eight devices, nothing in their way."""
    experiment = experiment_on(8, tmp_path_factory.mktemp("whole") / "work")
    return experiment, train(experiment)


def test_a_run_stopped_by_sigterm_saves_and_resumes_to_the_same_end(
    whole_run, tmp_path, monkeypatch
):
    workdir = tmp_path / "work"
    stop_after(monkeypatch, 1)
    with pytest.raises(PreemptedError, match=r"saved step 1 of 4"):
        train(experiment_on(8, workdir))
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    experiment = experiment_on(8, workdir, profile_steps=(2, 2))
    np.testing.assert_equal(train(experiment), whole_run[1])
    jax.tree.map(
        np.testing.assert_array_equal, saved_arrays(experiment, 4), saved_arrays(whole_run[0], 4)
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


def test_a_run_resumes_on_other_numbers_of_devices(whole_run, tmp_path, monkeypatch):
    workdir = tmp_path / "work"
    for devices, step in ((8, 1), (4, 2)):
        stop_after(monkeypatch, step)
        with pytest.raises(PreemptedError):
            train(experiment_on(devices, workdir))
        monkeypatch.undo()
    train(experiment_on(1, workdir, accumulate=2))
    found, expected = logged(workdir), logged(whole_run[0].workdir)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    for name in ("loss_mask", "loss_rpn_objectness", "grad_norm/mask_head"):
        values = [[line[name] for line in lines] for lines in (found, expected)]
        # Which boxes are sampled may turn on rounding, so that the end is not quite the same.
        np.testing.assert_allclose(values[0][:2], values[1][:2], rtol=1e-4)
        np.testing.assert_allclose(*values, rtol=2e-2)


def test_another_number_of_training_images_is_refused(whole_run):
    experiment = experiment_on(8, whole_run[0].workdir)
    experiment.trained_images = 17
    with pytest.raises(UserError, match="the number of training images was 16 and is now 17"):
        train(experiment)


@pytest.fixture(scope="module")
def one_batch(whole_run):
    experiment = whole_run[0]
    batch = next(training_batches(experiment))
    del batch["image_id"]
    return parallel.shard_batch(batch, experiment.mesh)


def first_step(experiment, batch, sharding: str, poison: bool = False):
    """The state before and after one step, and its metrics."""
    stateless, optimizer, mesh = (
        experiment.stateless,
        experiment.optimizer,
        experiment.mesh,
    )
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


def test_a_state_split_over_devices_makes_the_same_step(whole_run, one_batch, monkeypatch):
    monkeypatch.setattr(parallel, "SMALLEST_SPLIT", 128)
    _, whole, metrics = first_step(whole_run[0], one_batch, "replicated")
    _, split, split_metrics = first_step(whole_run[0], one_batch, "fsdp")

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


def test_a_step_that_is_not_finite_changes_nothing(whole_run, one_batch):
    before, after, metrics = first_step(whole_run[0], one_batch, "replicated", poison=True)
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["loss"])
    after = jax.device_get(after)
    assert after.pop("step") == before.pop("step") + 1
    jax.tree.map(np.testing.assert_array_equal, after, before)


class Recorded:
    """In place of a progress bar."""

    def __init__(self):
        self.updates, self.notes = [], []

    def update(self, step, scalars):
        self.updates.append(step)

    def note(self, text):
        self.notes.append(text)


def step_metrics(skipped: float) -> dict[str, jax.Array]:
    loss = np.nan if skipped else 1.0
    values = {"loss": loss, "grad_norm": loss, "grad_norm/rpn": loss, "grad_norm/pyramid": 2.0}
    return {name: jnp.float32(value) for name, value in (values | {"skipped": skipped}).items()}


@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_a_step_that_is_not_finite_is_reported_one_step_later(whole_run, rule):
    progress = Recorded()
    with Checkpoints(whole_run[0].checkpoint_folder) as checkpoints:
        monitor = Monitor(
            checkpoints,
            None,
            progress,
            total_steps=9,
            log_every_steps=1,
            on_nonfinite=rule,
            scalars=lambda step: {},
        )
        monitor.add(5, np.arange(8), step_metrics(0.0))
        assert progress.updates == [], "the step under way must not be waited for"
        monitor.add(6, np.arange(100, 120), step_metrics(1.0))
        assert progress.updates == [5]
        stops = pytest.raises(UserError, match=r"checkpoints/4 is the last checkpoint")
        with stops if rule == "stop" else nullcontext() as raised:
            monitor.flush()
    message = str(raised.value) if rule == "stop" else progress.notes[0]
    what = "grad_norm, grad_norm/rpn, loss not finite at step 6 on the images 100, 101, "
    assert what in message
    assert "115 and 4 more (gradient norms: pyramid 2, rpn nan)" in message
    if rule == "skip":
        assert message.startswith("skipped a step, 1 so far")


def test_the_loop_reads_nothing_from_the_device_unasked(whole_run, tmp_path):
    if jax.default_backend() == "cpu":
        pytest.skip("a CPU is its own host: JAX guards no transfers there")
    with jax.transfer_guard_device_to_host("disallow"):
        train(experiment_on(len(jax.devices()), tmp_path / "work"))


def small_state(seed: int, size: int) -> dict:
    rng = np.random.default_rng(seed)
    return {name: {"a": rng.normal(size=size)} for name in ("params", "stats", "opt_state")}


def test_a_full_disk_leaves_the_last_checkpoint_complete(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    first, second = small_state(1, 64), small_state(2, 200_000)

    def fill():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(first, 1, {})
        # No file may grow beyond this, which the system reports like a disk without space.
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(second, 2, {})

    try:
        with pytest.raises(UserError, match=r"not be written to .*\(step 1 is complete"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        restored = checkpoints.restore(1, abstract(first, placement))
        jax.tree.map(np.testing.assert_allclose, jax.device_get(restored), first)


def test_a_half_written_checkpoint_is_none(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small_state(1, 64), 1, {})
    half = tmp_path / "2.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    (half / "params" / "manifest.ocdbt").write_bytes(b"cut")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        checkpoints.save(small_state(2, 64), 2, {})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 2


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
