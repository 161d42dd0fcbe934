"""How functions of single images run over a batch: in parallel, or in microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxdet.parallel import BATCH_AXIS


def per_image(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """`jax.vmap(function)` without any communication between devices.

    Left to the partitioner, a vectorised `while_loop` synchronises all devices in each of its
    iterations, and `lax.top_k` gathers the whole batch on every device.

    Args:
        function: of arrays of one image.
        mesh: the devices the leading axis is spread over along BATCH_AXIS; None if it is not.
    """
    mapped = jax.vmap(function)
    if mesh is None:
        return mapped
    split = PartitionSpec(BATCH_AXIS)
    return jax.shard_map(mapped, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)


def split_microbatches(tree: Any, microbatches: int) -> Any:
    """Arrays [n, ...] as [m, n / m, ...]; microbatch i holds rows i, i + m, ...

    A microbatch of a batch sharded over devices is so itself sharded over all of them.
    """
    return jax.tree.map(
        lambda a: a.reshape(a.shape[0] // microbatches, microbatches, *a.shape[1:]).swapaxes(0, 1),
        tree,
    )


def join_microbatches(tree: Any) -> Any:
    """Undoes `split_microbatches`."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), tree)


def in_microbatches(function: Callable[..., Any], microbatches: int, *arrays: Any) -> Any:
    """`function(*arrays)` for a function that treats images independently, by microbatches in turn.

    Only the inputs and outputs of each are kept for the gradient; the rest is rematerialised.

    Args:
        function: of trees of arrays [n, ...], to such trees.
        microbatches: divides n.
    """
    if microbatches == 1:
        return function(*arrays)
    checkpointed = jax.checkpoint(function)
    return join_microbatches(
        jax.lax.map(lambda part: checkpointed(*part), split_microbatches(arrays, microbatches))
    )


def in_chunks(function: Callable[..., Any], chunks: int, *arrays: Any) -> Any:
    """`function(*arrays)` for a function that treats the entries of each image independently, by
    chunks of them in turn.

    As with `in_microbatches`, all between a chunk's inputs and outputs is rematerialised.

    Args:
        function: of trees of arrays [n, entries, ...], to such trees.
        chunks: number of chunks of the second axis; where it does not divide the axis, the last one
            is zero-padded.
    """
    if chunks == 1:
        return function(*arrays)
    entries = jax.tree.leaves(arrays)[0].shape[1]
    missing = -entries % chunks

    def split(a: jax.Array) -> jax.Array:
        a = jnp.pad(a, ((0, 0), (0, missing), *((0, 0),) * (a.ndim - 2)))
        return a.reshape(a.shape[0], chunks, -1, *a.shape[2:]).swapaxes(0, 1)

    def join(a: jax.Array) -> jax.Array:
        a = a.swapaxes(0, 1)
        return a.reshape(a.shape[0], -1, *a.shape[3:])[:, :entries]

    checkpointed = jax.checkpoint(function)
    mapped = jax.lax.map(lambda chunk: checkpointed(*chunk), jax.tree.map(split, arrays))
    return jax.tree.map(join, mapped)
