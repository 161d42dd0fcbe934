"""A detector as it lies on the hub: model.safetensors, and config.json that says what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdet.config.starts import PUSHED, is_on_hub, is_pushed
from jaxdet.errors import UserError
from jaxdet.files import atomic_write, read_file, write_json
from jaxdet.weights.file import Weights, is_report, open_archive, read_weights, validated
from jaxdet.weights.hub import download

LIBRARY = "jaxdet"

WEIGHTS, DESCRIPTION = PUSHED


def write_pushed(folder: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Writes the two files.

    Args:
        arrays: parameters and batch statistics by path.
        facts: what config.json has beside the arrays' digests: "report" as in a file of converted
            weights; "config", "categories" and "category_ids" as in a checkpoint.

    Raises:
        UserError: an array is not of finite floats, safetensors is not installed, or the folder
            cannot be written.
    """
    path = folder / WEIGHTS
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    validated(path, arrays)
    safetensors = _safetensors(path)
    with atomic_write(path) as partial:
        safetensors.save_file(arrays, partial, metadata={"format": LIBRARY})
    digests = {name: array_sha256(array) for name, array in arrays.items()}
    description = {"library_name": LIBRARY, **facts, "sha256": digests}
    write_json(folder / DESCRIPTION, description, indent=1)


def weights_at(start: str | Path) -> Weights:
    """The weights of a converted file, of a folder as `write_pushed` has it, or of such a
    repository at an address of the hub, which is downloaded.

    Raises:
        UserError: there are none, or they are not what was written.
    """
    folder = local_folder(start)
    return read_weights(Path(start)) if folder is None else read_pushed(folder)


def local_folder(start: str | Path) -> Path | None:
    """The folder of what was pushed, downloaded where the start is an address; None for a file."""
    if is_on_hub(start):
        return download(str(start))
    return Path(start) if is_pushed(start) else None


def read_pushed(folder: Path) -> Weights:
    """The arrays, each of the SHA-256 that config.json says, and the report.

    Raises:
        UserError: they are others, or it is no such folder.
    """
    path, description = folder / WEIGHTS, read_description(folder)
    safetensors = _safetensors(path)
    try:
        arrays = safetensors.load_file(path)
    except Exception as error:  # of the file's header or the disk
        raise UserError(f"{path} cannot be read ({error}); get the file again") from error
    digests = description["sha256"]
    changed = sorted(
        name
        for name in digests.keys() | arrays.keys()
        if name not in arrays or digests.get(name) != array_sha256(arrays[name])
    )
    if changed:
        raise UserError(
            f"{path}: {changed[0]} (of {len(changed)} arrays) has not the SHA-256 that "
            f"{DESCRIPTION} says; get both files again"
        )
    return Weights(path, validated(path, arrays), description["report"])


def read_description(folder: Path) -> dict[str, Any]:
    """What config.json says.

    Raises:
        UserError: it is not what `jaxdet push` writes.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(read_file(path))
        is_ours = (
            isinstance(description, dict)
            and description.get("library_name") == LIBRARY
            and is_report(description.get("report"))
            and isinstance(description.get("sha256"), dict)
        )
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); get the file again") from error
    if not is_ours:
        raise UserError(
            f"{path} must be of a detector that `jaxdet push` wrote; convert weights of others "
            "first: `jaxdet convert hf://owner/name OUT.npz`"
        )
    return description


def original_sha256(start: str | Path) -> str | None:
    """Of what weights were converted or pushed from; None where they are gone or do not say it, and
    of an address of the hub, which is not downloaded for this."""
    if is_on_hub(start):
        return None
    try:
        path = Path(start)
        report = read_description(path)["report"] if path.is_dir() else open_archive(path)[1]
    except Exception:  # whoever needs the arrays says what is wrong
        return None
    return None if report is None else report["source"]["sha256"]


def array_sha256(array: np.ndarray) -> str:
    """Of dtype, shape and bytes."""
    found = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    found.update(np.ascontiguousarray(array))
    return found.hexdigest()


def _safetensors(path: Path) -> Any:
    try:
        from safetensors import numpy
    except ImportError as error:
        raise UserError(
            f"{path} is read and written by safetensors; install it with "
            "pip install -c constraints.txt -e '.[hub]'"
        ) from error
    return numpy
