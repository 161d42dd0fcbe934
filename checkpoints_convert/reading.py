"""Opens a file of weights by what it holds, and runs nothing that it holds.

PyTorch files are read with `weights_only`, pickles of NumPy arrays by `pickles`, archives only
where they hold no more than they weigh.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from checkpoints_convert.model_config import ModelConfig, read_model_config
from checkpoints_convert.onnx_file import read_onnx
from checkpoints_convert.pickles import PickledArray, PickledDtype, read_pickle, unread_scalar
from checkpoints_convert.tensors import State, Tensor, as_float32, of_array
from checkpoints_convert.wrappers import holds_vit
from jaxdet.errors import UserError
from jaxdet.weights.file import EXPANSION, StoredArray, archive_members, is_report, open_archive

LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How PyTorch files from before version 1.6 begin."""

MODEL_KEYS = ("model", "state_dict", "teacher", "target_encoder", "module")
"""Where training checkpoints keep their model, in the order of preference."""

NESTED = 3
"""Dictionaries in each other that are searched for one, where it is in none of MODEL_KEYS."""

REPORT_KEY = "jaxdet"
"""Where a PyTorch or safetensors file that jaxdet wrote keeps its report."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,299}")


Content = tuple[State, list[str], dict[str, Any] | None]
"""The last three attributes of a `Source`."""


@dataclass(frozen=True)
class Source:
    """What a file holds.

    Attributes:
        state: its model's tensors by name.
        beside: names of what else it holds, such as "optimizer".
        report: the report in a file that jaxdet wrote, else None.
        model_config: what the `config.json` beside it says, if there is one.
    """

    path: Path
    bytes: int
    sha256: str
    state: State
    beside: list[str]
    report: dict[str, Any] | None
    model_config: ModelConfig | None = None


def read(path: Path) -> Source:
    """Opens a file, or a folder as the hub gives them; the tensors are read later, one by one.

    Args:
        path: a file of weights, or a folder of one, or of several and their index
            ("model.safetensors.index.json"); `config.json` beside is read too.

    Raises:
        UserError: it is not a file of weights, is damaged, or holds anything that could run code.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the downloaded checkpoint")
    settings = path.with_name("config.json")
    return replace(
        _read_file(path),
        model_config=read_model_config(settings) if settings.is_file() else None,
    )


def _read_file(path: Path) -> Source:
    with _readable(path):
        with path.open("rb") as file:
            start = file.read(64)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        state, beside, report = _open(path, start)
    size = path.stat().st_size
    _check(path, size, state)
    if report is not None and not is_report(report):
        raise UserError(f"{path}: its report is not jaxdet's; give the original")
    return Source(path, size, sha256, state, beside, report)


WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
"""What the hub calls a file of weights, in the order of preference."""

SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def _read_folder(folder: Path) -> Source:
    """A folder as the hub gives them: one file of weights, or several and their index."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read(folder / name)
    for name in SHARDS:
        if (folder / name).is_file():
            return _read_shards(folder / name)
    raise UserError(
        f"{folder} must hold {', '.join(WEIGHTS)} or {' or '.join(SHARDS)}; give the file itself"
    )


def _read_shards(index: Path) -> Source:
    """The files that an index names, as one; each must lie beside it."""
    with _readable(index):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(names.values()))
        if not all(isinstance(name, str) and name == Path(name).name for name in files):
            raise ValueError("it names files that are not beside it")
    sources = [read(index.with_name(name)) for name in files]
    state = {name: tensor for source in sources for name, tensor in source.state.items()}
    absent = sorted(names.keys() - state.keys())
    if absent:
        raise UserError(f"{index} names {absent[0][:100]}, which no file beside it holds")
    return replace(
        sources[0],
        path=index.parent,
        bytes=sum(source.bytes for source in sources),
        sha256=hashlib.sha256("".join(source.sha256 for source in sources).encode()).hexdigest(),
        state=state,
    )


def _open(path: Path, start: bytes) -> Content:
    if path.suffix == ".onnx":
        return *read_onnx(path), None
    if zipfile.is_zipfile(path):
        names = archive_members(path)
        if any(name.endswith(".npy") for name in names):
            return _read_npz(path)
        return _read_torch(path, names)
    if start.startswith(LEGACY_TORCH):
        return _read_torch(path, None)
    if start.startswith(b"PK"):
        raise UserError(f"{path} is cut off: its end is missing; download it again")
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"\x80"):
        return _read_pickle(path)
    raise UserError(
        f"{path} is not a file of weights (.pth, .safetensors, .npz, .onnx or Detectron2's .pkl); "
        "download it again"
    )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What any reader raises on a damaged file, as one sentence."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # damage surfaces in whichever of the readers meets it first
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path} cannot be read ({reason}); download it again") from error


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """What a conversion meets in tensors of shapes that no model gives them, as one sentence."""
    try:
        yield
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{path} holds tensors whose shapes do not fit together ({str(error)[:200]}); it is "
            "damaged or no checkpoint of its layout: download it again"
        ) from error


def _read_npz(path: Path) -> Content:
    arrays, report = open_archive(path)
    state = {}
    for name, stored in arrays.items():
        if stored.dtype.hasobject:
            _fail_on_objects(path, "object arrays")

        def values(stored: StoredArray = stored) -> np.ndarray:
            with _readable(path):
                return as_float32(stored.read())

        state[name] = Tensor(stored.shape, stored.dtype.name, values)
    return state, [], report


def _read_safetensors(path: Path) -> Content:
    from safetensors import safe_open

    file = safe_open(path, framework="pt")
    metadata = file.metadata() or {}
    state = {}
    for name in file.keys():  # noqa: SIM118 (it is no dictionary)
        part = file.get_slice(name)
        dtype = SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype())

        def values(name: str = name) -> np.ndarray:
            return _to_numpy(file.get_tensor(name))

        state[name] = Tensor(tuple(part.get_shape()), dtype, values)
    return state, [], _parse_report(metadata.get(REPORT_KEY))


SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _read_torch(path: Path, members: list[str] | None) -> Content:
    """Args: members: of the archive, or None for a file of the older format."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"reading {path} takes PyTorch; install it with "
            "pip install -c constraints.txt -e '.[convert]'"
        ) from error
    if members is not None and any(name.endswith("/constants.pkl") for name in members):
        raise UserError(
            f"{path} is a TorchScript program, which runs code when opened; "
            "save its state_dict() and convert that"
        )
    allowed = [
        argparse.Namespace,
        (PickledDtype, "numpy.dtype"),
        (unread_scalar, "numpy.core.multiarray.scalar"),
        (unread_scalar, "numpy._core.multiarray.scalar"),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=members is not None
            )
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        _fail_on_objects(path, found[1] if found else "objects of an unknown kind", error)

    def tensor(value: torch.Tensor, name: str) -> Tensor:
        if value.is_meta or value.is_quantized or value.layout is not torch.strided:
            kind = "meta" if value.is_meta else "quantized" if value.is_quantized else "sparse"
            raise UserError(
                f"{path}: {name:.80} is a {kind} tensor, not one of plain numbers; save the "
                "model's dense weights and convert these"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} claims more values than are stored; do not use it")
        return Tensor(
            tuple(value.shape), str(value.dtype).removeprefix("torch."), lambda: _to_numpy(value)
        )

    return _unwrap(path, content, torch.Tensor, tensor)


def _to_numpy(value: Any) -> np.ndarray:
    """A PyTorch tensor as an array, float32 if it is of a floating type."""
    return (value.detach().float() if value.is_floating_point() else value).numpy()


def _read_pickle(path: Path) -> Content:
    try:
        content = read_pickle(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"may not hold ([\w.]+)", str(error))
        if found:
            _fail_on_objects(path, found[1], error)
        raise
    return _unwrap(path, content, PickledArray, lambda value, _: of_array(value.array))


def _unwrap(path: Path, content: Any, kind: type, tensor: Any) -> Content:
    """The model's tensors out of a checkpoint, which may hold an optimizer and more beside it."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not tensors by name")
    report = _parse_report(content.get(REPORT_KEY))
    model, beside = content, []
    for key in MODEL_KEYS:
        inner = content.get(key)
        if isinstance(inner, dict) and any(isinstance(value, kind) for value in inner.values()):
            model = inner
            beside = sorted(str(name) for name in content if name not in (key, REPORT_KEY))
            break
    else:
        if not any(isinstance(value, kind) for value in content.values()):
            model, beside = _only_vit(path, content, kind)
    state = {
        name: tensor(value, name)
        for name, value in model.items()
        if isinstance(name, str) and isinstance(value, kind)
    }
    beside += sorted(str(name) for name in model if name not in state and name != REPORT_KEY)
    return state, beside, report


def _only_vit(path: Path, content: dict, kind: type) -> tuple[dict, list[str]]:
    """The tensors of a ViT wherever in nested dictionaries they are, and what lies beside."""
    found = list(_vits(content, kind))
    if len(found) > 1:
        places = " and ".join(".".join(keys)[:80] for keys, _ in found[:2])
        raise UserError(
            f"{path} holds several ViTs, {places} among them; save the tensors of one alone"
        )
    if not found:
        return content, []
    (first, *_), model = found[0]
    return model, sorted(str(name) for name in content if name != first)


def _vits(content: dict, kind: type, above: tuple[str, ...] = ()) -> Iterator[tuple]:
    """The dictionaries that hold a ViT's tensors by name, each behind the keys that lead to it."""
    for key, inner in content.items():
        if not isinstance(inner, dict) or not isinstance(key, str) or len(above) == NESTED:
            continue
        names = [name for name, value in inner.items() if isinstance(value, kind)]
        if holds_vit(name for name in names if isinstance(name, str)):
            yield (*above, key), inner
        else:
            yield from _vits(inner, kind, (*above, key))


def _parse_report(text: Any) -> dict[str, Any] | None:
    """The report that jaxdet wrote into a file, if it did."""
    report = json.loads(text) if isinstance(text, str) else None
    return report if isinstance(report, dict) else None


def _check(path: Path, size: int, state: State) -> None:
    """Raises UserError for what no honest file of weights holds."""
    if not state:
        raise UserError(f"{path} holds no tensors; give the checkpoint of a model")
    for name in state:
        if not NAME.fullmatch(name) or ".." in name:
            raise UserError(f"{path} holds a tensor of the name {name[:80]!r}; do not use it")
    total = sum(tensor.size for tensor in state.values())
    if total > EXPANSION * size:
        raise UserError(f"{path} claims {total} values in {size} bytes; do not use it")


def _fail_on_objects(path: Path, what: str, error: Exception | None = None) -> NoReturn:
    raise UserError(
        f"{path} holds Python objects beside tensors ({what}), which may run code when opened; "
        "none was opened: get a file of tensors alone"
    ) from error
