"""How far an implementation of attention is from the plain one, gradients and biases included."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxdet.models.attention import attend
from jaxdet.models.position import DecomposedRelativePosition


def disagreement(
    implementation: str,
    relative_position: str,
    *,
    side: int,
    heads: int,
    channels: int,
    sequences: int,
) -> dict[str, float]:
    """Largest difference of bfloat16 attention from float32 attention by XLA, of the same numbers.

    Differences are shares of the largest value of what is compared. Rounding to bfloat16 makes
    about 0.01; a gradient that is missing makes 1.

    Args:
        implementation: see `attend`.
        relative_position: "shared", "decomposed" or "none", see `VitSettings`.
        side: of the square map of tokens that is attended within.
        sequences: batch size; above 1, the gradient of a shared bias is a sum over it.

    Returns:
        The difference of "output" and of the gradient of "query", "key", "value" and the biases:
        "bias", or "height" and "width".
    """
    keys = iter(jax.random.split(jax.random.key(0), 7))

    def draw(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape).astype(jnp.bfloat16).astype(jnp.float32)

    tokens = side**2
    inputs = {name: draw(sequences, tokens, heads, channels) for name in ("query", "key", "value")}
    if relative_position == "shared":
        inputs["bias"] = draw(heads, tokens, tokens)
    elif relative_position == "decomposed":
        inputs |= {name: draw(2 * side - 1, channels) / 4 for name in ("height", "width")}
    weights = draw(sequences, tokens, heads, channels)

    def attention(inputs: dict[str, jax.Array], implementation: str, dtype) -> jax.Array:
        cast = {name: array.astype(dtype) for name, array in inputs.items()}
        position = None
        if relative_position == "decomposed":
            position = DecomposedRelativePosition((side, side), channels)
            position.height[...], position.width[...] = cast["height"], cast["width"]
        q, k, v = (cast[name] for name in ("query", "key", "value"))
        y = attend(q, k, v, cast.get("bias"), position, implementation)
        return y.astype(jnp.float32)

    @jax.jit(static_argnums=(1, 2))
    def values(inputs, implementation, dtype):
        y, backward = jax.vjp(lambda i: attention(i, implementation, dtype), inputs)
        return {"output": y, **backward(weights)[0]}

    plain = values(inputs, "xla", jnp.float32)
    found = values(inputs, implementation, jnp.bfloat16)
    return {
        name: float(abs(found[name] - plain[name]).max() / abs(plain[name]).max()) for name in plain
    }
