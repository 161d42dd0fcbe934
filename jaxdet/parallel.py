"""Devices and processes: the mesh, where arrays live on it, and what processes exchange."""

from __future__ import annotations

import json
import os
import signal
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdet.errors import UserError

BATCH_AXIS = "data"
"""The mesh axis that batches are split over."""

SMALLEST_SPLIT = 2**16
"""Arrays of fewer elements than this have a copy on every device under "fsdp" too."""


def join_processes() -> None:
    """Joins the processes of one run, before anything else touches JAX.

    SLURM, Open MPI and Cloud TPU set each process's rank; elsewhere JAX_COORDINATOR_ADDRESS
    (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID do.

    Raises:
        UserError: the number of processes is unknown, or they do not find each other.
    """
    names = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    try:
        given = {key: int(os.environ[name]) for key, name in names.items() if name in os.environ}
        jax.distributed.initialize(**given)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: the processes could not join ({str(error).splitlines()[0]}); start "
            "them through SLURM or on a TPU pod, or set JAX_COORDINATOR_ADDRESS (host:port of "
            "process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each"
        ) from error


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def data_mesh(batch_size: int, eval_batch_size: int, accumulate: int = 1) -> Mesh:
    """All devices of all processes in one axis, BATCH_AXIS, over which batches are split.

    Args:
        accumulate: microbatches that a training batch is computed in, one after the other.

    Raises:
        UserError: a microbatch cannot be split evenly over the devices.
    """
    devices = jax.devices()
    count = len(devices)
    if batch_size % (count * accumulate):
        raise UserError(
            f"config.batch_size={batch_size} must be a multiple of {count * accumulate}: "
            f"{count} device(s) times config.accumulate={accumulate}"
        )
    if eval_batch_size % count:
        raise UserError(
            f"config.eval_batch_size={eval_batch_size} must be a multiple of {count}, the number "
            "of devices"
        )
    # In the order of their processes, so that a process's rows of a batch follow one another.
    in_order = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(in_order), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def state_sharding(mesh: Mesh, state: Any, kind: str) -> Any:
    """Where each array of a training state lives.

    Args:
        state: arrays or their shapes.
        kind: "replicated", or "fsdp": every large array is split over the devices along its
            longest axis that they divide, and gathered where it is used.

    Returns:
        A tree of shardings like `state`.
    """

    def sharding(leaf) -> NamedSharding:
        axes = [axis for axis, side in enumerate(leaf.shape) if side % mesh.size == 0]
        if kind == "replicated" or not axes or np.prod(leaf.shape) < SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, BATCH_AXIS))

    return jax.tree.map(sharding, state)


def shard_batch(batch: dict[str, Any], mesh: Mesh) -> dict[str, Any]:
    """The global batch, a tree of arrays, on the devices; each process gives its own rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, array), batch
    )


def local_rows(tree: Any) -> Any:
    """This process's rows, on the host, of arrays whose first axis is split over the devices."""

    def rows(array: jax.Array) -> np.ndarray:
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate(jax.device_get([shard.data for shard in shards]))

    return jax.tree.map(rows, tree)


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """All of an array on the host, however it is sharded; every process must ask for it."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def gather(items: list[Any]) -> list[Any]:
    """The lists of all processes joined, in the order of the processes; items are JSON values."""
    if jax.process_count() == 1:
        return items
    content = np.frombuffer(json.dumps(items).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(content.size)).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: content.size] = content
    rows = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
    return [
        item
        for row, size in zip(rows, sizes, strict=True)
        for item in json.loads(row[:size].tobytes())
    ]


class Preemption(AbstractContextManager):
    """Notes a SIGTERM, with which schedulers announce that they will stop a process."""

    def __init__(self):
        self._noted = False
        self._previous: Any = None

    def __enter__(self) -> Preemption:
        # Of several processes, JAX's own service hears it and has them agree on a step.
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True

    def announced(self, step: int) -> bool:
        """Whether to stop after this step; the same answer in every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted
