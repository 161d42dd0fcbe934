"""Trials: runs of `jaxdet.main` in folders side by side, each started once and taken to its end.

All that is known of a trial lies in its folder: what its run wrote there, and what it printed, in
`log.txt`. So the command that started them goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdet.config.mask_rcnn import check
from jaxdet.config.published_weights import how_to_get
from jaxdet.config.roles import difference, resumable_keys
from jaxdet.config.values import completed
from jaxdet.errors import UserError
from jaxdet.flags import parse
from jaxdet.training.monitor import DIVERGED

COMMAND_MARK = "$ "
"""What the line of a log begins with that tells the command whose output follows."""

END_OF_LOG = 2**16
"""As many bytes of a log are searched for its last words."""


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        name: of its folder.
        arguments: what `jaxdet.main` is called with, but for the folder.
        config: what these stand for.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    config: ConfigDict = field(compare=False)

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def command(self) -> list[str]:
        main = [sys.executable, "-m", "jaxdet.main"]
        return [*main, *self.arguments, f"--workdir={self.folder}"]


class Outcome(NamedTuple):
    """What came of a trial.

    Attributes:
        box_ap: 0..1; None if it diverged.
        mask_ap: None also where the detector has no masks.
        diverged: what its run said when its loss was no longer finite.
    """

    box_ap: float | None
    mask_ap: float | None
    diverged: str | None = None

    def __str__(self) -> str:
        if self.diverged is not None:
            return "diverged"
        mask = "" if self.mask_ap is None else f", mask AP {100 * self.mask_ap:.1f}"
        return f"box AP {100 * self.box_ap:.1f}{mask}"


Executor = Callable[[Sequence[Trial]], Iterator[tuple[Trial, str]]]
"""Runs trials; tells of each when it ends, and in a few words how."""


def make_trial(
    workdir: Path, name: str, base: Sequence[str], words: Mapping[str, Any] | None = None
) -> Trial:
    """A trial in `workdir` of the config that `base` and `words` stand for.

    Args:
        base: arguments of `jaxdet.main` that all trials have.
        words: of the config, such as "optim.lr", that make this trial.

    Raises:
        UserError: an unknown word or a value of the wrong type; a word of the trial's own in
            `base`.
    """
    words = words or {}
    for argument in base:
        word = argument.partition("=")[0].removeprefix("--config.")
        if word in words:
            raise UserError(f"{argument} cannot be given: trials differ in config.{word}")
    arguments = (*base, *(f"--config.{word}={_text(value)}" for word, value in words.items()))
    return Trial(name, workdir / name, arguments, parse(list(arguments)).config)


def _text(value: Any) -> str:
    return str(value).replace(" ", "") if isinstance(value, tuple) else str(value)


def check_trial(trial: Trial, needs_weights: bool) -> None:
    """Raises UserError where the trial's run would refuse its config.

    Args:
        needs_weights: whether the initial weights must be there already.
    """
    config = trial.config.copy_and_resolve_references()
    if not needs_weights:
        config.init = None
    elif (
        config.initialisation != "random"
        and config.init is None
        and config.few_shot.base_run is None
    ):
        raise UserError(
            f"the weights to start {config.initialisation} from are not given: "
            f"{how_to_get(config)} (or --weights)"
        )
    check(config)


def outcome(trial: Trial) -> Outcome | None:
    """What a trial's folder says of it; None where it has not come to its end.

    Raises:
        UserError: the folder holds a run of another config, or a file of it cannot be read.
    """
    result = _read_json(trial.folder / "result.json")
    started = _read_json(trial.folder / "config.json")
    given = json.loads(trial.config.to_json())
    # Unlike a resumed run, a comparison depends on what it started from.
    weights = ("config.init", "config.few_shot.base_run")
    ignored = [word for word in resumable_keys(trial.config) if word not in weights]
    for stored in (started, result and result.get("config")):
        changed = stored and difference(completed(stored), given, ignored=ignored)
        if changed:
            raise UserError(
                f"{trial.folder} holds a run of another config ({changed}); use another --workdir"
            )
    if result is not None and _is_of_the_end(result, trial.config.epochs):
        return _scores(trial, result)
    last = _last_words(trial.log)
    # A run that skips such steps goes on from the last checkpoint.
    is_stopped = started is not None and trial.config.on_nonfinite == "stop"
    if is_stopped and last.startswith(f"error: {DIVERGED}"):
        return Outcome(None, None, last.removeprefix("error: "))
    return None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and start again") from error
    return content


def _is_of_the_end(result: dict[str, Any], epochs: float) -> bool:
    """Whether it is the last step that was evaluated; a run may be evaluated on its way."""
    step, at_epoch = result.get("step"), result.get("epochs")
    if not step or not at_epoch:
        return True
    return step >= max(1, round(epochs * step / at_epoch))


def _scores(trial: Trial, result: dict[str, Any]) -> Outcome:
    metrics = result.get("metrics") or {}
    scores = [(metrics.get(kind) or {}).get("AP") for kind in ("bbox", "segm")]
    if scores[0] is None:
        raise UserError(
            f"{trial.folder / 'result.json'} has no box AP; give validation images with objects"
        )
    return Outcome(*scores)


def _last_words(log: Path) -> str:
    """The error that the last run in a log ended with, else its last line; "" without one."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - END_OF_LOG))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = []
    for line in re.split(r"[\r\n]+", text):  # a progress line ends in a carriage return
        if line.startswith(COMMAND_MARK):
            lines.clear()
        elif line.strip():
            lines.append(line.strip())
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


def run_trials(trials: Sequence[Trial], execute: Executor) -> list[Outcome]:
    """Takes trials to their end, those that are not there yet, and returns what came of them.

    Raises:
        UserError: a trial failed otherwise than by diverging.
    """
    unfinished = list(dict.fromkeys(trial for trial in trials if outcome(trial) is None))
    for trial in trials:
        if trial not in unfinished:
            print(f"{trial.name}: {outcome(trial)} (finished before)")
    failures = []
    for trial, how in execute(unfinished):
        found = outcome(trial)
        print(f"{trial.name}: {found or 'failed'}", flush=True)
        if found is None:
            last = _last_words(trial.log).removeprefix("error: ")
            failures.append(f"{trial.name} failed ({how}: {last}); its log is {trial.log}")
    if failures:
        raise UserError(f"{failures[0]}; the same command resumes when that is mended")
    return [outcome(trial) for trial in trials]


def run_here(trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
    """Runs one trial after the other on this machine's devices; stops after one that failed."""
    for number, trial in enumerate(trials, 1):
        print(f"[{number}/{len(trials)}] {trial.name}: running, see {trial.log}", flush=True)
        yield trial, f"exit status {run_command(trial.command, trial.log)}"
        if outcome(trial) is None:
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
