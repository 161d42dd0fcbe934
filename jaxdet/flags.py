"""Command lines: their flags, the config file they name, and how they end."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxdet.config.mask_rcnn import unknown_word
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
                unknown = unknown_word(config, name.removeprefix(prefix))
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


def exit_status(command: Callable[[], None]) -> int:
    """Runs a command; returns its exit status (2: an error of the user's, 143: SIGTERM)."""
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PreemptedError as stop:
        print(stop, file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0
