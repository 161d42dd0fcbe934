"""What a config's training step takes on absent devices, in their own compiler's program."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from jaxdet.benchmark.cost import hlo
from jaxdet.benchmark.cost.roofline import Roofline, roofline
from jaxdet.benchmark.cost.step import (
    CompiledStep,
    compile_step,
    fully_trained,
    resized_config,
)
from jaxdet.benchmark.cost.targets import Target, absent_devices, compiler_options
from jaxdet.errors import UserError
from jaxdet.parallel import BATCH_AXIS


class Bound(NamedTuple):
    """What a compiler says of a training step.

    Attributes:
        images: of one device, in one microbatch.
        step, roofline: None where the compiler gave up for want of memory.
        total_bytes: of a device; None where the compiler does not say how much is too much.
        compile_seconds: of all cores together, tracing and the assembler's processes included.
        largest_batch: images of one device that fit; None where it was not asked for.
        full: of full fine-tuning, where the config's ViT is not trained.
    """

    name: str
    config: ConfigDict
    target: Target
    images: int
    step: CompiledStep | None
    roofline: Roofline | None
    total_bytes: int | None
    compile_seconds: float
    largest_batch: int | None = None
    full: Bound | None = None

    @property
    def fits(self) -> bool:
        """Whether a device has the memory that the step needs."""
        return self.step is not None and self.total_bytes <= self.target.accelerator.memory_bytes

    @property
    def images_per_second(self) -> float | None:
        """At most, of one device."""
        if self.roofline is None:
            return None
        return self.images * self.config.accumulate / self.roofline.total.seconds


def find_bound(name: str, config: ConfigDict, num_classes: int, target: Target) -> Bound:
    """Compiles a config's training step for devices that are not there.

    Call `jaxdet.benchmark.cost.targets.prepare_environment` before.

    Raises:
        UserError: the batch does not divide over the devices.
    """
    share = target.count * config.accumulate
    if config.batch_size % share:
        raise UserError(
            f"config.batch_size={config.batch_size} must be a multiple of {share}: {target.count} "
            f"device(s) of --device={target.name} times config.accumulate={config.accumulate}"
        )
    mesh = absent_mesh(target)
    started = _processor_seconds()
    step = program = None
    try:
        step = compile_step(
            config,
            num_classes,
            mesh,
            platform=target.platform,
            compiler_options=compiler_options(target),
        )
        total = step.total_bytes
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        total = _wanted_bytes(str(error))
    seconds = _processor_seconds() - started
    if step is not None:
        text = step.compiled.as_text()
        program = roofline(hlo.parse(text), target.accelerator, target.count)
    images = config.batch_size // share
    return Bound(name, config, target, images, step, program, total, seconds)


def with_full(bound: Bound, num_classes: int) -> Bound:
    """The same, and beside it full fine-tuning where the config's ViT is not trained."""
    config = fully_trained(bound.config)
    if config is None:
        return bound
    print("compiling full fine-tuning to compare with", file=sys.stderr, flush=True)
    return bound._replace(full=find_bound(bound.name, config, num_classes, bound.target))


def absent_mesh(target: Target) -> Mesh:
    """All devices of a target in one axis, as `jaxdet.parallel.data_mesh` has those at hand."""
    return Mesh(np.array(absent_devices(target)), (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def with_largest_batch(bound: Bound, num_classes: int) -> Bound:
    """The same, and how many images of a device fit, by compiling for other numbers of them."""

    def fits(images: int) -> bool:
        print(f"compiling for {images} image(s) a device", file=sys.stderr, flush=True)
        config = resized_config(bound.config, images * bound.target.count)
        return find_bound(bound.name, config, num_classes, bound.target).fits

    known = {bound.images: bound.fits} if bound.config.accumulate == 1 else {}
    return bound._replace(largest_batch=largest(fits, bound.images, known))


def largest(fits: Callable[[int], bool], start: int, known: dict[int, bool]) -> int:
    """The largest number that fits, 0 if none does; asks as seldom as it can.

    Args:
        fits: is True up to some number.
        start: where to look first.
        known: what `fits` says, without asking.
    """

    def ask(number: int) -> bool:
        if number not in known:
            known[number] = fits(number)
        return known[number]

    low, high = 0, None
    number = start
    while high is None or high - low > 1:
        if ask(number):
            low = number
        else:
            high = number
        number = 2 * low if high is None else (low + high) // 2
    return low


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _wanted_bytes(error: str) -> int | None:
    """What a program would need, from the TPU compiler's "Used 20.05G of 15.75G hbm"."""
    found = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", error)
    return int(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]]) if found else None


def report(bound: Bound) -> str:
    """A bound in lines a person reads."""
    rows = list(_rows(bound))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def _rows(bound: Bound) -> Iterator[tuple[str, str]]:
    config, target = bound.config, bound.target
    device = target.accelerator
    yield "plan of", f"{bound.name}: {config.image_size} px, {config.model.dtype}"
    yield (
        "device",
        f"{target.name}: {target.count} x {device.kind}, each {device.peak_flops / 1e12:g} TFLOP/s "
        f"in bfloat16, {device.bandwidth / 1e9:g} GB/s, {device.memory_bytes / 1e9:.3g} GB",
    )
    yield (
        "batch",
        f"{config.batch_size} = {target.count} device(s) x {config.accumulate} microbatch(es) x "
        f"{bound.images} image(s)",
    )
    yield from _memory_rows(bound)
    if bound.largest_batch is not None:
        yield "largest batch", f"{bound.largest_batch} image(s) a device at a time, as compiled"
    yield "compiled in", f"{bound.compile_seconds:.0f} CPU seconds"
    if bound.roofline is not None:
        yield from _roofline_rows(bound)
    if bound.full is not None:
        yield "full fine-tuning", _beside(bound.full)
    yield "", "A bound from the compiled program and the makers' figures, not a measurement."


def _beside(full: Bound) -> str:
    if full.total_bytes is None:
        return "needs more memory than a device has"
    needs = f"{full.total_bytes / 1e9:.3g} GB"
    if full.roofline is None:
        return f"would take {needs} a device, which does not fit"
    seconds, rate = full.roofline.total.seconds, full.images_per_second
    return f"would take {needs} a device and {1e3 * seconds:.4g} ms a step, {rate:.3g} images/s"


def _memory_rows(bound: Bound) -> Iterator[tuple[str, str]]:
    if bound.step is not None:
        for name, size in bound.step.state_bytes.items():
            yield f"memory: {name}", f"{size / 1e9:.3g} GB a device"
        yield "memory: batch", f"{bound.step.batch_bytes / 1e9:.3g} GB a device"
        yield "memory: temporary", f"{bound.step.temporary_bytes / 1e9:.3g} GB a device"
    has = f"{bound.target.accelerator.memory_bytes / 1e9:.3g} GB"
    needs = "more" if bound.total_bytes is None else f"{bound.total_bytes / 1e9:.3g} GB"
    fits = "fits" if bound.fits else "does not fit"
    yield "memory: total", f"{needs} a device, which has {has}: {fits}"


def _roofline_rows(bound: Bound) -> Iterator[tuple[str, str]]:
    found, images = bound.roofline, bound.images * bound.config.accumulate
    total = found.total
    yield (
        "a step",
        f"{total.flops / 1e12:.3g} TFLOP, {total.bytes / 1e9:.3g} GB moved, {total.launches} "
        f"launches a device ({total.bytes / images / 1e9:.3g} GB an image)",
    )
    if found.unknown_loops:
        yield "", f"{found.unknown_loops} loop(s) of unknown length are counted as one round"
    for name, count in found.unknown_kernels.items():
        yield "", f"the FLOPs of {count} kernel(s) {name} are unknown and not counted"
    for (kind, dtype), (count, size) in sorted(found.collectives.items()):
        yield f"{kind} {dtype}", f"{count} of {size / 1e6:.4g} MB together"
    if not found.collectives:
        yield "collectives", "none"
    yield (
        "roofline",
        f"{1e3 * total.seconds:.4g} ms a step, {bound.images_per_second:.3g} images/s a device",
    )
    for part, share in found.parts.items():
        if share.launches:
            yield (
                f"  {part}",
                f"{1e3 * share.seconds:8.2f} ms {share.flops / 1e12:9.3f} TFLOP "
                f"{share.bytes / 1e9:9.2f} GB {share.launches:6d} launches",
            )


def as_json(bound: Bound) -> dict[str, Any]:
    """A bound as JSON values; sizes in bytes, times in seconds, of one device."""
    step, found = bound.step, bound.roofline
    return {
        "config": bound.name,
        "device": bound.target.name,
        "devices": bound.target.count,
        "images_a_device": bound.images,
        "accumulate": bound.config.accumulate,
        "fits": bound.fits,
        "total_bytes": bound.total_bytes,
        "device_bytes": bound.target.accelerator.memory_bytes,
        "largest_batch": bound.largest_batch,
        "compile_seconds": bound.compile_seconds,
        "is_bound": True,
        "memory": None
        if step is None
        else {
            **step.state_bytes,
            "batch": step.batch_bytes,
            "temporary": step.temporary_bytes,
        },
        "total": None if found is None else vars(found.total),
        "images_per_second": bound.images_per_second,
        "full_fine_tuning": None if bound.full is None else as_json(bound.full),
        "parts": None if found is None else {name: vars(one) for name, one in found.parts.items()},
        "collectives": None
        if found is None
        else [
            {"kind": kind, "dtype": dtype, "count": count, "bytes": size}
            for (kind, dtype), (count, size) in sorted(found.collectives.items())
        ],
        "unknown_loops": None if found is None else found.unknown_loops,
        "unknown_kernels": None if found is None else dict(found.unknown_kernels),
        "longest": None
        if found is None
        else [
            {"seconds": seconds, "name": name, "op_name": op_name}
            for seconds, name, op_name in found.longest
        ],
    }
