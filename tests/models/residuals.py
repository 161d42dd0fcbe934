"""What a function's forward pass keeps in memory for its gradient, whatever the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Var


def residual_bytes(function: Callable[..., Any], argument: Any) -> int:
    """Bytes of the arrays that reverse differentiation carries from forward to backward pass.

    The argument itself is not counted, and an array once, though it be cast several times. It is
    what JAX asks for: a compiler may keep less (what is cheap to compute again) or, in the order
    it chooses to compute in, need more at once.

    Args:
        argument: a tree of arrays, or of their shapes, to differentiate by.
    """
    jaxpr = jax.make_jaxpr(lambda a: jax.tree.leaves(jax.vjp(function, a)[1]))(argument).jaxpr
    origin = {
        equation.outvars[0]: (equation.invars[0], equation.params["new_dtype"])
        for equation in jaxpr.eqns
        if equation.primitive.name == "convert_element_type"
    }
    given = {*jaxpr.invars, *jaxpr.constvars}
    kept = {
        origin.get(variable, variable): variable.aval
        for variable in jaxpr.outvars
        if isinstance(variable, Var) and variable not in given
    }
    return sum(aval.size * aval.dtype.itemsize for aval in kept.values())
