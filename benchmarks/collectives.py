"""The messages between devices that a compiled program sends."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

COLLECTIVE = re.compile(
    r"= (?P<shapes>.+?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute|collective-broadcast|ragged-all-to-all)(-start)?\("
)
ARRAY = re.compile(r"\b(?P<dtype>pred|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\]")


class Collectives(NamedTuple):
    """How many operations of a kind a program has, and the bytes that come out of them a device."""

    count: int
    bytes: int


def collectives(compiled_text: str) -> dict[str, Collectives]:
    """The collective operations of a program by kind; one in a loop counts once.

    Of an operation in two halves, the bytes of its first half count, which on some backends name
    what goes in as well.

    Args:
        compiled_text: `compiled.as_text()`.
    """
    found: dict[str, Collectives] = {}
    for match in COLLECTIVE.finditer(compiled_text):
        size = sum(
            bytes_of(array["dtype"]) * math.prod(map(int, filter(None, array["shape"].split(","))))
            for array in ARRAY.finditer(match["shapes"])
        )
        count, total = found.get(match["kind"], (0, 0))
        found[match["kind"]] = Collectives(count + 1, total + size)
    return found


def bytes_of(dtype: str) -> int:
    """Bytes of one element of an HLO type such as "f32", "bf16" or "pred"."""
    if dtype == "pred":
        return 1
    return max(1, int(re.search(r"\d+", dtype)[0]) // 8)
