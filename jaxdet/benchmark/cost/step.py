"""A config's training step, compiled and not run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.benchmark.cost.compiled_program import XlaCost, xla_cost
from jaxdet.models.build import StatelessModel, build_detector, parameter_count
from jaxdet.models.settings import is_backbone_frozen
from jaxdet.training.checkpoint import abstract
from jaxdet.training.optim import build_optimizer, frozen_parameters
from jaxdet.training.step import abstract_state, make_train_step


@dataclass(frozen=True)
class CompiledStep:
    """A compiled training step. All bytes are of one device.

    Attributes:
        parameters: how many numbers each part of the detector has.
        state_bytes: by kind.
        batch_bytes: of one batch as the loader makes it.
        temporary_bytes: most memory in use beside arguments and results.
        total_bytes: most memory in use at once: what goes in, temporary memory, and what comes out
            beside the state, whose memory is used again.
        compiled: the program itself.
        jaxpr: what it was compiled from.
        devices: how many share it.
    """

    parameters: dict[str, int]
    state_bytes: dict[str, int]
    batch_bytes: int
    temporary_bytes: int
    total_bytes: int
    compiled: jax.stages.Compiled
    jaxpr: ClosedJaxpr
    devices: int

    @cached_property
    def cost(self) -> XlaCost:
        """XLA's own counts, of one device."""
        return xla_cost(self.compiled, self.jaxpr, self.devices)


def fully_trained(config: ConfigDict) -> ConfigDict | None:
    """The config with a ViT that is trained too; None where it is one already."""
    if not is_backbone_frozen(config):
        return None
    config = config.copy_and_resolve_references()
    config.optim.train = "all"
    return config


def resized_config(config: ConfigDict, batch_size: int) -> ConfigDict:
    """The config with batches of another size, computed in one microbatch."""
    config = config.copy_and_resolve_references()
    config.batch_size, config.accumulate = batch_size, 1
    return config


def compile_step(
    config: ConfigDict,
    num_classes: int,
    mesh: Mesh,
    *,
    platform: str | None = None,
    compiler_options: dict[str, bool | int] | None = None,
) -> CompiledStep:
    """Compiles a config's training step for the devices of a mesh.

    Args:
        platform: "cuda" or "tpu" where the devices are not there; None where they are.
        compiler_options: what XLA is told beside.
    """
    stateless = StatelessModel(lambda rngs: build_detector(config, num_classes, rngs, mesh))
    optimizer = build_optimizer(config, lambda step: config.optim.lr)
    state = abstract_state(stateless, optimizer)
    state = abstract(state, parallel.state_sharding(mesh, state, config.sharding))
    batch = abstract(batch_shapes(config), parallel.batch_sharding(mesh))
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = make_train_step(
        stateless,
        optimizer,
        mesh,
        accumulate=config.accumulate,
        batch_statistics=config.batch_statistics,
        frozen=frozen_parameters(config),
        sharding=config.sharding,
        reduce_dtype=config.reduce_dtype,
    )
    traced = step.trace(state, batch, key)
    lowered = traced.lower(lowering_platforms=None if platform is None else (platform,))
    compiled = lowered.compile(compiler_options=compiler_options)
    memory = compiled.memory_analysis()
    return CompiledStep(
        parameters={name: parameter_count(part) for name, part in state["params"].items()},
        state_bytes={
            "parameters": bytes_per_device((state["params"], state["stats"])),
            "optimizer state": bytes_per_device(state["opt_state"]),
        },
        batch_bytes=bytes_per_device(batch),
        temporary_bytes=memory.temp_size_in_bytes,
        total_bytes=memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        compiled=compiled,
        jaxpr=traced.jaxpr,
        devices=mesh.size,
    )


def batch_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of one training batch, as the loader makes it."""
    n, side, max_instances, crop = (
        config.batch_size,
        config.image_size,
        config.data.max_instances,
        config.data.mask_size,
    )
    shapes = {
        "image": ((n, side, side, 3), jnp.uint8),
        "image_hw": ((n, 2), jnp.int32),
        "boxes": ((n, max_instances, 4), jnp.float32),
        "labels": ((n, max_instances), jnp.int32),
        "masks": ((n, max_instances, crop, crop), jnp.uint8),
        "outlined": ((n, max_instances), jnp.bool_),
        "valid": ((n, max_instances), jnp.bool_),
    }
    return {name: jax.ShapeDtypeStruct(*spec) for name, spec in shapes.items()}


def full_batch(config: ConfigDict, num_classes: int) -> dict[str, jax.Array]:
    """A training batch of noise, each image with as many objects as fit in, of all sizes."""
    rng = np.random.default_rng(0)
    shapes = batch_shapes(config)
    n, max_instances, image_size = config.batch_size, config.data.max_instances, config.image_size
    size = np.exp(rng.uniform(np.log(8), np.log(image_size), (n, max_instances, 2)))
    corner = rng.uniform(0, 1, (n, max_instances, 2)) * (image_size - size)
    batch = {
        "image": rng.integers(0, 256, shapes["image"].shape),
        "image_hw": np.full((n, 2), image_size),
        "boxes": np.concatenate([corner, corner + size], -1),
        "labels": rng.integers(0, num_classes, (n, max_instances)),
        "masks": rng.integers(0, 256, shapes["masks"].shape),
        "outlined": np.zeros((n, max_instances)),
        "valid": np.ones((n, max_instances)),
    }
    return {name: jnp.asarray(batch[name], shape.dtype) for name, shape in shapes.items()}


def bytes_per_device(tree: Any) -> int:
    """Bytes that the arrays of a tree (or their shapes) take on one device of theirs."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
