"""Writes converted arrays whole or not at all, one by one, so that they never lie in memory all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.reading import REPORT_KEY
from checkpoints_convert.tensors import State, Tensor
from jaxdet.errors import UserError
from jaxdet.files import atomic_write
from jaxdet.weights.file import write_weights

Progress = Callable[[int], None]
"""Called with the number of bytes written since the last call."""


def write(
    path: Path, arrays: State, report: dict[str, Any], progress: Progress, key: str = "model"
) -> None:
    """A file of the kind that its name says; `key` is of `write_torch`."""
    if path.suffix == ".npz":
        write_npz(path, arrays, report, progress)
    else:
        write_torch(path, arrays, report, progress, key)


def write_npz(path: Path, arrays: State, report: dict[str, Any], progress: Progress) -> None:
    """The arrays and the report as a file of converted weights, see `write_weights`."""

    def values() -> Iterator[tuple[str, np.ndarray]]:
        for name, tensor in arrays.items():
            array = _values(name, tensor)
            yield name, array
            progress(array.nbytes)

    write_weights(path, values(), report)


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
    with atomic_write(path) as partial:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(tensors, partial, metadata={REPORT_KEY: json.dumps(report)})
        else:
            meta = {"meta": {}} if key == "state_dict" else {}
            torch.save({**meta, key: tensors, REPORT_KEY: json.dumps(report)}, partial)


def _values(name: str, tensor: Tensor) -> np.ndarray:
    array = np.ascontiguousarray(tensor.read(), np.float32 if tensor.is_float else None)
    array = array.reshape(tensor.shape)  # which NumPy gives an axis where there is none
    if not np.isfinite(array).all():
        raise UserError(
            f"what becomes {name} has values that are not finite; the file is damaged or its "
            "training diverged: get it again"
        )
    return array
