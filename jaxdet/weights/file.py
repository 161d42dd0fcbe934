"""Writing of converted weights: the file that `jaxdet.weights.load.read_weights` reads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdet.files import atomic_write


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
    with (
        atomic_write(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.writestr("report.json", json.dumps(report, indent=1))
