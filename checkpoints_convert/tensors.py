"""A tensor of a file, read only when needed, so that a large file is never held twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """An array that `read` computes.

    Attributes:
        shape: of what `read` returns.
        dtype: NumPy's or PyTorch's name of the stored type, such as "float32" or "bfloat16".
        read: returns the values; float32 where `dtype` is a floating type.
        sources: names in the file of what it is computed from.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]
    sources: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return "float" in self.dtype

    def map(self, shape: tuple[int, ...], function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        """What a function makes of the values, which has the given shape."""
        return replace(self, shape=shape, read=lambda: function(self.read()))

    def reshape(self, *shape: int) -> Tensor:
        """One length may be -1, as NumPy has it."""
        if -1 in shape:
            shape = tuple(-self.size // math.prod(shape) if side < 0 else side for side in shape)
        return self.map(shape, lambda values: values.reshape(shape))

    def rows(self, start: int, stop: int) -> Tensor:
        """Those of the first axis from `start` to before `stop`."""
        shape = (stop - start, *self.shape[1:])
        return self.map(shape, lambda values: values[start:stop])

    def transpose(self, *axes: int) -> Tensor:
        shape = tuple(self.shape[axis] for axis in axes)
        return self.map(shape, lambda values: values.transpose(axes))


State = dict[str, Tensor]


def as_float32(array: np.ndarray) -> np.ndarray:
    """The array, float32 if it is of a floating type."""
    return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def of_array(array: np.ndarray) -> Tensor:
    """An array at hand as a `Tensor`."""
    return Tensor(array.shape, array.dtype.name, lambda: as_float32(array))


def zeros(*shape: int) -> Tensor:
    return Tensor(shape, "float32", lambda: np.zeros(shape, np.float32))


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along the first axis.

    Raises:
        ValueError: they are of different lengths along another.
    """
    if not all(tensor.shape and tensor.shape[1:] == tensors[0].shape[1:] for tensor in tensors):
        raise ValueError(
            f"{' and '.join(str(tensor.shape) for tensor in tensors)} cannot be joined"
        )
    shape = (sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:])
    return _combine(tensors, shape, np.concatenate)


def add(tensor: Tensor, vector: Tensor) -> Tensor:
    """A tensor with a vector added along its last axis."""
    return _combine([tensor, vector], tensor.shape, lambda arrays: arrays[0] + arrays[1])


def add_rows(tensor: Tensor, rows: Tensor, start: int) -> Tensor:
    """The first rows of a tensor with those of another from `start` on added, one to one."""

    def of(arrays: list[np.ndarray]) -> np.ndarray:
        values, added = arrays[0].copy(), arrays[1][start:]
        values[: len(added)] += added[: len(values)]
        return values

    return _combine([tensor, rows], tensor.shape, of)


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""

    def of(arrays: list[np.ndarray]) -> np.ndarray:
        return np.mean(arrays, axis=0, dtype=np.float32)

    return _combine(tensors, tensors[0].shape, of)


def _combine(
    tensors: Sequence[Tensor],
    shape: tuple[int, ...],
    function: Callable[[list[np.ndarray]], np.ndarray],
) -> Tensor:
    sources = tuple(name for tensor in tensors for name in tensor.sources)
    dtype = next((tensor.dtype for tensor in tensors if not tensor.is_float), tensors[0].dtype)
    return Tensor(shape, dtype, lambda: function([tensor.read() for tensor in tensors]), sources)
