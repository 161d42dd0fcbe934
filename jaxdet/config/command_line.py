"""Command lines that take a config: --config, --workdir and the config's keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jaxdet.config.files import apply_overrides, config_stem, load_config
from jaxdet.config.show import key_lines
from jaxdet.flags import Parser, local_path

DEFAULT_CONFIG = "shapes_tiny"

SHORT_FLAGS = {"--init": "init", "--init-from": "init_from", "--data": "data.root"}
"""Flags of `jaxdet train` and its kin for keys that nearly every run gives."""

FROM_WEIGHTS = "any"
"""The config that is made from the file of --init."""


def parse_with_config(
    parser: Parser, arguments: Sequence[str] | None, default: str
) -> tuple[argparse.Namespace, ConfigDict]:
    """Reads a command line into the parser's flags and a config.

    Adds --config, --workdir (default runs/<config's name>) and the config's keys, as
    --config.optim.lr=1e-4. `--help` lists the keys of the config that the line names.

    Args:
        default: name of the config where none is given, see `find_config`.

    Raises:
        UserError: an unknown flag or key, a value of the wrong type, an unusable config.
    """
    parser.add_argument(
        "--config",
        default=default,
        metavar="NAME",
        help="the experiment: the name of a config, or a Python file with get_config(); "
        f"NAME:ARGUMENT gives get_config an argument; default {default}",
    )
    parser.add_argument(
        "--workdir",
        type=local_path,
        metavar="FOLDER",
        help="where the run writes; default runs/<config's name>",
    )
    parser.epilog = "Keys of the config are set as --config.KEY=VALUE."
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    help_flags = {"-h", "--help", "--helpfull"}
    wants_help = not help_flags.isdisjoint(arguments)
    options, rest = parser.parse_known_args([one for one in arguments if one not in help_flags])
    rest = _spelt_out(options, rest)
    options.config = _with_weights(options.config, rest)
    config = load_config(options.config)
    apply_overrides(config, rest)
    if wants_help:
        print(parser.format_help())
        print("\n".join(key_lines(config)))
        raise SystemExit(0)
    if options.workdir is None:
        options.workdir = Path("runs") / config_stem(options.config)
    return options, config


def add_short_flags(parser: Parser) -> None:
    """Adds the short flags, such as --data for --config.data.root."""
    for flag, key in SHORT_FLAGS.items():
        parser.add_argument(flag, dest=f"config.{key}", help=f"the same as --config.{key}")


def _spelt_out(options: argparse.Namespace, rest: list[str]) -> list[str]:
    """The keys' arguments with those of the short flags in front."""
    given = {key: getattr(options, f"config.{key}", None) for key in SHORT_FLAGS.values()}
    return [f"--config.{key}={value}" for key, value in given.items() if value is not None] + rest


def _with_weights(name: str, rest: Sequence[str]) -> str:
    """The config's name, with the file of config.init where the config is made from it."""
    if Path(name).name.removesuffix(".py") != FROM_WEIGHTS:
        return name
    key = "--config.init="
    files = [argument.removeprefix(key) for argument in rest if argument.startswith(key)]
    return f"{name}:{files[-1]}" if files else name


def config_of(arguments: Sequence[str]) -> ConfigDict:
    """The config that --config=NAME and --config.KEY=VALUE among some arguments stand for.

    Raises:
        UserError: see `parse_with_config`; there are other arguments.
    """
    return parse_with_config(Parser("jaxdet train", None), arguments, DEFAULT_CONFIG)[1]
