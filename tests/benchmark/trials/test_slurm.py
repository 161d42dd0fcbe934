"""Trials as jobs of a cluster, by a stand-in for submitit."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from jaxdet.benchmark.trials.outcome import read_outcome
from jaxdet.benchmark.trials.runner import run_trials
from jaxdet.benchmark.trials.slurm import SlurmExecutor
from jaxdet.errors import UserError


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
    return SlurmExecutor(folder, partition="long", **limits)


def test_trials_are_jobs_side_by_side(tmp_path, tiny_trial, submitit, trainer, monkeypatch):
    monkeypatch.setattr("jaxdet.benchmark.trials.slurm.run_command", trainer)
    trainer.score = lambda config: config.optim.lr
    trials = [tiny_trial("a", {"optim.lr": 0.1}), tiny_trial("b", {"optim.lr": 0.2})]
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


def test_a_job_that_fails_lets_the_others_end(tmp_path, tiny_trial, submitit, trainer, monkeypatch):
    monkeypatch.setattr("jaxdet.benchmark.trials.slurm.run_command", trainer)
    trials = [tiny_trial(name, {"seed": seed}) for seed, name in enumerate("abc")]

    def score(config):
        if config.seed == 2:
            raise RuntimeError("Job 7_2 vanished\nnode failure")
        return "failed" if config.seed == 1 else 0.5

    trainer.score = score
    with pytest.raises(UserError) as raised:
        run_trials(trials, on_slurm(tmp_path))
    assert str(raised.value).startswith("c failed (job 7_2 in state UNKNOWN, node failure: ")
    assert read_outcome(trials[0]).box_ap == 0.5


def test_jobs_are_cancelled_when_the_command_stops(tmp_path, tiny_trial, submitit, monkeypatch):
    def interrupt(command, log):
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxdet.benchmark.trials.slurm.run_command", interrupt)
    trials = [tiny_trial(name) for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        run_trials(trials, on_slurm(tmp_path))
    assert [job.cancelled for job in submitit.jobs] == [True, False]


def test_a_missing_submitit_is_named(tmp_path, trial, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '\.\[cluster\]'"):
        run_trials([trial], on_slurm(tmp_path))


def test_a_missing_cluster_is_named(tmp_path, trial, submitit, monkeypatch):
    def fail(folder, cluster):
        raise RuntimeError('Could not detect "srun"')

    monkeypatch.setattr(submitit, "AutoExecutor", fail)
    with pytest.raises(UserError, match=r'could be submitted \(Could not detect "srun"\)'):
        run_trials([trial], on_slurm(tmp_path))
