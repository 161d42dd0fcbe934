"""The command line: trains a detector and reports its AP, or evaluates one.

    python -m jaxdet.main --config=configs/vitb_mae.py --workdir=runs/vitb_mae
    python -m jaxdet.main --config=... --workdir=... --mode=eval
    python -m jaxdet.main --config=... --workdir=... --mode=eval --detections=results.json
    python -m jaxdet.main --config=... --mode=plan

The third scores a file in COCO's result format, whatever made it. The last one only compiles, and
says what training takes: memory, FLOPs, the largest batch. Every word of the config can be set:
--config.optim.lr=1e-4. The same command resumes a run that was interrupted.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from jaxdet.config import check, unknown_word
from jaxdet.errors import PreemptedError, UserError

DEFAULT_CONFIG = "shapes_tiny"


def parse(arguments: list[str]) -> flags.FlagValues:
    """Reads the command line (without the program's name).

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


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status (2: an error of the user's, 143: SIGTERM)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        values = parse(arguments)
        if values.help:
            print(__doc__ + "\n" + values.main_module_help())
            return 0
        config = values.config
        check(config)
        if values.detections is not None and values.mode != "eval":
            raise UserError("--detections names a file to score; add --mode=eval")
        name = config_path(arguments).stem
        workdir = Path(values.workdir or Path("runs") / name)
        # Imported late: jax takes seconds, and a mistyped flag should not.
        from jaxdet import parallel
        from jaxdet.evaluate import evaluate, evaluate_detections
        from jaxdet.experiment import Experiment
        from jaxdet.plan import make_plan, report
        from jaxdet.train import train

        if values.distributed:
            parallel.join_processes()
        experiment = Experiment(config, workdir)
        if values.mode == "plan":
            found = make_plan(
                experiment,
                device_memory_gb=values.device_memory_gb,
                peak_tflops=values.peak_tflops,
                utilisation=values.utilisation,
            )
            print(report(found))
        elif values.detections is not None:
            evaluate_detections(experiment, Path(values.detections))
        else:
            {"train": train, "eval": evaluate}[values.mode](experiment)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PreemptedError as stop:
        print(stop, file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    sys.exit(main())
