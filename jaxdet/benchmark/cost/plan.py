"""What a config's training step takes on the devices at hand: compiled, not run.

Memory and FLOPs are those XLA reports for the program it made for this backend. A program for
another backend differs: plan on the kind of device that is to train.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from jaxdet.benchmark.complexity import COCO_CLASSES
from jaxdet.benchmark.cost.step import (
    CompiledStep,
    compile_step,
    needed_flops,
    resized_config,
)
from jaxdet.errors import UserError
from jaxdet.training.experiment import Experiment

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
"""Dense bfloat16 TFLOP/s by the start of `device_kind`, as their makers state them ("v5 lite" is
v5e, "v5" is v5p, "v6 lite" is v6e); all but v5e's were written from memory."""

ASSUMED_DEVICE = "NVIDIA H100"
ASSUMED_MEMORY_GB = 80.0


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
        step_flops: see `needed_flops`.
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
    image_flops = needed_flops(config, num_classes)
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

    return Device(memory, memory_source, *peak_of(kind, dtype, peak_tflops))


def peak_of(kind: str | None, dtype: str, peak_tflops: float | None) -> tuple[float | None, str]:
    """The peak FLOP/s of a kind of device, and where the number is from; None if not known.

    Args:
        kind: as JAX calls it; None where the device is not at hand.
        peak_tflops: 10^12 FLOP/s, instead of PEAK_TFLOPS.
    """
    known = [name for name in PEAK_TFLOPS if kind is not None and kind.startswith(name)]
    if peak_tflops is not None:
        return 1e12 * peak_tflops, "--peak_tflops"
    if dtype != "bfloat16":
        return None, f"no peak is listed for {dtype}; --peak_tflops sets it"
    if known:
        return 1e12 * PEAK_TFLOPS[max(known, key=len)], f"this {kind}'s"
    return (
        1e12 * PEAK_TFLOPS[ASSUMED_DEVICE],
        f"assumed, {ASSUMED_DEVICE}'s; --peak_tflops sets it",
    )


def report(plan: Plan) -> str:
    """A plan in lines a person reads."""
    rows = list(_rows(plan))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows(plan: Plan) -> Iterator[tuple[str, str]]:
    config, step, device = plan.config, plan.step, plan.device
    kind = jax.devices()[0].device_kind
    images = config.batch_size // plan.devices // config.accumulate
    yield "plan of", f"{plan.name}: {config.image_size} px, {config.model.dtype}, {plan.classes}"
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
