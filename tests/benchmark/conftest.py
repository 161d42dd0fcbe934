"""A trainer that takes no time: it writes what a run of `jaxdet.main` leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jaxdet.benchmark.trials import runner
from jaxdet.benchmark.trials.outcome import COMMAND_MARK
from jaxdet.config.command_line import DEFAULT_CONFIG, parse_with_config
from jaxdet.flags import Parser

DIVERGED = "training diverged: loss not finite at step 3"


class Trainer:
    """Stands in for `runner.run_command`.

    Attributes:
        score: from a config to its box AP, or to "diverged", "failed" or "interrupted".
        ran: names of the folders of what ran, in order.
    """

    def __init__(self):
        self.score = lambda config: 0.5
        self.ran: list[str] = []

    def __call__(self, command: list[str], log: Path) -> int:
        assert command[1:3] == ["-m", "jaxdet.main"]
        parser = Parser("jaxdet train", None)
        options, given = parse_with_config(parser, command[3:], DEFAULT_CONFIG)
        folder = options.workdir
        assert log == folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        self.ran.append(folder.name)
        config = json.loads(given.to_json())
        (folder / "config.json").write_text(json.dumps(config))
        score = self.score(given)
        with log.open("a") as stream:
            stream.write(f"{COMMAND_MARK}{' '.join(command)}\n")
            if score == "diverged":
                stream.write(f"a warning\nerror: {DIVERGED}\nanother warning\n")
                return 2
            if score == "failed":
                stream.write("error: no space is left\n")
                return 2
        if score == "interrupted":
            raise KeyboardInterrupt
        _write_result(folder, config, score)
        return 0


def _write_result(folder: Path, config: dict, score: float | None, **more) -> None:
    """A result.json that has what trials read of it."""
    metrics = {"bbox": {"AP": score}, "segm": {"AP": score and score / 2}}
    folder.mkdir(parents=True, exist_ok=True)
    result = {"step": 10, "metrics": metrics, "config": config, **more}
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    trainer = Trainer()
    monkeypatch.setattr(runner, "run_command", trainer)
    return trainer


@pytest.fixture
def write_result() -> Callable[..., None]:
    return _write_result
