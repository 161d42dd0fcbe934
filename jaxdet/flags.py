"""Command lines: one way to read their flags, one way to end.

Those that take a config are read by `jaxdet.config.command_line`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxdet.errors import PreemptedError, UserError


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are `UserError`s.

    Flags are spelt with hyphens. The underscores and single hyphens of earlier versions are read
    with a note, until the next release. A flag is never guessed from its first letters.

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
        bare, known = name.lstrip("-").replace("_", "-"), self._option_string_actions
        if not name.startswith("-") or name in known:
            return argument
        negated = known.get(f"--{bare.removeprefix('no')}")
        if f"--{bare}" in known:
            spelt = f"--{bare}{equals}{value}"
        elif bare.startswith("no") and negated is not None and negated.type is switch:
            spelt = f"--{bare.removeprefix('no')}=false"
        else:
            return argument
        print(f"note: {argument} is now spelt {spelt}", file=sys.stderr)
        return spelt


def run_main(command: Callable[[], int | None], *, resumes: bool = False) -> int:
    """Runs a command and returns its exit status: the one way in which every command ends.

    What the command returns is its status (None: 0). An error of the user's is one line on stderr
    and status 2, a run stopped by SIGTERM 143, by Ctrl-C 130.

    Args:
        resumes: whether the same command resumes what was interrupted.
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
        hint = "; the same command resumes where it stopped" if resumes else ""
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `| head`: whoever read is satisfied
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 what Python flushes at exit
        return 0


def add_distributed(parser: Parser) -> None:
    """Adds --distributed, for one of several processes of a run."""
    parser.add_argument(
        "--distributed",
        type=switch,
        nargs="?",
        const=True,
        default=False,
        help="this is one of several processes of a run (SLURM, Kubernetes, TPU pods)",
    )


def positive(text: str) -> float:
    """A finite number above 0; for a flag."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def share(text: str) -> float:
    """A number above 0 and at most 1; for a flag."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 1")
    return value


def count(text: str) -> int:
    """A whole number of at least 1; for a flag."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def switch(text: str) -> bool:
    """true or false; for a flag that may also stand alone (nargs="?", const=True)."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} must be true or false")
    return text.lower() == "true"
