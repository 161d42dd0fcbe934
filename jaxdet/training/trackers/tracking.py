"""The trackers of a run together: none that fails stops the run or the others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm

from jaxdet.errors import UserError
from jaxdet.files import read_file, write_json
from jaxdet.training.run import versions
from jaxdet.training.trackers.tracker import Table, TrackedRun, Tracker

CLASSES = {"tensorboard": "TensorBoard", "wandb": "WeightsAndBiases", "mlflow": "MLflow"}
"""By the name in config.trackers, which is also that of the module and of the package's extra."""

SHOWN = 200
"""As many characters of a tracker's error are shown."""


class Trackers(AbstractContextManager):
    """What follows a run from its start until this is closed.

    Where it is not started, as in all processes but the main one, nothing happens. The file
    trackers.json in the workdir keeps what each calls the run, so that a resumed one goes on there.

    Args:
        names: keys of CLASSES.

    Raises:
        UserError: the package of one is not installed.
    """

    def __init__(self, names: Sequence[str] = ()):
        for name in names:
            if name != "tensorboard" and not _is_installed(name):
                raise UserError(
                    f"config.trackers has {name!r}, whose package is not installed; install it by "
                    f"pip install 'jaxdet[{name}]', or take it out of config.trackers"
                )
        self._names = names
        self._open: dict[str, Tracker] = {}

    def start(self, workdir: Path, start_step: int, config: dict[str, Any]) -> None:
        """Begins a run, or continues that of the workdir where `start_step` steps are done.

        Args:
            config: as JSON values.
        """
        path = workdir / "trackers.json"
        if not start_step:
            path.unlink(missing_ok=True)
        ids = _read_ids(path)
        for name in self._names:
            run = TrackedRun(workdir, {**config, "versions": versions()}, start_step, ids.get(name))
            with self._survived(name):
                module = import_module(f"jaxdet.training.trackers.{name}")
                self._open[name] = getattr(module, CLASSES[name])(run)
        ids |= {name: tracker.id for name, tracker in self._open.items() if tracker.id is not None}
        if ids:
            write_json(path, ids, indent=2)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds points to curves."""
        self._each(lambda tracker: tracker.scalars(step, values))

    def picture(self, step: int, name: str, path: Path) -> None:
        """Adds a PNG image."""
        self._each(lambda tracker: tracker.picture(step, name, path))

    def table(self, step: int, name: str, table: Table) -> None:
        """Adds a table."""
        self._each(lambda tracker: tracker.table(step, name, table))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._each(lambda tracker: tracker.finish(kind is None))
        self._open.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._survived(name):
                call(tracker)

    @contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        """Says in a line what a tracker raises, of whatever kind, and calls it no more."""
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:SHOWN]
            tqdm.write(
                f"note: {name} failed ({reason}); the run goes on without it, and metrics.jsonl "
                "has all curves",
                file=sys.stderr,
            )


def _is_installed(package: str) -> bool:
    """Whether there is a package of that name, and not a mere folder that its runs left."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def _read_ids(path: Path) -> dict[str, str]:
    """What the trackers of a workdir call its run; empty where that is not known."""
    try:
        content = json.loads(read_file(path))
    except (OSError, ValueError, RecursionError):
        return {}
    items = content.items() if isinstance(content, dict) else ()
    return {name: run_id for name, run_id in items if isinstance(run_id, str)}
