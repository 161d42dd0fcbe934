"""The weights in an ONNX file that PyTorch exported, under their modules' names.

The exporter keeps a parameter's name where a node takes it as it is. It turns a linear layer's
weight, and splits a position embedding, under names that say nothing; the nodes that take these are
named after the module.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.tensors import State, of_array
from jaxdet.errors import UserError

LARGEST = 2**31
"""Bytes of such a file at most, as its format has it."""


def read_onnx(path: Path) -> tuple[State, list[str]]:
    """The tensors by name, and the names of constants, which are no parameters.

    Raises:
        UserError: the package onnx is absent, or the weights lie in another file.
        ValueError: it is no ONNX file.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise UserError(
            f"reading {path} takes the package onnx; install it with "
            "pip install -c constraints.txt -e '.[convert,onnx]'"
        ) from error
    if path.stat().st_size >= LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    graph = onnx.load(path, load_external_data=False).graph
    if any(tensor.external_data for tensor in graph.initializer):
        raise UserError(f"{path} keeps its weights in another file; export it as one file")
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if len(stored) < len(graph.initializer):
        raise ValueError("it holds two tensors of one name")
    state = {
        name: of_array(numpy_helper.to_array(tensor))
        for name, tensor in stored.items()
        if "::" not in name
    }
    used = set()
    for name, module, kind in _nameless(graph, stored):
        array = numpy_helper.to_array(stored[name])
        if kind == "MatMul" and array.ndim == 2:
            state[f"{module}.weight"] = of_array(np.ascontiguousarray(array.T))
        elif kind in ("Concat", "Reshape") and array.ndim == 3:
            state[f"{module}.{kind}"] = of_array(array)
        else:
            continue
        used.add(name)
    _join_positions(state)
    return state, sorted({name for name in stored if "::" in name} - used)


def _nameless(graph: Any, stored: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Tensors without a name of their own: with the module and kind of the node that takes each."""
    for node in graph.node:
        module = ".".join(node.name.strip("/").split("/")[:-1])
        for name in node.input:
            if "::" in name and name in stored and module:
                yield name, module, node.op_type


def _join_positions(state: State) -> None:
    """The class token's position, which is concatenated, and the patches', which are reshaped and
    resized before that, as one embedding.
    """
    for name in [name for name in state if name.endswith(".Concat")]:
        module = name.removesuffix(".Concat")
        patches = state.get(f"{module}.Reshape")
        if patches is not None and patches.shape[::2] == state[name].shape[::2]:
            first, rest = state.pop(name).read(), state.pop(f"{module}.Reshape").read()
            joined = np.concatenate([first, rest], axis=1)
            state[f"{module}.position_embeddings"] = of_array(joined)
