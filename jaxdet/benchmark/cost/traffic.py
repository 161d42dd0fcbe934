"""Bytes that a compiled program's instructions move between a device's memory and its processor.

An instruction reads its operands and writes its result; what is inside a fusion stays on the chip.
Less is touched where only a part is wanted: of an array that is sliced, gathered from, or updated
in place, the part. What the compiler keeps on the chip (a TPU's VMEM) is free.
"""

from __future__ import annotations

from collections.abc import Iterable

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
_UPDATES = frozenset(("dynamic-update-slice", "scatter"))
_WORKSPACE = ("s8", "u8")


def bytes_of(instruction: Instruction, computation: Computation, program: Program) -> int:
    """Bytes that an instruction reads and writes."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in FREE or instruction.opcode.endswith(("-done", "-update")):
        return 0
    inputs = [computation[name] for name in instruction.operands]
    if opcode == "fusion":
        return _of_fusion(instruction, inputs, program)
    written = _in_memory(_result(instruction))
    if opcode in _PARTS_READ:
        read = min(_size(_result(instruction)), _in_memory(inputs[0].results))
        return read + _all_in_memory(inputs[1:]) + written
    if opcode in _UPDATES:
        new = _new_bytes(instruction, computation)
        # A scatter adds to what is there; a slice only takes its place.
        touched = 2 * new if opcode == "scatter" else new
        return min(touched, written) + _all_in_memory(inputs[_arrays(instruction) :])
    return _all_in_memory(inputs) + written


def _of_fusion(fusion: Instruction, inputs: list[Instruction], program: Program) -> int:
    inner = program.computations[fusion.called["calls"][0]]
    touched = 0
    for parameter, given in zip(inner.parameters, inputs, strict=True):
        touched += min(_read(parameter, inner, program), _in_memory(given.results))
    root, results = inner[inner.root], _result(fusion)
    if root.opcode != "tuple" or len(root.operands) != len(results):
        return touched + min(_written(root, inner, program), _in_memory(results))
    for name, result in zip(root.operands, results, strict=True):
        touched += min(_written(inner[name], inner, program), _in_memory([result]))
    return touched


def _read(array: Instruction, computation: Computation, program: Program) -> int:
    """Bytes that are read of an array inside a fusion."""
    total, everything = 0, _size(array.results)
    for user in computation.users[array.name]:
        first = user.operands[0] == array.name
        if first and user.opcode in _PARTS_READ:
            total += _size(user.results)
        elif first and user.opcode in _UPDATES and array.name not in user.operands[1:]:
            total += _new_bytes(user, computation) if user.opcode == "scatter" else 0
        elif user.opcode in _LOOKED_THROUGH:
            total += _read(user, computation, program)
        elif user.opcode == "fusion":
            inner = program.computations[user.called["calls"][0]]
            for parameter, name in zip(inner.parameters, user.operands, strict=True):
                if name == array.name:
                    total += _read(parameter, inner, program)
        elif user.opcode != "tuple":
            return everything
    return min(total, everything)


def _written(root: Instruction, computation: Computation, program: Program) -> int:
    """Bytes that a fusion writes for one of its results."""
    if root.opcode in _UPDATES:
        return _new_bytes(root, computation)
    if root.opcode == "fusion":
        inner = program.computations[root.called["calls"][0]]
        return _written(inner[inner.root], inner, program)
    if root.opcode == "bitcast":
        source = computation.operand(root, 0)
        if source.opcode in (*_UPDATES, "bitcast"):
            return _written(source, computation, program)
    return _size(root.results)


def _arrays(update: Instruction) -> int:
    """How many arrays a dynamic-update-slice or a scatter changes: its first operands."""
    return len(update.operands) // 2 if update.opcode.startswith("scatter") else 1


def _new_bytes(update: Instruction, computation: Computation) -> int:
    """Bytes of what a dynamic-update-slice or a scatter puts in its arrays' place."""
    count = _arrays(update)
    if update.opcode.startswith("scatter"):  # arrays, indices, what is new for each array
        new = update.operands[count + 1 :]
    else:
        new = update.operands[1:2]
    return _size(shape for name in new for shape in computation[name].results)


def _result(instruction: Instruction) -> tuple[Shape, ...]:
    """What an instruction writes; of one in two halves, without what the first passes on."""
    if instruction.target.startswith(("__cublas", "__cudnn")):
        return tuple(one for one in instruction.results if one.dtype not in _WORKSPACE)
    if not instruction.opcode.endswith("-start") or not instruction.shape.startswith("("):
        return instruction.results
    parts = elements(instruction.shape)
    if instruction.opcode == "copy-start":
        return shapes_of(parts[0])
    return shapes_of(parts[1]) if len(parts) > 1 else instruction.results


def _size(shapes: Iterable[Shape]) -> int:
    return sum(shape.bytes for shape in shapes)


def _in_memory(shapes: Iterable[Shape]) -> int:
    """Bytes of those that are not kept on the chip."""
    return sum(shape.bytes for shape in shapes if not shape.on_chip)


def _all_in_memory(instructions: list[Instruction]) -> int:
    return sum(_in_memory(one.results) for one in instructions)
