"""How functions of images run over a batch: in parallel, on several devices, in microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxdet.parallel import BATCH_AXIS


def is_split() -> bool:
    """Whether what is computed here is one device's part, within `jax.shard_map` over images."""
    return BATCH_AXIS in jax.sharding.get_abstract_mesh().manual_axes


def sum_over_devices(tree: Any) -> Any:
    """The sums over all devices of what each has of its own images, where these are split."""
    return jax.lax.psum(tree, BATCH_AXIS) if is_split() else tree


def per_device(
    function: Callable[..., Any], mesh: Mesh | None, shared: int = 0
) -> Callable[..., Any]:
    """`function`, which treats images independently, by each device on its own images.

    Left to the partitioner, a vectorised `while_loop` synchronises all devices in each of its
    iterations, `lax.top_k` gathers the whole batch on every device, and a kernel of our own cannot
    be split at all.

    Args:
        function: of trees of arrays whose leading axis is images, to such trees.
        mesh: the devices that axis is spread over along BATCH_AXIS; None if it is not.
        shared: how many arguments are the same for all images; they come second.
    """
    if mesh is None or is_split():
        return function
    split = PartitionSpec(BATCH_AXIS)
    specs = (split, *[PartitionSpec()] * shared) if shared else split
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)


def per_image(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """`jax.vmap(function)` without any communication between devices.

    Args:
        function: of arrays of one image.
        mesh: see `per_device`.
    """
    return per_device(jax.vmap(function), mesh)


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
