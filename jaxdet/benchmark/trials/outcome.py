"""What came of a trial, by the files that its run left in its folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from jaxdet.benchmark.trials.trial import Trial
from jaxdet.config.roles import difference, resumable_keys
from jaxdet.config.values import completed
from jaxdet.errors import DIVERGED, UserError
from jaxdet.files import read_file, regular_file

COMMAND_MARK = "$ "
"""How the line of a log begins that names the command whose output follows."""

END_OF_LOG = 2**16
"""As many bytes of a log are searched for the error that its last run ended with."""


class Outcome(NamedTuple):
    """What came of a trial.

    Attributes:
        box_ap: 0..1; None if it diverged.
        mask_ap: None also where the detector has no masks.
        diverged: the error of its run when its loss was no longer finite.
    """

    box_ap: float | None
    mask_ap: float | None
    diverged: str | None = None

    def __str__(self) -> str:
        if self.diverged is not None:
            return "diverged"
        mask = "" if self.mask_ap is None else f", mask AP {100 * self.mask_ap:.1f}"
        return f"box AP {100 * self.box_ap:.1f}{mask}"


def read_outcome(trial: Trial) -> Outcome | None:
    """The outcome by a trial's folder; None where the trial has not finished.

    Raises:
        UserError: the folder holds a run of another config, or a file of it cannot be read.
    """
    result = _read_json(trial.folder / "result.json")
    started = _read_json(trial.folder / "config.json")
    given = json.loads(trial.config.to_json())
    # Unlike a resumed run, a comparison depends on what it started from.
    weights = ("config.init", "config.init_from", "config.few_shot.base_run")
    ignored = [key for key in resumable_keys(trial.config) if key not in weights]
    for stored in (started, result and result.get("config")):
        changed = stored and difference(completed(stored), given, ignored=ignored)
        if changed:
            raise UserError(
                f"{trial.folder} holds a run of another config ({changed}); use another --workdir"
            )
    if result is not None and _is_of_the_end(result, trial.config.epochs):
        return _scores(trial, result)
    # A run that skips such steps resumes from the last checkpoint.
    if started is not None and trial.config.on_nonfinite == "stop":
        message = last_message(trial.log)
        if message.startswith(f"error: {DIVERGED}"):
            return Outcome(None, None, message.removeprefix("error: "))
    return None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(read_file(path))
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
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


def last_message(log: Path) -> str:
    """The error that the last run in a log ended with, else its last line; "" without one."""
    try:
        with regular_file(log).open("rb") as stream:
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
