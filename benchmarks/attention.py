"""Two forms of decomposed relative position by the plain computation: what each costs.

    python benchmarks/attention.py

Compiles one attention of ViTDet-B at 1024 px with its gradient, in a window's batch and on the
whole map, with the bias added to the products of queries and keys and with the bias as further
channels of both; runs nothing. Writes benchmarks/attention.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.saved_residuals import residual_bytes
from jaxdet.benchmark.cost.compiled_program import cost_of
from jaxdet.models.attention import attend, attend_with_position_channels
from jaxdet.models.position import DecomposedRelativePosition

HEADS, CHANNELS = 12, 64
PLACES = {"25 windows of 14 x 14": (14, 25), "one map of 64 x 64": (64, 1)}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = []
    for place, (side, sequences) in PLACES.items():
        for form, with_channels in (("bias", False), ("channels", True)):
            inputs = shapes(side, sequences)
            loss = partial(total, side, with_channels)
            cost = cost_of(jax.grad(loss), inputs)
            rows.append(
                f"| {place} | {form} | {cost.flops / 1e9:.1f} | "
                f"{residual_bytes(loss, inputs) / 1e9:.3f} | {cost.temporary_bytes / 1e9:.3f} |"
            )
            print(rows[-1], flush=True)
    lines = [
        "# Decomposed relative position: a bias, or channels",
        "",
        f"`python benchmarks/attention.py`: one attention with its gradient, {HEADS} heads of "
        f"{CHANNELS} channels, bfloat16, by `implementation='xla'`, compiled and not run; jax "
        f"{jax.__version__}, {jax.default_backend()}, {os.cpu_count()} cores, "
        f"{platform.machine()}, {time.strftime('%Y-%m-%d')}.",
        "",
        "| where | form | GFLOP | GB kept for the gradient | GB temporary |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        "`config.model.vit.attention=xla` adds the bias, and `cudnn` takes the channels: they "
        "spare its kernel a bias of every pair of tokens and the gradient of that.",
        "",
    ]
    target = Path(__file__).parent / "attention.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines) + f"\nwritten to {target}")


def shapes(side: int, sequences: int) -> dict[str, jax.ShapeDtypeStruct]:
    tokens = jax.ShapeDtypeStruct((sequences, side**2, HEADS, CHANNELS), jnp.bfloat16)
    table = jax.ShapeDtypeStruct((2 * side - 1, CHANNELS), jnp.float32)
    return {"query": tokens, "key": tokens, "value": tokens, "height": table, "width": table}


def total(side: int, with_channels: bool, inputs: dict[str, jax.Array]) -> jax.Array:
    """A number that depends on all of the attention's output."""
    position = DecomposedRelativePosition((side, side), CHANNELS)
    position.height[...], position.width[...] = inputs["height"], inputs["width"]
    q, k, v = (inputs[name] for name in ("query", "key", "value"))
    if with_channels:
        y = attend_with_position_channels(q, k, v, position, "xla")
    else:
        y = attend(q, k, v, None, position, "xla")
    return jnp.square(y.astype(jnp.float32)).sum()


if __name__ == "__main__":
    main()
