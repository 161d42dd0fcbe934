"""Trained arrays under the names of the original that the weights came from.

A conversion only moves numbers: each one of an array is one of a tensor. So whatever the layout,
converting the numbers' positions in place of their values shows where each goes back to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from checkpoints_convert.conversion import convert, recognised
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.layout import Layout, Pixels
from checkpoints_convert.reading import Source
from checkpoints_convert.tensors import State, Tensor
from checkpoints_convert.timm_model import vit_keys
from checkpoints_convert.vit import merge_class_position
from jaxdet.errors import UserError

MEANINGS = re.compile(r"bias_mask$")
"""Tensors that say what others are for: their values are looked at while converting."""

COMPUTED = re.compile(r"backbone\.rel_pos_(window|global)\.table$")
"""Arrays whose numbers are means or resized, none of them the original's."""


def to_original(
    arrays: State, report: Mapping[str, Any], original: Source, layout: Layout | None = None
) -> tuple[State, list[str]]:
    """All tensors of the original, with the arrays' values where these were made of them.

    Args:
        arrays: under jaxdet's paths, trained on or not.
        report: that they came with.
        original: the file that the weights they started from were converted from.
        layout: of the original; None to recognise it.

    Returns:
        The tensors, and the paths of arrays that the original has no place for.

    Raises:
        UserError: the original is of another ViT, or of none.
    """
    options = Options(
        activation=vit_keys(report)["activation"],
        heads=report["config"].get("model.vit.heads"),
        target="imted" if "box_head.embed.kernel" in arrays else "backbone",
    )
    pixels = Pixels(tuple(report["pixel_mean"]), tuple(report["pixel_std"]))
    numbered, starts, end = _numbered(original.state)
    there = convert(
        replace(original, state=numbered),
        options,
        layout=layout or recognised(original)[1],
        pixels=pixels,
        allow_unknown=True,
    ).arrays
    position = there.get("backbone.class_pos_embed")
    if position is None or not position.sources:
        arrays = merge_class_position(arrays)
    moves: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in original.state}
    unplaced = []
    for path, array in arrays.items():
        positions = None if COMPUTED.match(path) else there.get(path)
        if positions is not None and positions.shape != array.shape:
            raise UserError(
                f"{original.path} gives {path} the shape {positions.shape} and these weights have "
                f"{array.shape}; give the file that they were converted from, without --patch"
            )
        if positions is None or not _are_moved(positions, end):
            unplaced += [path] if array.read().any() else []
            continue
        for name in positions.sources:
            moves[name].append((array, positions))
    tensors = {
        name: _replaced(tensor, starts.get(name, 0), moves[name])
        for name, tensor in original.state.items()
    }
    return tensors, unplaced


def _numbered(state: State) -> tuple[State, dict[str, int], int]:
    """Tensors of the positions of their numbers, counted from 1 through all of the file: as real
    parts, and counted from its end as imaginary parts.

    Returns:
        These; where each tensor starts; and the sum of both parts of a position.
    """
    starts, end = {}, 1
    for name, tensor in state.items():
        if tensor.is_float and not MEANINGS.search(name):
            starts[name] = end
            end += tensor.size

    def positions(tensor: Tensor, start: int) -> Tensor:
        def read() -> np.ndarray:
            index = np.arange(start, start + tensor.size, dtype=np.float64)
            return (index + 1j * (end - index)).reshape(tensor.shape)

        return replace(tensor, read=read)

    numbered = {name: positions(state[name], start) for name, start in starts.items()}
    return {**state, **numbered}, starts, end


def _are_moved(positions: Tensor, end: int) -> bool:
    """Whether an array consists of numbers of the original as they are, none of them a sum."""
    values = positions.read()
    return bool(np.all(values.real + values.imag == end))


def _replaced(tensor: Tensor, start: int, moves: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A tensor with numbers of arrays in the place of its own.

    Args:
        moves: arrays, and the positions that their numbers go to.
    """
    if not moves:
        return tensor

    def read() -> np.ndarray:
        values = np.array(tensor.read())
        flat = values.reshape(-1)
        for array, positions in moves:
            index = positions.read().real.astype(np.int64).reshape(-1) - start
            inside = (index >= 0) & (index < flat.size)
            flat[index[inside]] = array.read().reshape(-1)[inside]
        return values

    return replace(tensor, read=read)
