"""How long earlier starts compiled, kept in their workdirs, so that the next can say it before."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdet.errors import UserError
from jaxdet.files import write_json

FILE = "compile_times.json"

MOST_READ = 200
"""Of the workdirs beside this one, the newest."""


class CompileTimes:
    """What compiled how long in this workdir and in those beside it, for runs that compile alike.

    Args:
        workdir: of the run that compiles.
        about: what the time hangs on, as JSON values; other runs' times are not this run's.
    """

    def __init__(self, workdir: Path, about: dict[str, Any]):
        self._path = workdir / FILE
        self._about = about

    def expectation(self, what: str) -> str | None:
        """Such as "2:05 the last time, in runs/vitb_mae"; None where nothing is known."""
        for path in self._files():
            seconds = self._read(path).get(what)
            if isinstance(seconds, int | float):
                where = "" if path == self._path else f", in {path.parent}"
                return f"{duration(seconds)} the last time{where}"
        return None

    def keep(self, what: str, seconds: float) -> None:
        """Keeps a time for later starts; where nothing can be written, it is forgotten."""
        times = {**self._read(self._path), what: seconds}
        with contextlib.suppress(OSError, UserError):
            write_json(self._path, {"about": self._about, "seconds": times})

    def _read(self, path: Path) -> dict[str, Any]:
        """The times in a file, none where it is damaged or of a run that compiles otherwise."""
        try:
            content = json.loads(path.read_text())
            return dict(content["seconds"]) if content["about"] == self._about else {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {}

    def _files(self) -> Iterator[Path]:
        """This workdir's, then those of others, the newest first."""
        yield self._path
        with contextlib.suppress(OSError):
            found = self._path.parent.parent.glob(f"*/{FILE}")
            others = {path: path.stat().st_mtime for path in found if path != self._path}
            yield from sorted(others, key=others.__getitem__, reverse=True)[:MOST_READ]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as 1:02:03, or without hours as 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
