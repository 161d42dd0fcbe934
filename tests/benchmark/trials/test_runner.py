"""How trials run: what is finished does not, what fails stops, what is interrupted is stopped."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from jaxdet.benchmark.trials.runner import run_command, run_here, run_trials
from jaxdet.errors import PreemptedError, UserError


def test_only_what_is_not_finished_runs(tmp_path, tiny_trial, trainer, capsys):
    trainer.score = lambda config: config.optim.lr
    trials = [tiny_trial("a", {"optim.lr": 0.1}), tiny_trial("b", {"optim.lr": 0.2})]
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


def test_a_diverged_trial_resumes_when_it_is_to_skip(tiny_trial, trainer):
    trainer.score = lambda config: "diverged" if config.on_nonfinite == "stop" else 0.5
    run_trials([tiny_trial("one")], run_here)
    skipping = tiny_trial("one", {"on_nonfinite": "skip"})
    assert run_trials([skipping], run_here) == [(0.5, 0.25, None)]
    assert trainer.ran == ["one", "one"]


def test_another_failure_stops_and_names_its_log(tmp_path, tiny_trial, trainer):
    trainer.score = lambda config: "failed"
    trials = [tiny_trial(name) for name in "ab"]
    with pytest.raises(UserError) as raised:
        run_trials(trials, run_here)
    assert str(raised.value) == (
        f"a failed (exit status 2: no space is left); its log is {tmp_path / 'a' / 'log.txt'}; "
        "the same command resumes when that is fixed"
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

    monkeypatch.setattr("jaxdet.benchmark.trials.runner.subprocess.Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        run_command(["sleep", "60"], tmp_path / "log.txt")
    assert started[0].returncode == -signal.SIGTERM


def test_sigterm_stops_the_trials(trial, trainer):
    before = signal.getsignal(signal.SIGTERM)
    trainer.score = lambda config: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(PreemptedError, match="the same command resumes"):
        run_trials([trial], run_here)
    assert signal.getsignal(signal.SIGTERM) == before
