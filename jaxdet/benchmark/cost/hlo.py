"""A compiled program's text as computations of instructions: what `compiled.as_text()` says.

Reads the optimised HLO of XLA's compilers for CPUs, GPUs and TPUs. What an instruction means is not
known here: its attributes stay text, in which `Instruction` finds what it is asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=? ]*)\](?:\{([^{}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(calls|condition|body|to_apply|branch_computations|true_computation|false_computation|"
    r"called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Shape:
    """An array. `on_chip`: it is kept in the processor's own memory (a TPU's VMEM), not in HBM."""

    dtype: str
    sides: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        """What it takes in memory; less than a byte an element is rounded up."""
        return -(-self.size * bits_of(self.dtype) // 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        shape: text of the result's.
        operands: names of instructions of the same computation.
        text: all behind the operands.
        arguments: text between the parentheses.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    text: str

    @cached_property
    def results(self) -> tuple[Shape, ...]:
        """The arrays of the result, those of nested tuples in one row."""
        return tuple(_shapes(self.shape))

    @cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Names of the computations that it calls, by attribute."""
        return {
            kind: tuple(_OPERAND.findall(several)) if several else (one,)
            for kind, several, one in _CALLED.findall(self.text)
        }

    @cached_property
    def op_name(self) -> str:
        """The names of the JAX functions and scopes it was made by; empty if unknown."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.text)
        return found[1] if found else ""

    @cached_property
    def target(self) -> str:
        """What a custom call calls."""
        found = re.search(r'custom_call_target="([^"]*)"', self.text)
        return found[1] if found else ""

    @cached_property
    def backend_config(self) -> dict[str, Any]:
        """What the compiler noted for its own use; empty where it is not JSON."""
        start = self.text.find("backend_config={")
        if start < 0:
            return {}
        try:
            return json.JSONDecoder().raw_decode(self.text, start + len("backend_config="))[0]
        except ValueError:
            return {}

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """The numbers of an attribute such as `lhs_contracting_dims={1,2}`; none if absent."""
        found = re.search(rf"\b{attribute}=\{{([\d,]*)\}}", self.text)
        return tuple(int(n) for n in found[1].split(",") if n) if found else ()

    def number(self, attribute: str, default: int) -> int:
        """The number of an attribute such as `feature_group_count=2`."""
        found = re.search(rf"\b{attribute}=(\d+)", self.text)
        return int(found[1]) if found else default


@dataclass
class Computation:
    """Instructions by name, in the order of the text; `root` is the one whose result it returns."""

    name: str
    instructions: dict[str, Instruction]
    root: str = ""

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    def operand(self, instruction: Instruction, index: int) -> Instruction:
        """The instruction whose result is an operand of another."""
        return self.instructions[instruction.operands[index]]

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take each one's result."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self:
            for operand in dict.fromkeys(instruction.operands):
                users[operand].append(instruction)
        return users

    @cached_property
    def parameters(self) -> list[Instruction]:
        """What it is given, in order."""
        found = [one for one in self if one.opcode == "parameter"]
        return sorted(found, key=lambda one: int(one.arguments))


@dataclass(frozen=True)
class Program:
    """Computations by name; `entry` is the one that runs."""

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Program:
    """Reads a program.

    Args:
        text: `compiled.as_text()`.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = computations[header[2]] = Computation(header[2], {})
                entry = current if header[1] else entry
        elif line.startswith("}"):
            current = None
        else:
            name = _NAME.match(line)
            if name:
                current.instructions[name[2]] = _instruction(name[2], line[name.end() :])
                current.root = name[2] if name[1] else current.root
    if entry is None:
        raise ValueError("the text has no ENTRY computation")
    return Program(computations, entry)


def bits_of(dtype: str) -> int:
    """Bits of one element of an HLO type such as "f32", "bf16", "f8e4m3fn" or "pred"."""
    if dtype == "pred":
        return 8
    found = _BITS.search(dtype)
    return int(found[0]) if found else 0  # a token or an opaque handle


def elements(shape: str) -> list[str]:
    """The texts of a tuple's elements; of an array, itself."""
    if not shape.startswith("("):
        return [shape]
    found, depth, start = [], 0, 1
    for index, character in enumerate(shape):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            found.append(shape[start:index].strip())
            start = index + 1
    return [re.sub(r"^/\*.*?\*/", "", one) for one in found if one]


def shapes_of(shape: str) -> tuple[Shape, ...]:
    """The arrays that a result's text names."""
    return tuple(_shapes(shape))


def _shapes(text: str) -> Iterator[Shape]:
    for dtype, sides, layout in _ARRAY.findall(text):
        numbers = tuple(int(side) for side in re.findall(r"\d+", sides))
        yield Shape(dtype, numbers, on_chip=bool(re.search(r"S\([1-9]\d*\)", layout)))


def _instruction(name: str, text: str) -> Instruction:
    """An instruction from what stands behind "name = "."""
    if text.startswith("("):
        end = _closing(text, 0) + 1
    else:
        end = text.index(" ")
    shape = text[:end]
    opened = text.index("(", end)
    closed = _closing(text, opened)
    arguments, opcode = text[opened + 1 : closed], text[end:opened].strip()
    operands = () if opcode in ("parameter", "constant") else tuple(_OPERAND.findall(arguments))
    return Instruction(name, shape, opcode, operands, arguments, text[closed + 1 :])


def _closing(text: str, opened: int) -> int:
    """Where the parenthesis at `opened` is closed."""
    depth = 0
    for found in re.finditer(r"[()]", text[opened:]):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return opened + found.start()
    raise ValueError(f"a parenthesis is not closed in {text[:100]}")
