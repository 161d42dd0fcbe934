"""All runs that some folders hold: the finished ones, and why the others are left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxdet.benchmark.reporting.result_file import read_run
from jaxdet.benchmark.reporting.run import Run, SkippedRun
from jaxdet.errors import UserError


def gather(paths: Iterable[Path]) -> tuple[list[Run], list[SkippedRun]]:
    """Reads the runs that the paths are or hold, in the order given and of their names.

    Raises:
        UserError: a path is not a folder, or there is no usable run.
    """
    paths = list(paths)
    runs, skipped, seen = [], [], {}
    for folder in _workdirs(paths):
        try:
            run = read_run(folder)
        except UserError as error:
            skipped.append(SkippedRun(folder, str(error)))
            continue
        # A result may come from anyone, and no single one may cost the report of all others.
        except Exception as error:
            first_line = (str(error).splitlines() or [""])[0]
            reason = f"damaged: it cannot be read ({type(error).__name__}: {first_line:.200})"
            skipped.append(SkippedRun(folder, reason))
            continue
        # No two seeds agree in every bit of every number: this is a copy, or a run done again.
        same = (run.config_sha256, run.checkpoint_sha256, repr(run.scores))
        if same in seen:
            reason = f"the same result as in {seen[same].name}, which is reported"
            skipped.append(SkippedRun(folder, reason))
            continue
        seen[same] = folder
        runs.append(run)
    if not runs:
        why = "; ".join(f"{each.folder}: {each.reason}" for each in skipped)
        raise UserError(
            f"no finished run in {', '.join(map(str, paths))} ({why or 'no result.json'}); "
            "give workdirs of jaxdet train that have a result.json"
        )
    return runs, skipped


def _workdirs(paths: Sequence[Path]) -> list[Path]:
    """Folders that hold a run, finished or not, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give workdirs, or folders of workdirs")
        for folder, inner, files in os.walk(path):
            inner.sort()
            if {"result.json", "config.json"} & set(files):
                found.setdefault(Path(folder).resolve(), Path(folder))
                inner[:] = [name for name in inner if name not in ("checkpoints", "profile")]
    return list(found.values())
