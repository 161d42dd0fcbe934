"""The `jaxdet` command: one subcommand for each thing that jaxdet does."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from jaxdet import __version__
from jaxdet.errors import UserError
from jaxdet.flags import run_main


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        module: whose `main(arguments)` runs it; imported when it is asked for.
        summary: one line for `jaxdet --help`.
        mode: what `main` is given as `mode`, where it serves several subcommands.
    """

    module: str
    summary: str
    mode: str | None = None


COMMANDS = {
    "train": Command("jaxdet.main", "train a detector and report its AP", "train"),
    "eval": Command("jaxdet.main", "evaluate a run, a converted detector or a file", "eval"),
    "plan": Command("jaxdet.main", "memory, FLOPs and largest batch of a config", "plan"),
    "pretrain": Command("jaxdet.pretrain", "pre-train a ViT by masked autoencoding (MAE)"),
    "predict": Command("jaxdet.predict", "detect on images of any kind, or export a detector"),
    "serve": Command("jaxdet.serve", "look at images through a detector, on a local page"),
    "convert": Command("checkpoints_convert.cli", "convert PyTorch weights"),
    "push": Command("checkpoints_convert.push", "upload a run's detector to the Hugging Face hub"),
    "config": Command("jaxdet.config.show", "show a config, or how two configs differ"),
    "data check": Command("jaxdet.data.check", "report everything that is wrong with a data set"),
    "data show": Command("jaxdet.data.show", "draw training samples as the model sees them"),
    "data prepare": Command("jaxdet.data.prepare", "build a large set into ArrayRecord files"),
    "data split": Command("jaxdet.data.split", "split a data set for validation, or into folds"),
    "data fewshot": Command("jaxdet.data.fewshot", "sample a few-shot data set"),
    "data shapes": Command("jaxdet.data.shapes", "write the built-in shapes as a COCO data set"),
    "sweep": Command("jaxdet.benchmark.sweep", "tune an initialisation as the paper did"),
    "ablation": Command("jaxdet.benchmark.ablation", "train the rows of one of the paper's tables"),
    "complexity": Command("jaxdet.benchmark.complexity", "parameters and FLOPs of configs"),
    "report": Command("jaxdet.benchmark.report", "compare runs in an HTML and a Markdown report"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns its exit status."""
    return run_main(partial(_dispatch, list(sys.argv[1:] if arguments is None else arguments)))


def _dispatch(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(COMMANDS))
        return 0
    if arguments == ["--version"]:
        print(__version__)
        return 0
    group = {name: it for name, it in COMMANDS.items() if name.startswith(f"{arguments[0]} ")}
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_overview(group))
        return 0
    words = 2 if group else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    command = COMMANDS.get(name)
    if command is None:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean jaxdet {close[0]}?" if close else "jaxdet --help lists the commands"
        raise UserError(f"there is no command 'jaxdet {name}'; {hint}")
    run = importlib.import_module(command.module).main
    return run(rest) if command.mode is None else run(rest, command.mode)


def _overview(commands: dict[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"  jaxdet {name:<{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "The benchmark of detection transfer for Vision Transformers.",
            "",
            *lines,
            "",
            "jaxdet COMMAND --help says more.",
            "`jaxdet train` alone trains a tiny detector on built-in images of shapes.",
        ]
    )
