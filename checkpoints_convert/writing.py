"""Writes converted arrays whole or not at all, one by one, so that they never lie in memory all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.reading import REPORT_KEY
from checkpoints_convert.tensors import State, Tensor
from jaxdet.errors import UserError

Progress = Callable[[int], None]
"""Is told how many more bytes were written."""


def write_npz(path: Path, arrays: State, report: dict[str, Any], progress: Progress) -> None:
    """An uncompressed archive of the arrays, which `numpy.load` reads, and `report.json`.

    The report lies inside, not beside: whoever passes the file on passes on where it came from.
    `python -m checkpoints_convert FILE.npz` prints it again.
    """
    with _whole(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in arrays.items():
            array = _values(name, tensor)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
            progress(array.nbytes)
        archive.writestr("report.json", json.dumps(report, indent=1))


def write_torch(
    path: Path, arrays: State, report: dict[str, Any], progress: Progress, key: str = "model"
) -> None:
    """A PyTorch file {key: tensors, "jaxdet": report}, or a safetensors file with the same.

    MMDetection reads `key` "state_dict", beside which it expects a dictionary "meta".
    """
    import torch

    tensors = {}
    for name, tensor in arrays.items():
        tensors[name] = torch.from_numpy(_values(name, tensor))
        progress(tensors[name].nbytes)
    with _whole(path) as partial:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(tensors, partial, metadata={REPORT_KEY: json.dumps(report)})
        else:
            meta = {"meta": {}} if key == "state_dict" else {}
            torch.save({**meta, key: tensors, REPORT_KEY: json.dumps(report)}, partial)


def _values(name: str, tensor: Tensor) -> np.ndarray:
    array = np.ascontiguousarray(tensor.read(), np.float32)
    if not np.isfinite(array).all():
        raise UserError(
            f"what becomes {name} has values that are not finite; the file is damaged or its "
            "training diverged: get it again"
        )
    return array


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
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
