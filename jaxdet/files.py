"""Folders that are made, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdet.errors import UserError

SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""What may lie where a file is expected: to read some of them never ends."""


def regular_file(path: Path) -> Path:
    """The same path, which is to be opened for reading: links are followed, nothing is opened.

    Raises:
        OSError: it is no ordinary file, there is none, links lead in a circle, or its folder cannot
            be searched.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = SPECIAL.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not an ordinary file", str(path))
    return path


def read_file(path: Path) -> bytes:
    """The content of an ordinary file.

    Raises:
        OSError: as `regular_file`, or it cannot be read.
    """
    return regular_file(path).read_bytes()


def file_sha256(path: Path) -> str:
    """SHA-256 of an ordinary file, in hexadecimal digits.

    Raises:
        OSError: as `read_file`.
    """
    with regular_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A place to write to that becomes `path` at the end, and leaves nothing after an error.

    Raises:
        UserError: the file or its folder, which is made where it is missing, cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    made: list[Path] = []
    try:
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except BaseException as error:
        for remove in (partial.unlink, *(folder.rmdir for folder in made)):
            with contextlib.suppress(OSError):  # never made, or in use by others meanwhile
                remove()
        if isinstance(error, OSError):
            raise UserError(f"{path} cannot be written ({error}); free space or rights") from error
        raise


def make_folder(folder: Path, flag: str) -> None:
    """Makes a folder that a flag names, unless it is there.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error}); give another {flag}") from error


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes a file whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    text = json.dumps(content, indent=indent, allow_nan=False) + "\n"
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def without_nan(tree: Any) -> Any:
    """The same nested dictionaries with None for every number that is not finite."""
    if isinstance(tree, dict):
        return {name: without_nan(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
