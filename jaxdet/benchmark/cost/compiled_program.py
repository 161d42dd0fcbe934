"""What XLA says a function costs, loops counted as often as they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun


class XlaCost(NamedTuple):
    """XLA's own counts of a compiled function on the default backend.

    Attributes:
        flops: floating-point operations; two for a multiply-add.
        temporary_bytes: most memory in use beside arguments and results.
    """

    flops: float
    temporary_bytes: int


def xla_cost(compiled: jax.stages.Compiled, jaxpr: ClosedJaxpr, devices: int = 1) -> XlaCost:
    """The cost of a compiled function, to one of the devices that share its work.

    XLA counts the body of a loop once; `lax.scan` and `lax.fori_loop` are counted here by their
    length. Loops whose length depends on the data (NMS on accelerators) stay counted once.

    Args:
        compiled: from `jax.jit(function).lower(...).compile()`.
        jaxpr: from `jax.make_jaxpr(function)(...)`.
        devices: how many share the work. A loop's rounds are counted as shared evenly, unless it
            is inside `jax.shard_map`, where it is one device's already; of a loop around
            `jax.shard_map`, what is inside that is counted `devices` times too low.
    """
    return XlaCost(
        flops=compiled.cost_analysis()["flops"] + _uncounted_flops(jaxpr, devices),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
    )


def _uncounted_flops(jaxpr: ClosedJaxpr, devices: int) -> float:
    """One device's FLOPs of all rounds of all scans but each one's first."""
    flops = 0.0
    for equation in jaxpr.jaxpr.eqns:
        sharing = 1 if equation.primitive.name == "shard_map" else devices
        for body in _inner(_chosen(equation.params)):
            uncounted = _uncounted_flops(body, sharing)
            if equation.primitive.name == "scan":
                length = equation.params["length"]
                flops += length * uncounted + (length - 1) * _flops_of_body(body) / sharing
            else:
                flops += uncounted
    return flops


def _chosen(parameters: dict[str, Any]) -> dict[str, Any]:
    """Of an equation whose branches are for one platform each, the branch of the one at hand."""
    platforms = parameters.get("branches_platforms")
    if platforms is None:
        return parameters
    ours = jax.default_backend()
    own = [of is not None and ours in of for of in platforms]
    index = own.index(True) if any(own) else platforms.index(None)
    return {"branches": parameters["branches"][index]}


def _inner(parameters: dict[str, Any]) -> Iterator[ClosedJaxpr]:
    for value in parameters.values():
        for candidate in value if isinstance(value, tuple | list) else (value,):
            if isinstance(candidate, ClosedJaxpr):
                yield candidate
            elif hasattr(candidate, "eqns"):
                yield ClosedJaxpr(candidate, ())


def _flops_of_body(body: ClosedJaxpr) -> float:
    arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in body.jaxpr.invars]
    analysis = jax.jit(jaxpr_as_fun(body)).lower(*arguments).cost_analysis()
    return analysis.get("flops", 0.0)
