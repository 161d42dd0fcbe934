"""What a tracker is: one run in one service that keeps curves, pictures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class Table(NamedTuple):
    """Rows of text and numbers under named columns; None where there is no number."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]


class TrackedRun(NamedTuple):
    """A run that begins or resumes.

    Attributes:
        workdir: of the run.
        config: the complete config as JSON values, and beside it the "versions" of packages.
        start_step: the steps that are done.
        id: what the tracker called the run before it was resumed; None for a new one.
    """

    workdir: Path
    config: dict[str, Any]
    start_step: int
    id: str | None

    @property
    def name(self) -> str:
        """What people see: the end of the workdir."""
        return "/".join(self.workdir.absolute().parts[-2:]).lstrip("/")


class Tracker(Protocol):
    """Made of a `TrackedRun`. What goes wrong may be any exception.

    Attributes:
        id: what the tracker calls the run, to continue it; None where the workdir says it.
    """

    id: str | None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points to curves; the numbers may be nan or infinite."""

    def picture(self, step: int, name: str, path: Path) -> None:
        """Adds a PNG image."""

    def table(self, step: int, name: str, table: Table) -> None:
        """Adds a table."""

    def finish(self, is_complete: bool) -> None:
        """Ends the run, or what this process does of it."""
