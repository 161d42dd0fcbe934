"""What the commands that run trials have in common: their flags, and what these stand for."""

from __future__ import annotations

import argparse
from pathlib import Path

from ml_collections import ConfigDict

from jaxdet.benchmark.trials.cost import Data, Speed, device_kind, expected_speed, stated_speed
from jaxdet.benchmark.trials.runner import Executor, run_here
from jaxdet.benchmark.trials.slurm import SlurmExecutor
from jaxdet.benchmark.trials.trial import Base
from jaxdet.config.command_line import config_of
from jaxdet.config.files import config_stem, shipped_names
from jaxdet.config.keys import INITIALISATIONS, NAME
from jaxdet.errors import UserError
from jaxdet.flags import Parser, count, local_path, positive, share


def shared_parser(command: str, documentation: str | None, default_size: str) -> Parser:
    """A parser with the flags of all commands that run trials."""
    parser = Parser(
        command,
        documentation,
        epilog="Keys of the config (--config.seed=1) are handed on to each trial.",
    )
    add = parser.add_argument
    add("--init", help=f"{', '.join(INITIALISATIONS)}, or a name of your own for your own weights")
    add("--size", default=default_size, help="of the ViT: b, l; your own also tiny, s, h")
    add("--weights", type=local_path, help="converted weights to start from")
    add("--data", help="the same as --config.data.root")
    add("--config", help="a config file to start from; default that of --init and --size")
    add("--workdir", type=local_path, required=True, help="where the trials' folders lie")
    add("--dry-run", action="store_true", help="only print the plan")
    add = parser.add_argument_group("cost").add_argument
    add(
        "--images-per-second",
        type=positive,
        help="of one device that trains the config of --init and --size, or --config, as it is "
        "before a trial or row changes it; measured or stated",
    )
    add("--peak-tflops", type=positive, help="10^12 FLOP/s of a device")
    add("--utilisation", type=share, default=0.4, help="expected share of the peak")
    add = parser.add_argument_group("where trials run").add_argument
    add(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="one after the other here, or side by side on a cluster",
    )
    add("--partition", help="of the cluster")
    add("--gpus-per-node", type=count, default=8, help="of a trial, on one node")
    add("--cpus", type=count, default=16, help="of a trial")
    add("--hours", type=positive, default=72.0, help="time limit of a job")
    add("--max-parallel", type=count, default=16, help="jobs at a time")
    return parser


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between, in ascending order, each once; for an argparse flag."""
    values = tuple(sorted({float(part) for part in text.split(",")}))
    if not all(0 <= value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text} must be finite numbers of at least 0")
    return values


def read_arguments(
    parser: Parser, arguments: list[str] | None
) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """The flags, and the arguments that override keys of the config, as they are."""
    options, rest = parser.parse_known_args(arguments)
    for argument in rest:
        if not argument.startswith(("--config.", "--noconfig.")):
            parser.error(f"{argument} is not a flag; keys of the config take = before a value")
    return options, tuple(rest)


def make_base(
    options: argparse.Namespace,
    overrides: tuple[str, ...],
    initialisation: str | None,
    weights: Path | None,
) -> Base:
    """What the trials of an initialisation have in common.

    Raises:
        UserError: no config file belongs to the initialisation and size, or --config is of another
            initialisation; a key or value of `overrides` is wrong.
    """
    arguments = (
        *_config_arguments(options, initialisation),
        *([f"--config.init={weights.absolute()}"] if weights is not None else []),
        *([f"--config.data.root={options.data}"] if options.data is not None else []),
        *overrides,
    )
    return Base(arguments, config_of(arguments))


def _config_arguments(options: argparse.Namespace, initialisation: str | None) -> tuple[str, ...]:
    """The arguments that name a config file and, if it is one's own, the initialisation."""
    if options.config is not None:
        return f"--config={options.config}", *_renamed(options.config, initialisation)
    if initialisation is None:
        raise UserError(
            f"--init names what to start from: {', '.join(INITIALISATIONS)}, or a name of your own"
        )
    if initialisation in INITIALISATIONS:
        name = f"vit{options.size}_{initialisation}"
        if name not in shipped_names():
            raise UserError(f"there is no config {name}; give --size=b or l, or --config=NAME")
        return (f"--config={name}",)
    if not NAME.fullmatch(initialisation):
        raise UserError(
            f"--init={initialisation} must be lowercase letters, digits, dots, hyphens and "
            f"underscores, or one of {', '.join(INITIALISATIONS)}"
        )
    return f"--config=own:{options.size}", f"--config.initialisation={initialisation}"


def _renamed(config: str, initialisation: str | None) -> tuple[str, ...]:
    """The argument that gives a config file's initialisation a name of one's own, if it has one."""
    given = config_of((f"--config={config}",)).initialisation
    if initialisation in (None, given):
        return ()
    if given == "random" or initialisation in INITIALISATIONS:
        raise UserError(
            f"--init={initialisation} does not go with {config}, which starts from {given}; a "
            "name of your own goes with a config of pre-trained weights"
        )
    return (f"--config.initialisation={initialisation}",)


def label_of(options: argparse.Namespace, initialisation: str) -> str:
    """What folders of trials begin with: the size and the initialisation, or the config's name."""
    if options.config is None:
        return f"vit{options.size}_{initialisation}"
    return config_stem(options.config.partition(":")[0])


def speed_of(options: argparse.Namespace, config: ConfigDict, data: Data) -> Speed:
    """A device's speed by the flags; `config` is what --images-per-second was measured on."""
    if options.images_per_second is not None:
        return stated_speed(options.images_per_second, config, data.classes)
    # On a cluster the devices are not this machine's.
    is_asked = options.executor == "local" and options.peak_tflops is None
    kind = device_kind() if is_asked else None
    return expected_speed(kind, config.model.dtype, options.peak_tflops, options.utilisation)


def executor_of(options: argparse.Namespace) -> Executor:
    """What runs the trials."""
    if options.executor == "local":
        return run_here
    return SlurmExecutor(
        folder=options.workdir / "slurm",
        partition=options.partition,
        gpus_per_node=options.gpus_per_node,
        cpus=options.cpus,
        hours=options.hours,
        max_parallel=options.max_parallel,
    )
