"""What a config's training step takes on the devices at hand: compiled, not run.

Memory and FLOPs are those XLA reports for the program it made for this backend. A program for
another backend differs: plan on the kind of device that is to train.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.benchmark.complexity import forward_cost, total
from jaxdet.benchmark.xla_cost import XlaCost, xla_cost
from jaxdet.checkpoint import abstract
from jaxdet.errors import UserError
from jaxdet.experiment import Experiment, build_optimizer
from jaxdet.models.build import Functional, build_detector, parameter_count
from jaxdet.train import initial_state, make_train_step

COCO_CLASSES = 80

PEAK_TFLOPS = {
    "NVIDIA A100": 312.0,
    "NVIDIA H100": 989.0,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H200": 989.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
}
"""Dense bfloat16 TFLOP/s by the start of `device_kind`, of NVIDIA's data sheets and Google Cloud's
pages on TPU versions ("v5 lite" is v5e, "v5" is v5p, "v6 lite" is v6e)."""

ASSUMED_DEVICE = "NVIDIA H100"
ASSUMED_MEMORY_GB = 80.0


class CompiledStep(NamedTuple):
    """A compiled training step. All bytes are of one device.

    Attributes:
        parameters: how many numbers each part of the detector learns.
        state_bytes: by kind.
        batch_bytes: of one batch as the loader makes it.
        total_bytes: most memory in use at once: what goes in, temporary memory, and what comes out
            beside the state, whose memory is used again.
        cost: see `xla_cost`.
        compiled: the program itself.
    """

    parameters: dict[str, int]
    state_bytes: dict[str, int]
    batch_bytes: int
    total_bytes: int
    cost: XlaCost
    compiled: jax.stages.Compiled


class Device(NamedTuple):
    """What one device offers. `memory_source` and `peak_source` say where the numbers are from.

    Attributes:
        memory_bytes: that a program may use.
        peak_flops: a second, for matrix products in the compute dtype; None if not known.
    """

    memory_bytes: float
    memory_source: str
    peak_flops: float | None
    peak_source: str


class Plan(NamedTuple):
    """What `--mode=plan` finds out.

    Attributes:
        step: the config's own step, compiled for all devices.
        step_flops: that the layers need for a step, forward and backward: without what
            rematerialisation, losses, norms and data movement add.
        fitted: total bytes of a device by images a device, of the compilations that `largest_batch`
            is a line through; `accumulate` is 1.
        largest_batch: images a device that fit by that line, with `accumulate` 1.
        images_per_second: expected, over all devices; None if the device's peak is not known.
    """

    name: str
    config: ConfigDict
    classes: str
    devices: int
    device: Device
    step: CompiledStep
    step_flops: float
    fitted: dict[int, int]
    largest_batch: int
    utilisation: float
    images_per_second: float | None


def make_plan(
    experiment: Experiment,
    *,
    device_memory_gb: float | None = None,
    peak_tflops: float | None = None,
    utilisation: float = 0.4,
) -> Plan:
    """Compiles the config's training step, and one or two of other batch sizes.

    Needs no data; where the data can be opened, the number of classes is theirs.

    Args:
        device_memory_gb: 10^9 bytes of a device, instead of what the backend tells of it.
        peak_tflops: 10^12 FLOP/s of a device, instead of PEAK_TFLOPS.
        utilisation: share of the peak that the FLOPs the layers need will reach.

    Raises:
        UserError: the batch does not divide over the devices.
    """
    config, mesh = experiment.config, experiment.mesh
    try:
        num_classes, classes = len(experiment.val_set.categories), "of the data"
    except UserError:
        num_classes, classes = COCO_CLASSES, "as in COCO: the data cannot be opened"
    step = compile_step(config, num_classes, mesh)
    devices = mesh.size
    own = config.batch_size // devices if config.accumulate == 1 else None
    fitted = {}
    for batch in (1, own if own not in (None, 1) else 2):
        resized = resized_config(config, batch * devices)
        found = step if batch == own else compile_step(resized, num_classes, mesh)
        fitted[batch] = found.total_bytes
    device = describe_device(config.model.dtype, device_memory_gb, peak_tflops)
    detector = config.model.detector
    needed = forward_cost(
        config,
        num_classes,
        proposals=detector.roi_batch,
        masks=int(detector.roi_batch * detector.roi_positive),
    )
    # Two FLOPs a multiply-add; the backward pass has two products for each of the forward pass.
    image_flops = 3 * 2 * total(needed.values()).multiply_adds
    rate = None
    if device.peak_flops is not None:
        rate = utilisation * device.peak_flops * devices / image_flops
    return Plan(
        name=experiment.workdir.name,
        config=config,
        classes=f"{num_classes} classes ({classes})",
        devices=devices,
        device=device,
        step=step,
        step_flops=image_flops * config.batch_size,
        fitted=fitted,
        largest_batch=largest_batch(fitted, device.memory_bytes),
        utilisation=utilisation,
        images_per_second=rate,
    )


def resized_config(config: ConfigDict, batch_size: int) -> ConfigDict:
    """The config with batches of another size, computed in one part."""
    config = config.copy_and_resolve_references()
    config.batch_size, config.accumulate = batch_size, 1
    return config


def compile_step(config: ConfigDict, num_classes: int, mesh: Mesh) -> CompiledStep:
    """Compiles a config's training step for the devices of a mesh."""
    functional = Functional(lambda rngs: build_detector(config, num_classes, rngs, mesh))
    optimizer = build_optimizer(config, lambda step: config.optim.lr)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: initial_state(functional, optimizer, k), key)
    state = abstract(state, parallel.replicated(mesh))
    batch = abstract(batch_shapes(config), parallel.split_batch(mesh))
    step = make_train_step(
        functional,
        optimizer,
        mesh,
        accumulate=config.accumulate,
        batch_statistics=config.batch_statistics,
    )
    compiled = step.lower(state, batch, key).compile()
    memory = compiled.memory_analysis()
    return CompiledStep(
        parameters={name: parameter_count(part) for name, part in state["params"].items()},
        state_bytes={
            "parameters": bytes_per_device((state["params"], state["stats"])),
            "optimizer state": bytes_per_device(state["opt_state"]),
        },
        batch_bytes=bytes_per_device(batch),
        total_bytes=memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        cost=xla_cost(compiled, jax.make_jaxpr(step)(state, batch, key), mesh.size),
        compiled=compiled,
    )


def batch_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of one training batch, as the loader makes it."""
    n, side, slots, crop = (
        config.batch_size,
        config.canvas,
        config.data.slots,
        config.data.mask_size,
    )
    shapes = {
        "image": ((n, side, side, 3), jnp.uint8),
        "image_hw": ((n, 2), jnp.int32),
        "boxes": ((n, slots, 4), jnp.float32),
        "labels": ((n, slots), jnp.int32),
        "masks": ((n, slots, crop, crop), jnp.uint8),
        "valid": ((n, slots), jnp.bool_),
    }
    return {name: jax.ShapeDtypeStruct(*spec) for name, spec in shapes.items()}


def bytes_per_device(tree: Any) -> int:
    """Bytes that the arrays of a tree (or their shapes) take on one device of theirs."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def largest_batch(fitted: dict[int, int], memory_bytes: float) -> int:
    """The most images whose total bytes fit, on the line through the two sizes of `fitted`."""
    (first, less), (second, more) = sorted(fitted.items())
    per_image = max(1.0, (more - less) / (second - first))
    return max(0, int((memory_bytes - less) / per_image + first))


def describe_device(
    dtype: str, device_memory_gb: float | None, peak_tflops: float | None
) -> Device:
    """The device at hand, or the one its user describes; what neither tells is an H100's."""
    device = jax.devices()[0]
    kind, statistics = device.device_kind, device.memory_stats() or {}
    if device_memory_gb is not None:
        memory, memory_source = 1e9 * device_memory_gb, "--device_memory_gb"
    elif "bytes_limit" in statistics:
        memory, memory_source = statistics["bytes_limit"], f"this {kind}'s"
    else:
        memory, memory_source = 1e9 * ASSUMED_MEMORY_GB, "assumed; --device_memory_gb sets it"

    known = [name for name in PEAK_TFLOPS if kind.startswith(name)]
    if peak_tflops is not None:
        peak, peak_source = peak_tflops, "--peak_tflops"
    elif dtype != "bfloat16":
        peak, peak_source = None, f"no peak is listed for {dtype}; --peak_tflops sets it"
    elif known:
        peak, peak_source = PEAK_TFLOPS[max(known, key=len)], f"this {kind}'s"
    else:
        peak = PEAK_TFLOPS[ASSUMED_DEVICE]
        peak_source = f"assumed, {ASSUMED_DEVICE}'s; --peak_tflops sets it"
    return Device(memory, memory_source, None if peak is None else 1e12 * peak, peak_source)


def report(plan: Plan) -> str:
    """A plan in lines a person reads."""
    rows = list(_rows(plan))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    config, step, device = plan.config, plan.step, plan.device
    kind = jax.devices()[0].device_kind
    images = config.batch_size // plan.devices // config.accumulate
    yield "plan of", f"{plan.name}: {config.canvas} px, {config.model.dtype}, {plan.classes}"
    yield (
        "batch",
        f"{config.batch_size} = {plan.devices} {kind} device(s) x {config.accumulate} part(s) x "
        f"{images} image(s)",
    )
    parts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in step.parameters.items())
    yield "parameters", f"{sum(step.parameters.values()) / 1e6:.2f} M ({parts})"
    yield (
        "FLOPs a step",
        f"{step.cost.flops * plan.devices / 1e12:.3g} T in XLA's program, "
        f"{plan.step_flops / 1e12:.3g} T needed by the layers",
    )
    for name, size in step.state_bytes.items():
        yield f"memory: {name}", f"{size / 1e9:.3g} GB a device"
    yield "memory: batch", f"{step.batch_bytes / 1e9:.3g} GB a device"
    yield "memory: temporary", f"{step.cost.temporary_bytes / 1e9:.3g} GB a device"
    yield (
        "memory: total",
        f"{step.total_bytes / 1e9:.3g} GB a device, which has {device.memory_bytes / 1e9:.3g} GB "
        f"({device.memory_source}): "
        + ("fits" if step.total_bytes <= device.memory_bytes else "does not fit"),
    )
    fitted = " and ".join(
        f"{size / 1e9:.3g} GB at {batch}" for batch, size in sorted(plan.fitted.items())
    )
    yield (
        "largest batch",
        f"{plan.largest_batch} image(s) a device at a time, by a line through {fitted}",
    )
    if plan.images_per_second is None:
        yield "images/s", device.peak_source
    else:
        yield (
            "images/s",
            f"{plan.images_per_second:.3g} expected at a utilisation of {plan.utilisation:g} of "
            f"{device.peak_flops / 1e12:g} TFLOP/s a device ({device.peak_source})",
        )
