"""How what concerns single images runs over a batch: side by side, or in microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxdet.parallel import BATCH_AXIS


def per_image(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """`jax.vmap(function)`, in which no device waits for another.

    Left to the partitioner, a vectorised `while_loop` asks all devices in each of its rounds
    whether one of them goes on, and `lax.top_k` collects the whole batch on every device.

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

    So that a microbatch of a batch spread over devices is spread over all of them.
    """
    return jax.tree.map(
        lambda a: a.reshape(a.shape[0] // microbatches, microbatches, *a.shape[1:]).swapaxes(0, 1),
        tree,
    )


def join_microbatches(tree: Any) -> Any:
    """Undoes `split_microbatches`."""
    return jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1, *a.shape[2:]), tree)


def in_microbatches(function: Callable[..., Any], microbatches: int, *arrays: Any) -> Any:
    """`function(*arrays)` for a function that treats images apart, one microbatch after the other.

    Of each only what goes in and comes out is kept for the gradient; the rest is computed again.

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
    """`function(*arrays)` for a function that treats the entries of each image apart, one chunk of
    them after the other.

    As with `in_microbatches`, what lies between a chunk's inputs and outputs is computed again for
    the gradient.

    Args:
        function: of trees of arrays [n, entries, ...], to such trees.
        chunks: into how many the second axis is cut; where they do not divide it, zeros fill up the
            last one.
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
