"""Writing of converted weights: the file that `jaxdet.initialise.read_weights` reads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxdet.errors import UserError


def write_weights(
    path: Path, arrays: Iterable[tuple[str, np.ndarray]], report: dict[str, Any]
) -> None:
    """An uncompressed archive of the arrays, which `numpy.load` reads, and `report.json`.

    The report lies inside, not beside: whoever passes the file on passes on where it came from.
    `python -m checkpoints_convert FILE.npz` prints it again.

    Args:
        arrays: names and values, taken one by one, so that they need not lie in memory all.

    Raises:
        UserError: the file cannot be written; nothing is left of it.
    """
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.writestr("report.json", json.dumps(report, indent=1))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write to that becomes `path` at the end, and leaves nothing after an error."""
    partial = path.with_name(f".{path.name}.partial")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        for folder in made:
            if folder.is_dir():
                folder.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{path} cannot be written ({error}); free space or rights") from error
        raise
