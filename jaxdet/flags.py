"""Command lines: their flags, the config file they name, and how they end."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxdet.config.values import unknown_key
from jaxdet.errors import PreemptedError, UserError

DEFAULT_CONFIG = "shapes_tiny"


def parse(arguments: list[str]) -> flags.FlagValues:
    """Reads the command line of `jaxdet.main` (without the program's name).

    Raises:
        UserError: an unknown flag or config word, a value of the wrong type, an unusable config.
    """
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", ["train", "eval", "plan"], "What to do.", flag_values=values)
    flags.DEFINE_string(
        "detections",
        None,
        "Eval: a file in COCO's result format to score in place of a checkpoint.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "device_memory_gb",
        None,
        "Plan: memory of a device in 10^9 bytes; default what it tells, else 80.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "peak_tflops",
        None,
        "Plan: peak 10^12 FLOP/s of a device; default its kind's, else an H100's in bfloat16.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "utilisation",
        0.4,
        "Plan: share of the peak that training is expected to reach.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "This is one of several processes of a run (SLURM, Kubernetes, TPU pods; see the README).",
        flag_values=values,
    )
    return parse_with_config(values, arguments, DEFAULT_CONFIG)


def parse_with_config(
    values: flags.FlagValues, arguments: list[str], default: str
) -> flags.FlagValues:
    """Reads a command line into the flags given and --config, --workdir and --help.

    Args:
        default: name of the config where none is given, see `shipped_config`.

    Raises:
        UserError: see `parse`.
    """
    flags.DEFINE_string(
        "workdir",
        None,
        "Where the run writes; default runs/<config's name>.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    path = config_path(arguments, default)
    if not path.is_file():
        raise UserError(f"config file {path} does not exist; --config takes a Python file's path")
    config = load_config(path)  # because the flag below hides what is wrong with a file
    try:
        # Defining the flag already looks for the config's words and can fail, hence inside.
        config_flags.DEFINE_config_file(
            "config",
            str(shipped_config(default)),
            "The experiment: a Python file with get_config().",
            lock_config=True,
            flag_values=values,
            sys_argv=["jaxdet", *arguments],
        )
        rest = values(["jaxdet", *arguments])
    except Exception as error:
        raise UserError(_explain(error, config, arguments)) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is not a flag; flags start with -- and take = before a value")
    return values


def shipped_config(name: str) -> Path:
    """configs/NAME.py of the current folder, else of the clone jaxdet is installed from."""
    path = Path("configs") / f"{name}.py"
    return path if path.is_file() else Path(__file__).resolve().parent.parent / path


def _explain(error: Exception, config: ConfigDict, arguments: list[str]) -> str:
    """What is wrong with a command line that could not be read, in one sentence."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        for prefix in ("config.", "noconfig."):
            if name.startswith(prefix):
                unknown = unknown_key(config, name.removeprefix(prefix))
                if unknown:
                    return unknown
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def config_path(arguments: list[str], default: str = DEFAULT_CONFIG) -> Path:
    """The config file that a command line names, else the default."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config":
            following = arguments[i + 1] if i + 1 < len(arguments) else ""
            return Path((value if equals else following).partition(":")[0])
    return shipped_config(default)


def load_config(path: Path) -> ConfigDict:
    """Runs a config file and returns what its get_config() returns.

    Raises:
        UserError: the file cannot be run or has no get_config().
    """
    spec = importlib.util.spec_from_file_location("jaxdet_config", path)
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config()
    except Exception as error:
        raise UserError(
            f"config file {path} cannot be used: {type(error).__name__}: {error}"
        ) from error


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are `UserError`s.

    Flags are spelt with hyphens. The underscores of earlier versions are read with a note, until
    the next release. A flag is never guessed from its first letters.

    Args:
        command: as the user calls it, such as "jaxdet predict".
        description: the command's own docstring.
    """

    def __init__(self, command: str, description: str | None, **options: Any):
        super().__init__(
            prog=command,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the flags")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        arguments = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._hyphenated(one) for one in arguments], namespace)

    def _hyphenated(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        spelt = name.replace("_", "-")
        if spelt == name or not name.startswith("--") or spelt not in self._option_string_actions:
            return argument
        print(f"note: {name} is now spelt {spelt}", file=sys.stderr)
        return f"{spelt}{equals}{value}"


def run_main(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status: the one way in which every command ends.

    What the command returns is its status (None: 0). An error of the user's is one line on stderr
    and status 2, a run stopped by SIGTERM 143, by Ctrl-C 130.
    """
    try:
        return command() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PreemptedError as stop:
        print(stop, file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted; the same command resumes where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `| head`: whoever read is satisfied
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 what Python flushes at exit
        return 0
