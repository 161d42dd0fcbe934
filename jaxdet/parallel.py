"""Where arrays live: the device mesh and the two placements training needs."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdet.errors import UserError
from jaxdet.models.batching import BATCH_AXIS


def data_mesh(batch_size: int, eval_batch_size: int, accumulate: int = 1) -> Mesh:
    """All devices in one axis, "data", over which batches are split.

    Args:
        accumulate: parts that a training batch is computed in, one after the other.

    Raises:
        UserError: a part of a batch does not divide over the devices, or there are several
            processes.
    """
    if jax.process_count() > 1:
        raise UserError("several processes are not supported yet; run one, with all its devices")
    devices = jax.device_count()
    if batch_size % (devices * accumulate):
        raise UserError(
            f"config.batch_size={batch_size} does not divide over {devices} device(s) in "
            f"config.accumulate={accumulate} part(s); make it a multiple of {devices * accumulate}"
        )
    if eval_batch_size % devices:
        raise UserError(
            f"config.eval_batch_size={eval_batch_size} does not divide over {devices} devices; "
            f"make it a multiple of {devices}"
        )
    return jax.make_mesh((devices,), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's share of a batch onto its devices as part of the global batch."""
    sharding = split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
