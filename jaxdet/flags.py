"""Command lines: one way to read their flags, one way to end.

Those that take a config are read by `jaxdet.config.command_line`.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxdet.errors import PreemptedError, UserError

LONGEST_MESSAGE = 490
"""Characters of an error; of a longer one, the middle is left out."""

LONGEST_PATH, LONGEST_NAME = 4096, 255
"""Bytes, which systems set."""

OF_FILES = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "ELOOP"),
        *("ENOTDIR", "EISDIR", "ENOENT", "EINVAL", "EMFILE", "ENFILE", "ESTALE"),
    )
}
"""Errors of the system that are a file's, a folder's or a disk's, and no fault of the program."""


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
        return _fail(str(error))
    except RecursionError:
        return _fail("a file or value that was given is nested too deeply to be read; flatten it")
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
    except OSError as error:
        if error.errno not in OF_FILES:
            raise
        name = error.filename or "a file"
        hint = "; the same command resumes" if resumes else ""
        return _fail(f"{name} cannot be used ({error.strerror}); free space or rights{hint}")


def _fail(message: str) -> int:
    with contextlib.suppress(OSError):  # as on a full disk
        print(f"error: {brief(message)}", file=sys.stderr)
    return 2


def brief(message: str) -> str:
    """A message on one line of at most LONGEST_MESSAGE characters, without control characters."""
    line = "".join(character if character.isprintable() else " " for character in message)
    if len(line) <= LONGEST_MESSAGE:
        return line
    kept = LONGEST_MESSAGE // 2 - 2
    return f"{line[:kept]} ... {line[-kept + 1 :]}"


def listed(names: Sequence[str], shown: int) -> str:
    """The first so many of some names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


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


def local_path(text: str) -> Path:
    """A path on this machine, in which ~ is replaced by the home; for a flag."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise argparse.ArgumentTypeError(
            f"{text:.100} is an address; give a path on this machine, and copy or mount what lies "
            "elsewhere"
        )
    expanded = os.path.expanduser(text)
    encoded = os.fsencode(expanded)
    names = encoded.split(b"/")
    if len(encoded) >= LONGEST_PATH or max(map(len, names)) > LONGEST_NAME or b"\0" in encoded:
        raise argparse.ArgumentTypeError(f"{text[:100]!r} can be no path")
    if expanded.startswith("~") and not os.path.lexists(names[0]):
        raise argparse.ArgumentTypeError(f"{text:.100} names the home of a user who is unknown")
    return Path(expanded)


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
