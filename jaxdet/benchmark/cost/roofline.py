"""The least time that a compiled program can take on a device, by part of the detector.

Each instruction takes at least its FLOPs at the device's peak rate and its bytes at the memory's;
loops run as often as they are known to. A bound: kernels reach neither rate, and starting one costs
time that is not counted.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxdet.benchmark.cost.devices import Accelerator
from jaxdet.benchmark.cost.hlo import Computation, Instruction, Program, elements, shapes_of
from jaxdet.benchmark.cost.parts import COLLECTIVES, OTHER, PARTS, part_of
from jaxdet.benchmark.cost.products import flops_of
from jaxdet.benchmark.cost.traffic import FREE, bytes_of

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
"""Of collectives."""


class Collective(NamedTuple):
    """A message between devices: its kind and the type of its numbers."""

    kind: str
    dtype: str


@dataclass
class Share:
    """What a part of the program, or all of it, takes of one device.

    Attributes:
        flops: of products.
        bytes: moved to and from the device's memory.
        launches: kernels started.
        seconds: the bound.
    """

    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 0
    seconds: float = 0.0


@dataclass
class Roofline:
    """A program's bound.

    Attributes:
        parts: see `jaxdet.benchmark.cost.parts`.
        collectives: how often and how many bytes, of the whole array of a device, by kind and type.
        unknown_loops: loops whose number of rounds depends on the data; counted once.
        unknown_kernels: how often kernels run whose FLOPs are not known; counted as 0.
        longest: what takes longest: seconds, name, op_name; a loop's rounds together.
    """

    parts: dict[str, Share] = field(default_factory=lambda: {part: Share() for part in PARTS})
    collectives: dict[Collective, tuple[int, int]] = field(default_factory=dict)
    unknown_loops: int = 0
    unknown_kernels: Counter[str] = field(default_factory=Counter)
    longest: list[tuple[float, str, str]] = field(default_factory=list)

    @property
    def total(self) -> Share:
        """All parts together."""
        shares = self.parts.values()
        return Share(
            sum(one.flops for one in shares),
            sum(one.bytes for one in shares),
            sum(one.launches for one in shares),
            sum(one.seconds for one in shares),
        )


class _Visit(NamedTuple):
    """An instruction that the program runs, and how often."""

    instruction: Instruction
    computation: Computation
    times: int


def roofline(program: Program, device: Accelerator, devices: int) -> Roofline:
    """The bound of a program on one of the devices that share it.

    Args:
        devices: how many take part in a collective.
    """
    found = Roofline()
    for instruction, computation, times in _visits(program, program.entry, 1, found):
        flops = flops_of(instruction, computation, program)
        if flops is None:
            found.unknown_kernels[instruction.target] += times
            flops = 0
        touched = bytes_of(instruction, computation, program)
        seconds = max(flops / device.peak_flops, touched / device.bandwidth)
        part = _part(instruction, computation, program)
        for collective, size in _collectives(instruction, computation, program):
            part = COLLECTIVES
            count, total = found.collectives.get(collective, (0, 0))
            found.collectives[collective] = (count + times, total + times * size)
            crossings = 2 if collective.kind == "all-reduce" else 1
            seconds += crossings * size * (devices - 1) / devices / device.link
        share = found.parts[part]
        share.flops += times * flops
        share.bytes += times * touched
        share.seconds += times * seconds
        share.launches += times
        found.longest.append((times * seconds, instruction.name, instruction.op_name))
    found.longest = sorted(found.longest, reverse=True)[:30]
    return found


def parts_of(program: Program) -> dict[str, str]:
    """The part of the detector that each instruction of a program belongs to, by its name."""
    return {
        one.name: _part(one, computation, program)
        for computation in program.computations.values()
        for one in computation
    }


def trip_count(loop: Instruction, program: Program) -> int | None:
    """How often a loop runs, if it is known: as the compiler noted, or as its condition says."""
    noted = loop.backend_config.get("known_trip_count", {}).get("n")
    if noted is not None:
        return int(noted)
    condition = program.computations[loop.called["condition"][0]]
    everything = [*condition]
    for one in condition:
        if one.opcode == "fusion":
            everything += program.computations[one.called["calls"][0]]
    compared = [one for one in everything if one.opcode == "compare"]
    limits = [
        int(one.arguments)
        for one in everything
        if one.opcode == "constant" and re.fullmatch(r"\d+", one.arguments)
    ]
    if len(compared) == 1 and len(limits) == 1 and "direction=LT" in compared[0].text:
        return limits[0]
    return None


def _visits(
    program: Program, computation: Computation, times: int, found: Roofline
) -> Iterator[_Visit]:
    """Every instruction that does something, through loops, branches and calls.

    The condition of a loop whose length the compiler noted is not computed.
    """
    for one in computation:
        if one.opcode == "while":
            trips = trip_count(one, program)
            found.unknown_loops += trips is None
            names = [*one.called["body"]]
            if "known_trip_count" not in one.backend_config:
                names += one.called["condition"]
            for name in names:
                rounds = times * (1 if trips is None else trips)
                yield from _visits(program, program.computations[name], rounds, found)
        elif one.opcode == "conditional":
            yield from _visits(program, _longest_branch(one, program), times, found)
        elif one.opcode == "call":
            for name in one.called["to_apply"]:
                yield from _visits(program, program.computations[name], times, found)
        elif one.opcode == "async-start":
            for name in one.called["calls"]:
                yield from _visits(program, program.computations[name], times, found)
        elif one.opcode not in FREE and not one.opcode.endswith(("-done", "-update")):
            yield _Visit(one, computation, times)


def _longest_branch(conditional: Instruction, program: Program) -> Computation:
    """The branch that moves most bytes: a bound must hold for the one that is taken at worst."""
    names = [name for several in conditional.called.values() for name in several]

    def moved(name: str) -> int:
        branch = program.computations[name]
        return sum(bytes_of(one, branch, program) for one in branch)

    return program.computations[max(names, key=moved)]


def _collectives(
    instruction: Instruction, computation: Computation, program: Program
) -> Iterator[tuple[Collective, int]]:
    """The messages of an instruction and of what is fused into it, with their bytes."""
    if instruction.opcode == "fusion":
        inner = program.computations[instruction.called["calls"][0]]
        for one in inner:
            yield from _collectives(one, inner, program)
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return
    given = [shape for name in instruction.operands for shape in computation[name].results]
    if kind == "all-gather":
        parts = elements(instruction.shape)
        started = instruction.opcode.endswith("-start")
        given = list(shapes_of(parts[1]) if started else instruction.results)
    sizes: dict[str, int] = defaultdict(int)
    for shape in given:
        sizes[shape.dtype] += shape.bytes
    for dtype, size in sizes.items():
        yield Collective(kind, dtype), size


def _part(instruction: Instruction, computation: Computation, program: Program) -> str:
    """By the names of the instruction, else of most that is fused into it, else of its users."""
    if instruction.op_name:
        return part_of(instruction.op_name)
    votes: Counter[str] = Counter()
    if instruction.opcode == "fusion":
        inner = program.computations[instruction.called["calls"][0]]
        votes.update(part_of(one.op_name) for one in inner if one.op_name)
    if not votes:
        around = [*computation.users[instruction.name]]
        around += [computation[name] for name in instruction.operands]
        votes.update(part_of(one.op_name) for one in around if one.op_name)
    return votes.most_common(1)[0][0] if votes else OTHER
