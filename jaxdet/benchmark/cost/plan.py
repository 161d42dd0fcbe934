"""What a config's training step takes on the devices at hand: compiled, not run.

Memory and FLOPs are those XLA reports for the program it made for this backend. A program for
another backend differs: plan on the kind of device that is to train.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdet.benchmark.cost.analytic import needed_flops
from jaxdet.benchmark.cost.class_count import usual_classes
from jaxdet.benchmark.cost.devices import Device, local_device
from jaxdet.benchmark.cost.step import (
    CompiledStep,
    compile_step,
    fully_trained,
    resized_config,
)
from jaxdet.errors import UserError
from jaxdet.training.experiment import Experiment


class StepPlan(NamedTuple):
    """What planning finds out.

    Attributes:
        classes: how many, and where that is known from.
        devices: how many share a step.
        device: one of them.
        step: the config's own step, compiled for all devices.
        step_flops: see `needed_flops`.
        fitted: total bytes of a device by images a device, of the compilations that `largest_batch`
            is a line through; `accumulate` is 1.
        largest_batch: images a device that fit by that line, with `accumulate` 1.
        utilisation: share of the peak that the FLOPs the layers need will reach.
        images_per_second: expected, over all devices; None if the device's peak is unknown.
        full: the step of full fine-tuning and its FLOPs, where the config's ViT is not trained.
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
    full: tuple[CompiledStep, float] | None


def make_plan(
    experiment: Experiment,
    *,
    device_memory_gb: float | None = None,
    peak_tflops: float | None = None,
    utilisation: float = 0.4,
) -> StepPlan:
    """Compiles the config's training step, and one or two of other batch sizes.

    Needs no data; where the data can be opened, the number of classes is theirs.

    Args:
        device_memory_gb: 10^9 bytes of a device, instead of what the backend reports.
        peak_tflops: 10^12 FLOP/s of a device, instead of its maker's.
        utilisation: see `StepPlan`.

    Raises:
        UserError: the batch does not divide over the devices.
    """
    config, mesh = experiment.config, experiment.mesh
    device = local_device(config.model.dtype, device_memory_gb, peak_tflops)
    num_classes, source = count_classes(experiment)
    step = compile_step(config, num_classes, mesh)
    fitted = _fitted_bytes(config, num_classes, mesh, step)
    image_flops = needed_flops(config, num_classes)
    rate = None
    if device.peak_flops is not None:
        rate = utilisation * device.peak_flops * mesh.size / image_flops
    full = fully_trained(config)
    return StepPlan(
        name=experiment.workdir.name,
        config=config,
        classes=f"{num_classes} classes ({source})",
        devices=mesh.size,
        device=device,
        step=step,
        step_flops=image_flops * config.batch_size,
        fitted=fitted,
        largest_batch=largest_batch(fitted, device.memory_bytes),
        utilisation=utilisation,
        images_per_second=rate,
        full=None
        if full is None
        else (
            compile_step(full, num_classes, mesh),
            needed_flops(full, num_classes) * config.batch_size,
        ),
    )


def count_classes(experiment: Experiment) -> tuple[int, str]:
    """Classes of the data, or the usual ones where they cannot be opened; and which of these."""
    try:
        return len(experiment.val_set.categories), "of the data"
    except UserError:
        classes, name = usual_classes(experiment.config)
        return classes, f"as in {name}: the data cannot be opened"


def _fitted_bytes(
    config: ConfigDict, num_classes: int, mesh: Mesh, own_step: CompiledStep
) -> dict[int, int]:
    """Total bytes of a device at one image and at the config's own number of them, else at two."""
    own = config.batch_size // mesh.size if config.accumulate == 1 else None
    fitted = {}
    for batch in (1, own if own not in (None, 1) else 2):
        resized = resized_config(config, batch * mesh.size)
        step = own_step if batch == own else compile_step(resized, num_classes, mesh)
        fitted[batch] = step.total_bytes
    return fitted


def largest_batch(fitted: dict[int, int], memory_bytes: float) -> int:
    """The most images whose total bytes fit, on the line through the two sizes of `fitted`."""
    (first, less), (second, more) = sorted(fitted.items())
    per_image = max(1.0, (more - less) / (second - first))
    return max(0, int((memory_bytes - less) / per_image + first))


def report(plan: StepPlan) -> str:
    """A plan in lines a person reads."""
    rows = list(_rows(plan))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _rows(plan: StepPlan) -> Iterator[tuple[str, str]]:
    config, step, device = plan.config, plan.step, plan.device
    images = config.batch_size // plan.devices // config.accumulate
    yield "plan of", f"{plan.name}: {config.image_size} px, {config.model.dtype}, {plan.classes}"
    yield (
        "batch",
        f"{config.batch_size} = {plan.devices} {device.kind} device(s) x {config.accumulate} "
        f"microbatch(es) x {images} image(s)",
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
    if plan.full is not None:
        full, full_flops = plan.full
        yield (
            "full fine-tuning",
            f"would take {full.total_bytes / 1e9:.3g} GB a device and {full_flops / 1e12:.3g} T "
            f"FLOPs a step, {full_flops / plan.step_flops:.2g} times as many",
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
