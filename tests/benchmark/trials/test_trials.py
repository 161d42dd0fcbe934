"""Trials: what their folders say of them, how they run, and what they cost."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from jaxdet.benchmark.cost.step import needed_flops
from jaxdet.benchmark.reference import find
from jaxdet.benchmark.trials.comparison import Row, markdown
from jaxdet.benchmark.trials.cost import (
    Data,
    Speed,
    data_of,
    device_hours,
    expected_speed,
    plan_text,
    planned,
    stated_speed,
)
from jaxdet.benchmark.trials.slurm import run_on_slurm
from jaxdet.benchmark.trials.trials import (
    Outcome,
    check_trial,
    make_trial,
    outcome,
    run_command,
    run_here,
    run_trials,
)
from jaxdet.errors import UserError
from jaxdet.flags import load_config

TINY = ("--config=tests/tiny.py",)


def plain(trial) -> dict:
    return json.loads(trial.config.to_json())


@pytest.fixture
def trial(tmp_path):
    return make_trial(tmp_path, "one", TINY, {"optim.lr": 1e-3, "epochs": 2.0})


def test_a_trial_is_a_command_of_main_with_its_whole_config(trial, tmp_path):
    assert trial.command == [
        sys.executable,
        "-m",
        "jaxdet.main",
        "--config=tests/tiny.py",
        "--config.optim.lr=0.001",
        "--config.epochs=2.0",
        f"--workdir={tmp_path / 'one'}",
    ]
    assert trial.config.optim.lr == 1e-3
    assert trial.config.image_size == 64


def test_tuples_reach_the_config_as_they_are(tmp_path):
    words = {"model.vit.global_blocks": (), "model.vit.out_indices": (0, 3), "image_size": 32}
    trial = make_trial(tmp_path, "one", TINY, words)
    assert trial.config.model.vit.global_blocks == ()
    assert trial.config.model.vit.out_indices == (0, 3)


def test_a_word_that_trials_differ_in_cannot_be_given(tmp_path):
    with pytest.raises(UserError, match=r"--config.epochs=3 cannot be given: trials differ in"):
        make_trial(tmp_path, "one", (*TINY, "--config.epochs=3"), {"epochs": 2.0})


def test_missing_weights_are_told_before_anything_starts(tmp_path):
    trial = make_trial(tmp_path, "one", ("--config=tests/tiny.py:mae",))
    check_trial(trial, needs_weights=False)
    with pytest.raises(UserError, match=r"weights to start mae from are not given: .*--weights"):
        check_trial(trial, needs_weights=True)
    trial = make_trial(tmp_path, "one", ("--config=tests/tiny.py:mae", "--config.init=/no.npz"))
    check_trial(trial, needs_weights=False)
    with pytest.raises(UserError, match=r"config.init='/no.npz' is not a file"):
        check_trial(trial, needs_weights=True)


def test_a_base_run_stands_for_weights(tmp_path):
    base = ("--config=tests/tiny.py:mae", "--config.few_shot.base_run=/runs/base")
    check_trial(make_trial(tmp_path, "one", base), needs_weights=True)


def test_a_folder_without_a_result_has_no_outcome(trial):
    assert outcome(trial) is None
    trial.folder.mkdir()
    (trial.folder / "config.json").write_text(json.dumps(plain(trial)))
    trial.log.write_text("$ python\nerror: no space is left\n")
    assert outcome(trial) is None


def test_a_result_of_the_same_config_is_the_outcome(trial, write_result):
    write_result(trial.folder, plain(trial), 0.25)
    assert outcome(trial) == (0.25, 0.125, None)
    assert str(outcome(trial)) == "box AP 25.0, mask AP 12.5"


@pytest.mark.parametrize("name", ["result.json", "config.json"])
def test_a_folder_of_another_config_is_refused(trial, name):
    other = plain(trial)
    other["optim"]["lr"] = 0.1
    trial.folder.mkdir()
    content = {"config": other} if name == "result.json" else other
    (trial.folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config.optim.lr was 0.1 and is now 0.001.*--workdir"):
        outcome(trial)


def test_where_data_lies_may_change_and_the_initial_weights_may_not(tmp_path, write_result):
    first = make_trial(tmp_path, "one", TINY, {"data.root": "/a", "init": "/a.npz"})
    write_result(first.folder, plain(first), 0.25)
    assert outcome(make_trial(tmp_path, "one", TINY, {"data.root": "/b", "init": "/a.npz"}))
    with pytest.raises(UserError, match=r"config.init was '/a.npz' and is now '/b.npz'"):
        outcome(make_trial(tmp_path, "one", TINY, {"init": "/b.npz"}))


def test_an_evaluation_on_the_way_is_not_the_end(trial, write_result):
    for step, is_end in ((1, False), (3, False), (4, True)):
        write_result(trial.folder, plain(trial), 0.25, step=step, epochs=step / 2)
        assert (outcome(trial) is not None) == is_end
    # Steps an epoch need not be whole: 2 epochs of 17/8 steps are 4 steps.
    write_result(trial.folder, plain(trial), 0.25, step=4, epochs=4 / (17 / 8))
    assert outcome(trial)


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_damaged_result_is_named(trial, content):
    trial.folder.mkdir()
    (trial.folder / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"one/result.json cannot be read .*delete it"):
        outcome(trial)


def test_a_result_without_ap_is_named(trial, write_result):
    write_result(trial.folder, plain(trial), None)
    with pytest.raises(UserError, match=r"one/result.json has no box AP"):
        outcome(trial)


def test_only_what_is_not_finished_runs(tmp_path, trainer, capsys):
    trainer.score = lambda config: config.optim.lr
    trials = [
        make_trial(tmp_path, name, TINY, {"optim.lr": lr}) for name, lr in (("a", 0.1), ("b", 0.2))
    ]
    assert run_trials([trials[1], trials[1]], run_here) == [(0.2, 0.1, None)] * 2
    assert [found.box_ap for found in run_trials(trials, run_here)] == [0.1, 0.2]
    assert trainer.ran == ["b", "a"]
    said = capsys.readouterr().out
    assert "b: box AP 20.0, mask AP 10.0 (finished before)" in said
    assert f"[1/1] a: running, see {tmp_path / 'a' / 'log.txt'}" in said


def test_divergence_is_an_outcome_and_is_remembered(trial, trainer):
    trainer.score = lambda config: "diverged"
    for _ in range(2):
        (found,) = run_trials([trial], run_here)
        assert found == (None, None, "training diverged: loss not finite at step 3")
    assert trainer.ran == ["one"]


def test_a_diverged_trial_goes_on_when_told_to_skip(tmp_path, trainer):
    trainer.score = lambda config: "diverged" if config.on_nonfinite == "stop" else 0.5
    run_trials([make_trial(tmp_path, "one", TINY)], run_here)
    skipping = make_trial(tmp_path, "one", (*TINY, "--config.on_nonfinite=skip"))
    assert run_trials([skipping], run_here) == [(0.5, 0.25, None)]
    assert trainer.ran == ["one", "one"]


def test_an_old_divergence_is_not_that_of_the_last_run(trial, trainer):
    trainer.score = lambda config: "diverged"
    run_trials([trial], run_here)
    with trial.log.open("a") as stream:
        stream.write("$ python again\nwent on\rand on\r")
    assert outcome(trial) is None


def test_another_failure_stops_and_names_its_log(tmp_path, trainer, capsys):
    trainer.score = lambda config: "failed"
    trials = [make_trial(tmp_path, name, TINY) for name in "ab"]
    with pytest.raises(UserError) as raised:
        run_trials(trials, run_here)
    assert str(raised.value) == (
        f"a failed (exit status 2: no space is left); its log is {tmp_path / 'a' / 'log.txt'}; "
        "the same command resumes when that is mended"
    )
    assert trainer.ran == ["a"]
    trainer.score = lambda config: 0.5
    run_trials(trials, run_here)
    assert trainer.ran == ["a", "a", "b"]


def test_what_a_command_prints_is_added_to_its_log(tmp_path):
    log = tmp_path / "new" / "log.txt"
    for number in (3, 4):
        code = f"import sys; print('out'); print('err', file=sys.stderr); sys.exit({number})"
        assert run_command([sys.executable, "-c", code], log) == number
    text = log.read_text()
    assert text.count("$ ") == text.count("out\n") == text.count("err\n") == 2


def test_a_log_is_written_by_one_run_at_a_time(tmp_path):
    log = tmp_path / "log.txt"
    with log.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"log.txt is being written by a run that is still"):
            run_command(["true"], log)
    assert run_command(["true"], log) == 0


def test_an_interrupt_stops_the_command(tmp_path, monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

        def wait(self, timeout=None):
            if self.poll() is None and len(started) == 1:
                started.append("interrupted")
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr("jaxdet.benchmark.trials.trials.subprocess.Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        run_command(["sleep", "60"], tmp_path / "log.txt")
    assert started[0].returncode == -signal.SIGTERM


class FakeJob:
    def __init__(self, number, function, arguments):
        self.job_id, self.state = f"7_{number}", "UNKNOWN"
        self._call = (function, arguments)
        self.cancelled = self._done = False

    def done(self):
        return self._done

    def result(self):
        self._done = True
        function, arguments = self._call
        return function(*arguments)

    def cancel(self, check):
        self.cancelled = True


@pytest.fixture
def submitit(monkeypatch):
    """A stand-in for the package that notes what it is asked for; jobs end in reverse order."""
    module = ModuleType("submitit")
    module.jobs, module.asked = [], {}

    class AutoExecutor:
        def __init__(self, folder, cluster):
            module.asked.update(folder=folder, cluster=cluster)

        def update_parameters(self, **parameters):
            module.asked.update(parameters)

        def batch(self):
            module.asked["batches"] = module.asked.get("batches", 0) + 1
            return pytest.MonkeyPatch.context()

        def submit(self, function, *arguments):
            module.jobs.append(FakeJob(len(module.jobs), function, arguments))
            return module.jobs[-1]

    module.AutoExecutor = AutoExecutor
    module.helpers = SimpleNamespace(as_completed=lambda jobs, poll_frequency: reversed(jobs))
    monkeypatch.setitem(sys.modules, "submitit", module)
    return module


def on_slurm(folder: Path):
    limits = {"gpus_per_node": 4, "cpus": 8, "hours": 1.5, "max_parallel": 3}
    return lambda trials: run_on_slurm(trials, folder, partition="long", **limits)


def test_trials_are_jobs_side_by_side(tmp_path, submitit, trainer, monkeypatch):
    monkeypatch.setattr("jaxdet.benchmark.trials.slurm.run_command", trainer)
    trainer.score = lambda config: config.optim.lr
    trials = [
        make_trial(tmp_path, name, TINY, {"optim.lr": lr}) for name, lr in (("a", 0.1), ("b", 0.2))
    ]
    found = run_trials(trials, on_slurm(tmp_path / "slurm"))
    assert [result.box_ap for result in found] == [0.1, 0.2]
    assert trainer.ran == ["b", "a"]
    assert submitit.asked == {
        "folder": tmp_path / "slurm",
        "cluster": "slurm",
        "batches": 1,
        "name": "jaxdet",
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": 8,
        "gpus_per_node": 4,
        "timeout_min": 90,
        "slurm_array_parallelism": 3,
        "slurm_partition": "long",
    }
    run_trials(trials, on_slurm(tmp_path / "slurm"))
    assert len(submitit.jobs) == 2


def test_a_job_that_fails_lets_the_others_end(tmp_path, submitit, trainer, monkeypatch):
    monkeypatch.setattr("jaxdet.benchmark.trials.slurm.run_command", trainer)
    trials = [make_trial(tmp_path, name, TINY, {"seed": seed}) for seed, name in enumerate("abc")]

    def score(config):
        if config.seed == 2:
            raise RuntimeError("Job 7_2 vanished\nnode failure")
        return "failed" if config.seed == 1 else 0.5

    trainer.score = score
    with pytest.raises(UserError) as raised:
        run_trials(trials, on_slurm(tmp_path))
    assert str(raised.value).startswith("c failed (job 7_2 in state UNKNOWN, node failure: ")
    assert outcome(trials[0]).box_ap == 0.5


def test_jobs_are_cancelled_when_the_command_stops(tmp_path, submitit, trainer, monkeypatch):
    def interrupt(command, log):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxdet.benchmark.trials.slurm.run_command", interrupt)
    trials = [make_trial(tmp_path, name, TINY) for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        run_trials(trials, on_slurm(tmp_path))
    assert [job.cancelled for job in submitit.jobs] == [True, False]


def test_a_missing_submitit_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    trials = [make_trial(tmp_path, "a", TINY)]
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '\.\[cluster\]'"):
        run_trials(trials, on_slurm(tmp_path))


def test_a_missing_cluster_is_told(tmp_path, submitit, monkeypatch):
    def fail(folder, cluster):
        raise RuntimeError('Could not detect "srun"')

    monkeypatch.setattr(submitit, "AutoExecutor", fail)
    with pytest.raises(UserError, match=r'could be submitted \(Could not detect "srun"\)'):
        run_trials([make_trial(tmp_path, "a", TINY)], on_slurm(tmp_path))


DATA = Data(train_images=7200, classes=80, source="counted")


@pytest.fixture(scope="module")
def vitb():
    config = load_config(Path("configs/vitb_mae.py"))
    config.epochs = 25.0
    return config


def test_cost_by_images_per_second(vitb):
    speed = stated_speed(10.0, vitb, 80)
    assert device_hours(vitb, DATA, speed) == pytest.approx(25 * 7200 / 10 / 3600)
    dearer = vitb.copy_and_resolve_references()
    dearer.model.vit.global_blocks = tuple(range(12))
    factor = needed_flops(dearer, 80) / needed_flops(vitb, 80)
    assert factor > 1.2
    assert device_hours(dearer, DATA, speed) == pytest.approx(5 * factor)


def test_cost_by_flops(vitb):
    speed = expected_speed("NVIDIA A100-SXM4-80GB", "bfloat16", None, 0.5)
    seconds = 25 * 7200 * needed_flops(vitb, 80) / (0.5 * 312e12)
    assert device_hours(vitb, DATA, speed) == pytest.approx(seconds / 3600)
    assert "0.5 of 312 TFLOP/s a device (this NVIDIA A100" in speed.source
    assert expected_speed(None, "bfloat16", 100.0, 0.4).flops == pytest.approx(0.4 * 100e12)
    assert "assumed, NVIDIA H100's" in expected_speed(None, "bfloat16", None, 0.4).source


def test_an_unknown_cost_is_said_to_be(vitb):
    speed = expected_speed("cpu", "float32", None, 0.4)
    assert device_hours(vitb, DATA, speed) is None
    text = plan_text([planned("grid", [vitb, vitb], DATA, speed)], DATA, speed)
    assert text.count("not known") == 2
    assert "no peak is listed for float32" in text


def test_a_plan_adds_up(vitb):
    rows = [
        planned(stage, [vitb] * count, DATA, stated_speed(10.0, vitb, 80))
        for stage, count in (("grid", 9), ("final", 1))
    ]
    assert [row.hours for row in rows] == [pytest.approx(45), pytest.approx(5)]
    lines = plan_text(rows, DATA, Speed(1.0, "as given")).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["grid", "9", "25", "45"],
        ["final", "1", "25", "5"],
        ["in", "all", "10", "50"],
    ]
    assert lines[4] == "an epoch is 7,200 images (counted)"


def test_an_epoch_is_counted_where_the_data_can_be_opened():
    config = load_config(Path("tests/tiny.py"))
    assert data_of(config)[0] == 16
    config = load_config(Path("configs/vitb_mae.py"))
    assert data_of(config)[:2] == (117_266, 80)


def test_only_all_of_coco_is_what_published_results_are_of():
    assert Data(117_266, 80, "counted").is_coco
    assert not Data(117_266, 20, "counted").is_coco
    assert not Data(11_700, 80, "counted").is_coco


def test_a_table_compares_with_what_is_published():
    mae = find("benchmark", "ViT-B", "mae", 50)
    single = find("benchmark", "ViT-L", "mae", 50, variant="single scale")
    lines = markdown(
        [
            Row("one", Outcome(0.5, 0.45), mae),
            Row("two", Outcome(0.5, 0.45), single),
            Row("three", Outcome(0.5, None), None),
            Row("four", Outcome(None, None, "training diverged"), mae),
        ],
        "scales",
    ).splitlines()
    assert lines[2:6] == [
        "| one | 50.0 | 50.1 [1] | -0.1 | 45.0 | 44.6 [1] | +0.4 |",
        "| two | 50.0 | 52.0 [2] | -2.0 | 45.0 | - | - |",
        "| three | 50.0 | - | - | - | - | - |",
        "| four | diverged | 50.1 [1] | - | diverged | 44.6 [1] | - |",
    ]
    assert lines[7].startswith("1. The numbers behind the curve of ViT-B from MAE")
    assert "box AP derived" in lines[8]
