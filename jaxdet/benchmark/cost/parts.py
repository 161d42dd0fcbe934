"""Which part of the detector an instruction of a compiled program belongs to.

JAX hands every operation's `jax.named_scope`s on to the compiler, which keeps them as the `op_name`
of what it makes of them.
"""

from __future__ import annotations

import re

OTHER = "other"

COLLECTIVES = "collectives"

_SCOPES = {
    "backbone": "backbone rest",
    "pyramid": "pyramid",
    "rpn": "RPN",
    "proposals": "proposals and NMS",
    "matching": "matching and sampling",
    "roi_align": "RoIAlign forward",
    "heads": "heads",
    "optimizer": "optimizer",
}
"""What each scope of the models and of the step is a part of; the outermost of these counts."""

_INNER = "attention"
"""The scope of attention, inside the backbone or a head."""

PARTS = (
    "backbone attention",
    *(part for part in _SCOPES.values() if not part.startswith("RoIAlign")),
    "RoIAlign forward",
    "RoIAlign backward",
    COLLECTIVES,
    OTHER,
)

_SCOPE = re.compile(rf"\b(?:{'|'.join(_SCOPES)})\b")


def part_of(op_name: str) -> str:
    """The part that an `op_name` such as "jit(step)/transpose(jvp(backbone))/add" is of."""
    found = _SCOPE.search(op_name)
    if found is None:
        return OTHER
    if found[0] == "backbone" and re.search(rf"\b{_INNER}\b", op_name[found.end() :]):
        return "backbone attention"
    if found[0] == "roi_align" and "transpose(" in op_name[: found.start()]:
        return "RoIAlign backward"
    return _SCOPES[found[0]]
