"""Softmax attention on TPUs that never holds the weights of all pairs of tokens in memory.

The computation by blocks is FlashAttention's (arXiv 2205.14135). The kernels of JAX's own Pallas
library want a bias for every sequence, and give its gradient back for each; here all sequences
share one, which is read once a block, and its gradient is added up over them inside the kernel.

Everything is held channels first and keys by queries, so that what there is one of a query
(maximum, sum, correction) lies along the lanes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

BLOCKS = (512, 384, 256, 128)
"""Sides of a block of keys by queries, multiples of a TPU's 128 lanes."""

MOST_IN_SCRATCH = 4096
"""Sequences times tokens of a block that are accumulated at a time."""


class Sizes(NamedTuple):
    """What the kernels are compiled for.

    Attributes:
        sequences, heads, tokens: of the arrays; tokens with their padding.
        block: see BLOCKS.
        used: tokens without padding.
        scale: factor on the product of queries and keys.
        interpret: whether the kernels are simulated, for tests on a CPU.
    """

    sequences: int
    heads: int
    tokens: int
    block: int
    used: int
    scale: float
    interpret: bool

    @property
    def blocks(self) -> int:
        return self.tokens // self.block


def fused_attention(
    query: Float[Array, "n tokens heads channels"],
    key: Float[Array, "n tokens heads channels"],
    value: Float[Array, "n tokens heads values"],
    bias: Float[Array, "heads tokens tokens"] | None,
    *,
    scale: float,
    interpret: bool = False,
) -> Float[Array, "n tokens heads values"]:
    """softmax(scale query key + bias) value, per head; differentiable by all arrays.

    Args:
        bias: of each (query, key) pair, the same for all sequences.
        interpret: simulates the kernels, on any device.
    """
    n, tokens, heads, _ = query.shape
    block = block_side(tokens, n)
    missing = -tokens % block
    sizes = Sizes(n, heads, tokens + missing, block, tokens, scale, interpret)

    def channels_first(x: Array) -> Array:
        return jnp.pad(x.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (0, missing)))

    if bias is not None:
        bias = jnp.pad(bias.swapaxes(1, 2), ((0, 0), (0, missing), (0, missing)))
    y = _attention(sizes, *map(channels_first, (query, key, value)), bias)
    return y[..., :tokens].transpose(0, 3, 1, 2)


def block_side(tokens: int, sequences: int) -> int:
    """The largest of BLOCKS that pads little and, if any does, leaves room for all sequences."""
    smallest = BLOCKS[-1]
    most = 1.1 * (tokens + -tokens % smallest)
    fits = [side for side in BLOCKS if side * sequences <= MOST_IN_SCRATCH]
    return next((side for side in fits if tokens + -tokens % side <= most), smallest)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(sizes: Sizes, query: Array, key: Array, value: Array, bias: Array | None) -> Array:
    return _forward(sizes, query, key, value, bias)[0]


def _forward(
    sizes: Sizes, query: Array, key: Array, value: Array, bias: Array | None
) -> tuple[Array, tuple[Array | None, ...]]:
    """The outputs [n, heads, values, tokens], and what the gradient needs."""
    inputs = _Inputs(query, key, value, bias)
    values = value.shape[2]
    rows = jax.ShapeDtypeStruct((sizes.sequences, sizes.heads, 1, sizes.tokens), jnp.float32)
    y, normaliser = _call(
        _forward_kernel,
        sizes,
        inputs,
        key_axis=2,
        outputs=[(jax.ShapeDtypeStruct(value.shape, value.dtype), "query"), (rows, "query")],
        scratch=[values, 1, 1],
    )
    return y, (query, key, value, bias, y, normaliser)


def _backward(
    sizes: Sizes, kept: tuple[Array | None, ...], dy: Array
) -> tuple[Array, Array, Array, Array | None]:
    query, key, value, bias, y, normaliser = kept
    mean = jnp.sum(dy.astype(jnp.float32) * y.astype(jnp.float32), axis=2, keepdims=True)
    inputs = _Inputs(query, key, value, bias, dy, normaliser, mean)
    like = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs if x is not None]
    outputs = [(like[0], "query")] + ([(like[3], "pair")] if bias is not None else [])
    dquery, *dbias = _call(
        _query_kernel, sizes, inputs, key_axis=2, outputs=outputs, scratch=[query.shape[2]]
    )
    dkey, dvalue = _call(
        _key_kernel,
        sizes,
        inputs,
        key_axis=1,
        outputs=[(like[1], "key"), (like[2], "key")],
        scratch=[key.shape[2], value.shape[2]],
    )
    return dquery, dkey, dvalue, dbias[0] if dbias else None


_attention.defvjp(_forward, _backward)


class _Inputs(NamedTuple):
    """Arrays [n, heads, channels, tokens] (the bias [heads, keys, queries]), or their blocks."""

    query: Array
    key: Array
    value: Array
    bias: Array | None
    dy: Array | None = None
    normaliser: Array | None = None
    mean: Array | None = None


_KINDS = _Inputs("query", "key", "key", "pair", "query", "query", "query")
"""Which of the two blocks each array's block belongs to."""


def _call(
    kernel: Callable[..., None],
    sizes: Sizes,
    inputs: _Inputs,
    *,
    key_axis: int,
    outputs: Sequence[tuple[jax.ShapeDtypeStruct, str]],
    scratch: Sequence[int],
) -> Sequence[Array]:
    """Runs a kernel for every head, block of queries, block of keys and sequence.

    Sequences come innermost, so that all of them use a block of the bias while it is there.

    Args:
        kernel: called with `sizes`, the blocks of `_Inputs`, those of the outputs, and the scratch.
        key_axis: place of the keys' blocks in the grid: 2, within the queries', or 1.
        outputs: shapes, and what their blocks belong to; those of the outer blocks are written
            once, behind the last inner one.
        scratch: channels of each float32 accumulator, which has a block for every sequence.
    """
    last, side = sizes.blocks - 1, sizes.block

    def spec(shape: tuple[int, ...], kind: str, is_output: bool) -> pl.BlockSpec:
        def index(head, outer, inner, sequence):
            blocks = {"key": outer, "query": inner} if key_axis == 1 else {"query": outer}
            blocks = {"key": inner} | blocks
            if kind == "pair":
                return head, blocks["key"], blocks["query"]
            if is_output:  # stays where it is until its sequence's block is complete
                sequence = jnp.where(inner == last, sequence, 0)
            return sequence, head, 0, blocks[kind]

        return pl.BlockSpec((1, side, side) if kind == "pair" else (1, 1, shape[2], side), index)

    used = [(x, kind) for x, kind in zip(inputs, _KINDS, strict=True) if x is not None]
    scratch_shapes = [pltpu.VMEM((sizes.sequences, c, side), jnp.float32) for c in scratch]
    if any(kind == "pair" for _, kind in outputs):
        scratch_shapes.append(pltpu.VMEM((side, side), jnp.float32))

    def run(*refs):
        blocks = iter(refs[: len(used)])
        kernel(
            sizes, _Inputs(*(x if x is None else next(blocks) for x in inputs)), *refs[len(used) :]
        )

    return pl.pallas_call(
        run,
        grid=(sizes.heads, sizes.blocks, sizes.blocks, sizes.sequences),
        in_specs=[spec(x.shape, kind, False) for x, kind in used],
        out_specs=[spec(shape.shape, kind, True) for shape, kind in outputs],
        out_shape=[shape for shape, _ in outputs],
        scratch_shapes=scratch_shapes,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=_cost(sizes, inputs, outputs),
        interpret=sizes.interpret,
    )(*(x for x, _ in used))


def _forward_kernel(sizes: Sizes, at: _Inputs, y, normaliser, sums, maxima, totals) -> None:
    """Outputs by a softmax that is corrected whenever a block has a greater maximum."""
    inner, i = pl.program_id(2), pl.program_id(3)

    @pl.when(inner == 0)
    def _():
        sums[i] = jnp.zeros(sums.shape[1:], jnp.float32)
        maxima[i] = jnp.full(maxima.shape[1:], -jnp.inf, jnp.float32)
        totals[i] = jnp.zeros(totals.shape[1:], jnp.float32)

    logits = _logits(sizes, at, inner)
    before = maxima[i]
    maximum = jnp.maximum(before, logits.max(0, keepdims=True))
    weights, correction = jnp.exp(logits - maximum), jnp.exp(before - maximum)
    value = at.value[0, 0]
    sums[i] = correction * sums[i] + _product(value, weights.astype(value.dtype), 1, 0)
    totals[i] = correction * totals[i] + weights.sum(0, keepdims=True)
    maxima[i] = maximum

    @pl.when(inner == sizes.blocks - 1)
    def _():
        y[0, 0] = (sums[i] / totals[i]).astype(y.dtype)
        normaliser[0, 0] = maxima[i] + jnp.log(totals[i])


def _query_kernel(sizes: Sizes, at: _Inputs, dquery, *rest) -> None:
    """Gradients of the queries and, of its blocks added up over sequences, of the bias."""
    dbias, sums, bias_sums = rest if len(rest) == 3 else (None, *rest, None)
    inner, i = pl.program_id(2), pl.program_id(3)
    _, dlogits = _gradients(sizes, at, inner)
    key = at.key[0, 0]
    _accumulate(sums, i, inner == 0, _product(key, dlogits.astype(key.dtype), 1, 0))

    @pl.when(inner == sizes.blocks - 1)
    def _():
        dquery[0, 0] = (sizes.scale * sums[i]).astype(dquery.dtype)

    if dbias is not None:
        _accumulate(bias_sums, ..., i == 0, dlogits)

        @pl.when(i == sizes.sequences - 1)
        def _():
            dbias[0] = bias_sums[...].astype(dbias.dtype)


def _key_kernel(sizes: Sizes, at: _Inputs, dkey, dvalue, key_sums, value_sums) -> None:
    """Gradients of the keys and of the values."""
    outer, inner, i = pl.program_id(1), pl.program_id(2), pl.program_id(3)
    weights, dlogits = _gradients(sizes, at, outer)
    query, dy = at.query[0, 0], at.dy[0, 0]
    _accumulate(key_sums, i, inner == 0, _product(query, dlogits.astype(query.dtype), 1, 1))
    _accumulate(value_sums, i, inner == 0, _product(dy, weights.astype(dy.dtype), 1, 1))

    @pl.when(inner == sizes.blocks - 1)
    def _():
        dkey[0, 0] = (sizes.scale * key_sums[i]).astype(dkey.dtype)
        dvalue[0, 0] = value_sums[i].astype(dvalue.dtype)


def _gradients(sizes: Sizes, at: _Inputs, key_block: Array) -> tuple[Array, Array]:
    """The weights of a block of keys by queries again, and the gradients of its logits."""
    weights = jnp.exp(_logits(sizes, at, key_block) - at.normaliser[0, 0])
    dweights = _product(at.value[0, 0], at.dy[0, 0], 0, 0)
    return weights, weights * (dweights - at.mean[0, 0])


def _logits(sizes: Sizes, at: _Inputs, key_block: Array) -> Array:
    """float32 [keys, queries]; minus infinity for keys that are padding."""
    logits = sizes.scale * _product(at.key[0, 0], at.query[0, 0], 0, 0)
    if at.bias is not None:
        logits += at.bias[0].astype(jnp.float32)
    if sizes.used == sizes.tokens:
        return logits
    position = key_block * sizes.block + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
    return jnp.where(position < sizes.used, logits, -jnp.inf)


def _product(one: Array, two: Array, axis: int, other_axis: int) -> Array:
    """The float32 product of two matrices over an axis of each."""
    dimensions = (((axis,), (other_axis,)), ((), ()))
    return jax.lax.dot_general(one, two, dimensions, preferred_element_type=jnp.float32)


def _accumulate(sums, index, is_first: Array, x: Array) -> None:
    @pl.when(is_first)
    def _():
        sums[index] = x

    @pl.when(jnp.logical_not(is_first))
    def _():
        sums[index] += x


def _cost(
    sizes: Sizes, inputs: _Inputs, outputs: Sequence[tuple[jax.ShapeDtypeStruct, str]]
) -> pl.CostEstimate:
    """What XLA is told of a kernel, so that it can schedule around it."""
    pairs = sizes.sequences * sizes.heads * sizes.tokens**2
    channels = inputs.query.shape[2] + inputs.value.shape[2]
    if inputs.dy is not None:  # the logits and the weights' gradient, then one or two products
        channels += sum(shape.shape[2] for shape, kind in outputs if kind != "pair")
    read = sum(
        (1 if kind == "pair" else sizes.blocks) * x.nbytes
        for x, kind in zip(inputs, _KINDS, strict=True)
        if x is not None
    )
    written = sum(math.prod(shape.shape) * shape.dtype.itemsize for shape, _ in outputs)
    return pl.CostEstimate(
        flops=2 * pairs * channels, transcendentals=pairs, bytes_accessed=read + written
    )
