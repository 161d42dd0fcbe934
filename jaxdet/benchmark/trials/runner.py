"""Runs trials, each started once and taken to its end.

All that is known of a trial lies in its folder: what its run wrote there, and what it printed, in
`log.txt`. So the command that started them resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxdet.benchmark.trials.outcome import COMMAND_MARK, Outcome, last_message, read_outcome
from jaxdet.benchmark.trials.trial import Trial
from jaxdet.errors import PreemptedError, UserError

Executor = Callable[[Sequence[Trial]], Iterator[tuple[Trial, str]]]
"""Runs trials; yields each when it ends, and in a few words how it did."""


def run_trials(trials: Sequence[Trial], execute: Executor) -> list[Outcome]:
    """Takes trials to their end, those that are not there yet, and returns what came of them.

    Raises:
        UserError: a trial failed otherwise than by diverging.
        PreemptedError: this process was asked to stop (SIGTERM).
    """
    unfinished = list(dict.fromkeys(trial for trial in trials if read_outcome(trial) is None))
    for trial in trials:
        if trial not in unfinished:
            print(f"{trial.name}: {read_outcome(trial)} (finished before)")
    failures = []
    with _stop_on_sigterm():
        for trial, how in execute(unfinished):
            found = read_outcome(trial)
            print(f"{trial.name}: {found or 'failed'}", flush=True)
            if found is None:
                last = last_message(trial.log).removeprefix("error: ")
                failures.append(f"{trial.name} failed ({how}: {last}); its log is {trial.log}")
    if failures:
        raise UserError(f"{failures[0]}; the same command resumes when that is fixed")
    return [read_outcome(trial) for trial in trials]


def run_here(trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
    """Runs one trial after the other on this machine's devices; stops after one that failed."""
    for number, trial in enumerate(trials, 1):
        print(f"[{number}/{len(trials)}] {trial.name}: running, see {trial.log}", flush=True)
        yield trial, f"exit status {run_command(trial.command, trial.log)}"
        if read_outcome(trial) is None:
            return


def run_command(command: Sequence[str], log: Path) -> int:
    """Runs a command, what it prints added to a log; returns its exit status.

    It is asked to stop (SIGTERM) when this function is interrupted.

    Raises:
        UserError: another process writes this log, or it cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        stream = log.open("a", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{log} cannot be written ({error}); free space or rights") from error
    with stream:
        # Also held by the command's process, should it outlive this one.
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{log} is being written by a run that is still going; wait for it or stop it"
            ) from error
        except OSError:
            pass  # a file system without locks
        stream.write(f"{COMMAND_MARK}{shlex.join(command)}\n")
        stream.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that the trial under way is asked to stop as well."""

    def stop(*_: object) -> None:
        raise PreemptedError("asked to stop; the same command resumes where it stopped")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
