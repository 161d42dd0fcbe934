"""Losses and gradients of a batch split over devices, with every message between these named.

Left to the partitioner, gradients are added up over the devices in the compute dtype and wherever
it sees fit, such as before the bias of all pairs of tokens is folded into its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from jaxdet.models.paths import path_name
from jaxdet.parallel import BATCH_AXIS
from jaxdet.training.optim import is_frozen

Differentiate = Callable[[Any, Any, dict[str, jax.Array], jax.Array], tuple[Any, Any, Any]]
"""See `jaxdet.training.step.gradient_function`."""


def over_devices(
    differentiate: Differentiate,
    mesh: Mesh,
    shardings: Any,
    *,
    reduce_dtype: DTypeLike = "float32",
    frozen: Sequence[str] = (),
) -> Differentiate:
    """`differentiate` of a batch from what each device makes of its own images.

    The devices exchange the sums of batch norm, then each gradient once, and the metrics. Split
    parameters are gathered first, and their gradients are left split.

    Args:
        differentiate: takes means over images.
        mesh: the devices, over whose BATCH_AXIS the batch is split.
        shardings: of the parameters and of their gradients.
        reduce_dtype: of the gradients while they are added up over the devices.
        frozen: patterns of parameters whose gradient is zero anyway.
    """
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings)

    def reduced(path: Any, gradient: jax.Array, held: jax.Array, spec: PartitionSpec) -> jax.Array:
        if is_frozen(path_name(path), frozen):
            return jnp.zeros_like(held)
        gradient = gradient.astype(reduce_dtype)
        if spec:
            gradient = jax.lax.psum_scatter(
                gradient, BATCH_AXIS, scatter_dimension=len(spec) - 1, tiled=True
            )
        else:
            gradient = jax.lax.psum(gradient, BATCH_AXIS)
        return gradient.astype(held.dtype) / mesh.size

    def on_one_device(params, stats, batch, keys):
        whole = jax.tree.map(_gathered, params, specs)
        gradients, metrics, stats = differentiate(whole, stats, batch, keys)
        gradients = jax.tree_util.tree_map_with_path(reduced, gradients, params, specs)
        return gradients, jax.lax.pmean(metrics, BATCH_AXIS), stats

    whole, split = PartitionSpec(), PartitionSpec(BATCH_AXIS)
    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(specs, whole, split, split),
        out_specs=(specs, whole, whole),
        check_vma=False,
    )


def _gathered(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    if not spec:
        return leaf
    return jax.lax.all_gather(leaf, BATCH_AXIS, axis=len(spec) - 1, tiled=True)
