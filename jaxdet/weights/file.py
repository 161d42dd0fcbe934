"""Files of converted weights: .npz archives of float arrays by parameter path, and a report."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdet.errors import UserError
from jaxdet.files import atomic_write, regular_file

REPORT = "report.json"

EXPANSION = 10
"""How many times its own size an archive's content may take: float weights hardly compress."""


class StoredArray(NamedTuple):
    """An array of an archive, of which only the header was read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Weights:
    """A file of converted weights.

    Attributes:
        arrays: by parameter path, or by the path of a batch statistic.
        report: what the converter knew of the original; None in a file written by hand.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    report: dict[str, Any] | None

    @property
    def is_detector(self) -> bool:
        """Whether these are more than a pre-training's."""
        return any(name.startswith("rpn.") for name in self.arrays)


def write_weights(
    path: Path, arrays: Iterable[tuple[str, np.ndarray]], report: dict[str, Any]
) -> None:
    """Writes an uncompressed archive of the arrays, which `numpy.load` reads, and `report.json`.

    The report lies inside, not beside: whoever passes the file on passes on where it came from.
    `jaxdet convert FILE.npz` prints it again.

    Args:
        arrays: names and values, taken one by one, so that they need not lie in memory all.

    Raises:
        UserError: the file cannot be written; nothing is left of it.
    """
    with (
        atomic_write(path) as partial_path,
        zipfile.ZipFile(partial_path, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.writestr(REPORT, json.dumps(report, indent=1))


def read_weights(path: Path) -> Weights:
    """Reads an .npz archive of float arrays under dotted paths ("backbone.blocks.0.norm1.scale"),
    and `report.json` where it has one.

    Raises:
        UserError: the file is not such an archive, or has values that are not finite floats.
    """
    try:
        stored, report = open_archive(path)
        arrays = {name: array.read() for name, array in stored.items()}
    except Exception as error:  # damage surfaces in whichever of zip, zlib and NumPy reads it first
        raise UserError(
            f"{path} is not a file of converted weights ({error}); convert the original again"
        ) from error
    return Weights(path, validated(path, arrays), report)


def validated(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays, which are the content of a file.

    Raises:
        UserError: there are none, or one has values that are not finite floats.
    """
    if not arrays:
        raise UserError(f"{path} holds no weights; convert the original again")
    for name, value in arrays.items():
        if value.dtype.kind != "f":
            raise UserError(f"{path}: {name} holds {value.dtype}, not floats; convert it again")
        if not np.isfinite(value).all():
            raise UserError(f"{path}: {name} has values that are not finite; get the file again")
    return arrays


def open_archive(path: Path) -> tuple[dict[str, StoredArray], dict[str, Any] | None]:
    """The arrays of an .npz archive by name, none of them read yet, and its report.

    Raises:
        ValueError, OSError, KeyError, zipfile.BadZipFile: the archive is damaged or none. Reading
            an array raises these too; one of Python objects is never read.
    """
    archive_members(path)
    archive = np.load(path, allow_pickle=False)
    arrays, report = {}, None
    for name in archive.files:
        if name == REPORT:
            report = json.loads(archive[name])
            if not is_report(report):
                raise ValueError("its report is not the converter's")
        else:
            with archive.zip.open(f"{name}.npy") as member:
                shape, _, dtype = HEADERS[np.lib.format.read_magic(member)](member)
            arrays[name] = StoredArray(shape, dtype, partial(archive.__getitem__, name))
    return arrays, report


HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def archive_members(path: Path) -> list[str]:
    """The members' names of a zip archive.

    Raises:
        ValueError: it would unpack to far more than it is, as no weights do.
    """
    with zipfile.ZipFile(regular_file(path)) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > EXPANSION * path.stat().st_size + 2**20:
        raise ValueError(f"it would unpack to more than {EXPANSION} times its size")
    return [member.filename for member in members]


def is_report(report: Any) -> bool:
    """Whether a file's report has what its readers take from it."""

    def is_triple(values: Any) -> bool:
        return (
            isinstance(values, list)
            and len(values) == 3
            and all(isinstance(value, int | float) and abs(value) < math.inf for value in values)
        )

    return (
        isinstance(report, dict)
        and isinstance(report.get("layout"), str)
        and isinstance(report.get("config"), dict)
        and isinstance(report.get("source"), dict)
        and all(isinstance(report["source"].get(key), str) for key in ("file", "sha256"))
        and is_triple(report.get("pixel_mean"))
        and is_triple(report.get("pixel_std"))
    )
