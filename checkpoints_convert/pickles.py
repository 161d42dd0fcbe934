"""Pickles of NumPy arrays, read by a machine that makes arrays and plain data and nothing else.

NumPy's own classes are never called: a dtype or array that is given a forged state reads memory it
does not own. Stand-ins take the states and check them. The machine is the standard library's in
Python, whose memo is a dictionary: that in C takes memory for whatever index a file names.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

PLAIN_DTYPE = re.compile(r"[<>|=]?[fiub][1248]")

UNUSED = (
    *("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID"),
    *("DICT", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    *("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"),
)
"""Opcodes that no file of weights has: they make objects, hash nested data, take memory unread."""

KEYS = (str, bytes, int, float, type(None))


class PickledDtype:
    """A dtype of plain numbers; all that its state may say is which byte comes first."""

    def __init__(self, name: str, align: Any = False, copy: Any = True):
        if not PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"arrays of {name[:20]!r} are not plain numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        version, order, *others = state
        if version != 3 or order not in ("<", ">", "|", "=") or others != [None] * 3 + [-1, -1, 0]:
            raise pickle.UnpicklingError("a dtype is not stored as NumPy stores it")
        self.dtype = self.dtype.newbyteorder(order)


class PickledArray:
    """An array, empty until its state fills it."""

    def __init__(self) -> None:
        self.array = np.empty(0, np.int8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        if not (
            isinstance(shape, tuple)
            and all(isinstance(side, int) and side >= 0 for side in shape)
            and isinstance(dtype, PickledDtype)
            and isinstance(content, bytes)
            and math.prod(shape) * dtype.dtype.itemsize == len(content)
        ):
            raise pickle.UnpicklingError("an array is not stored as NumPy stores it")
        self.array = np.ndarray(shape, dtype.dtype, content, order="F" if is_fortran else "C")


def _empty_array(kind: Any, shape: Any, typecode: Any) -> PickledArray:
    """NumPy's `_reconstruct`: an empty array, filled afterwards."""
    if kind is not NDARRAY or shape != (0,):
        raise pickle.UnpicklingError("an array is not stored as NumPy stores it")
    return PickledArray()


def unread_scalar(dtype: Any, content: Any = None) -> None:
    """A NumPy number, such as a best accuracy beside the model, which no conversion needs."""


def _dictionary(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """A dictionary whose keys are texts and numbers: to hash nested data can exhaust the stack."""
    pairs = [*pairs]
    if not all(isinstance(key, KEYS) for key, _ in pairs):
        raise pickle.UnpicklingError("a dictionary's keys must be texts or numbers")
    return dict(pairs)


def _bytes(text: str, encoding: str) -> bytes:
    """What pickles of protocol 2 hold in place of bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError("bytes are not stored as pickle stores them")
    return text.encode("latin1")


NDARRAY = object()
"""Stands for `numpy.ndarray`, which a file may name to `_reconstruct` and never call."""

ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): PickledDtype,
    ("collections", "OrderedDict"): _dictionary,
    ("_codecs", "encode"): _bytes,
}


class ArrayUnpickler(pickle._Unpickler):
    """Makes dictionaries, lists, tuples, texts, numbers and `PickledArray`s alone."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        raise pickle.UnpicklingError(f"a file of weights may not hold {module}.{name}")

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], PickledArray | PickledDtype):
            raise pickle.UnpicklingError("only arrays and their dtypes have a state")
        self.stack[-1].__setstate__(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise pickle.UnpicklingError("only dictionaries have items")
        self.stack[-1].update(_dictionary(zip(items[::2], items[1::2], strict=True)))

    dispatch: ClassVar = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }
    for _opcode in UNUSED:
        del dispatch[getattr(pickle, _opcode)[0]]


def read_pickle(path: Path) -> Any:
    """What a pickle of arrays holds, with `PickledArray`s for them.

    Raises:
        pickle.UnpicklingError: it holds anything else than arrays and plain data; nothing of it was
            called. Damage surfaces as this or any other error.
    """
    with path.open("rb") as file:
        return ArrayUnpickler(file).load()
