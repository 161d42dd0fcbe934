"""Bytes that a compiled program's instructions move between a device's memory and its processor.

An instruction reads its operands and writes its result; what is inside a fusion stays on the chip.
Less is touched where only a part is wanted: of an array that is sliced, gathered from, or updated
in place, the part. What the compiler keeps on the chip (a TPU's VMEM) is free.
"""

from __future__ import annotations

from jaxdet.benchmark.cost.hlo import Computation, Instruction, Program, Shape, elements, shapes_of

FREE = frozenset(
    (
        "add-dependency",
        "after-all",
        "bitcast",
        "constant",
        "domain",
        "get-tuple-element",
        "opt-barrier",
        "parameter",
        "partition-id",
        "replica-id",
        "tuple",
    )
)
"""Instructions that move nothing."""

_LOOKED_THROUGH = frozenset(("bitcast", "reshape", "convert", "copy", "get-tuple-element"))
"""Inside a fusion, what passes an array on from one instruction to the next."""

_PARTS_READ = frozenset(("dynamic-slice", "slice", "gather"))
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
"""Updates in place, and which operand holds what is new (of a scatter with one operand)."""


def bytes_of(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Bytes that an instruction reads and writes."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in FREE or instruction.opcode.endswith(("-done", "-update")):
        return 0
    inputs = [computation[name] for name in instruction.operands]
    if opcode in ("fusion", "async") and "calls" in instruction.called:
        return _of_fusion(instruction, inputs, program)
    if opcode in _PARTS_READ:
        wanted, rest = _total(_result(instruction)), (s for one in inputs[1:] for s in one.results)
        return 2 * wanted + _total(rest)
    if opcode in _UPDATES:
        return 2 * _new_bytes(instruction, computation) + _indices(instruction, computation)
    return _total(one for i in inputs for one in i.results) + _total(_result(instruction))


def _of_fusion(fusion: Instruction, inputs: list[Instruction], program: Program) -> int:
    inner = program.computations[fusion.called["calls"][0]]
    touched = 0
    for parameter, given in zip(inner.parameters, inputs, strict=True):
        touched += min(_read(parameter, inner, program), _total(given.results))
    root, results = inner[inner.root], _result(fusion)
    if root.opcode != "tuple" or len(root.operands) != len(results):
        return touched + min(_written(root, inner, program), _total(results))
    for name, result in zip(root.operands, results, strict=True):
        touched += min(_written(inner[name], inner, program), _total([result]))
    return touched


def _read(array: Instruction, computation: Computation, program: Program) -> int:
    """Bytes that are read of an array inside a fusion."""
    total = 0
    for user in computation.users[array.name]:
        first = user.operands[0] == array.name
        if first and user.opcode in _PARTS_READ:
            total += _total(user.results)
        elif first and user.opcode in _UPDATES and array.name not in user.operands[1:]:
            # A scatter adds to what is there; a slice only takes its place.
            total += _new_bytes(user, computation) if user.opcode == "scatter" else 0
        elif user.opcode in _LOOKED_THROUGH:
            total += _read(user, computation, program)
        elif user.opcode == "fusion":
            inner = program.computations[user.called["calls"][0]]
            for parameter, name in zip(inner.parameters, user.operands, strict=True):
                if name == array.name:
                    total += _read(parameter, inner, program)
        elif user.opcode != "tuple":
            return _total(array.results)
    return min(total, _total(array.results))


def _written(root: Instruction, computation: Computation, program: Program) -> int:
    """Bytes that a fusion with this root writes."""
    if root.opcode == "bitcast" and root.operands:
        source = computation.operand(root, 0)
        if source.opcode in _UPDATES or source.opcode == "bitcast":
            return _written(source, computation, program)
    if root.opcode in _UPDATES:
        return _new_bytes(root, computation)
    if root.opcode == "fusion":
        inner = program.computations[root.called["calls"][0]]
        return _written(inner[inner.root], inner, program)
    return _total(root.results)


def _new_bytes(update: Instruction, computation: Computation) -> int:
    """Bytes that a dynamic-update-slice or a scatter puts in its first operands' place."""
    if update.opcode == "scatter":
        arrays = len(update.operands) // 2  # arrays, indices, what is new for each array
        return _total(s for name in update.operands[-arrays:] for s in computation[name].results)
    return _total(computation.operand(update, _UPDATES[update.opcode]).results)


def _indices(update: Instruction, computation: Computation) -> int:
    """Bytes that say where an update goes; a scatter also reads what it adds to."""
    if update.opcode == "scatter":
        indices = _total(computation.operand(update, len(update.operands) // 2).results)
        return indices + _new_bytes(update, computation)
    return 0


def _result(instruction: Instruction) -> tuple[Shape, ...]:
    """What an instruction writes; of one in two halves, without what the first passes on."""
    if instruction.target.startswith(("__cublas", "__cudnn")):  # room to work in comes last
        return tuple(one for one in instruction.results if one.dtype not in ("s8", "u8"))
    if not instruction.opcode.endswith("-start") or not instruction.shape.startswith("("):
        return instruction.results
    parts = elements(instruction.shape)
    if instruction.opcode == "copy-start":
        return shapes_of(parts[0])
    return shapes_of(parts[1]) if len(parts) > 1 else instruction.results


def _total(shapes) -> int:
    return sum(shape.bytes for shape in shapes if not shape.on_chip)
