"""What one device offers: memory and peak rate, from JAX, the makers' figures, or the user."""

from __future__ import annotations

from typing import NamedTuple


class Accelerator(NamedTuple):
    """What its maker says of a device.

    Attributes:
        name: as `jaxdet plan --device` takes it.
        kind: the start of what JAX calls it.
        peak_flops: a second, of dense bfloat16 matrix products.
        bandwidth: bytes a second between the device and its memory.
        memory_bytes: that a program may use.
        link: bytes a second that it can send to other devices, on all its links together.
        source: of these numbers.
    """

    name: str
    kind: str
    peak_flops: float
    bandwidth: float
    memory_bytes: float
    link: float
    source: str


_GIB = 2**30

ACCELERATORS = (
    Accelerator("a100", "NVIDIA A100", 312e12, 2039e9, 80e9, 300e9, "data sheet of A100 80GB SXM"),
    Accelerator("h100", "NVIDIA H100", 989e12, 3352e9, 80e9, 450e9, "data sheet of H100 SXM"),
    Accelerator(
        "h100-pcie", "NVIDIA H100 PCIe", 756e12, 2039e9, 80e9, 300e9, "data sheet of H100 PCIe"
    ),
    Accelerator("h200", "NVIDIA H200", 989e12, 4800e9, 141e9, 450e9, "data sheet of H200 SXM"),
    Accelerator("b200", "NVIDIA B200", 2250e12, 7672e9, 180e9, 900e9, "data sheet of HGX B200"),
    Accelerator(
        "v4", "TPU v4", 275e12, 1200e9, 32 * _GIB, 268e9, "docs.cloud.google.com/tpu/docs/v4"
    ),
    Accelerator(
        "v5e",
        "TPU v5 lite",
        197e12,
        819e9,
        15.75 * _GIB,
        200e9,
        "docs.cloud.google.com/tpu/docs/v5e",
    ),
    Accelerator(
        "v5p", "TPU v5", 459e12, 2765e9, 95 * _GIB, 600e9, "docs.cloud.google.com/tpu/docs/v5p"
    ),
    Accelerator(
        "v6e",
        "TPU v6 lite",
        918e12,
        1638e9,
        31.25 * _GIB,
        400e9,
        "docs.cloud.google.com/tpu/docs/v6e",
    ),
)
"""Peaks are without sparsity. A link is half of what makers state, who add up both directions; v4's
is its pod's all-reduce bandwidth by chip. NVIDIA's peaks and links were written from memory, their
bandwidths are those of XLA's descriptions of the devices; Google's are of the pages named, read on
2026-11-25. A TPU's memory is without what its runtime keeps for itself."""

ASSUMED_DEVICE = "NVIDIA H100"
ASSUMED_MEMORY_GB = 80.0


class Device(NamedTuple):
    """What one device offers. `memory_source` and `peak_source` say where the numbers are from.

    Attributes:
        kind: as JAX calls it.
        memory_bytes: that a program may use.
        peak_flops: a second, for matrix products in the compute dtype; None if unknown.
    """

    kind: str
    memory_bytes: float
    memory_source: str
    peak_flops: float | None
    peak_source: str


def local_device(
    dtype: str, memory_gb: float | None = None, peak_tflops: float | None = None
) -> Device:
    """The device at hand; what it does not report is assumed to be an H100's.

    Args:
        dtype: of computation.
        memory_gb: 10^9 bytes, instead of what the backend reports.
        peak_tflops: 10^12 FLOP/s, instead of what ACCELERATORS has.
    """
    import jax  # late: peaks are looked up where jax is not wanted

    device = jax.devices()[0]
    kind, statistics = device.device_kind, device.memory_stats() or {}
    if memory_gb is not None:
        memory, source = 1e9 * memory_gb, "--device-memory-gb"
    elif "bytes_limit" in statistics:
        memory, source = statistics["bytes_limit"], f"this {kind}'s"
    else:
        memory, source = 1e9 * ASSUMED_MEMORY_GB, "assumed; --device-memory-gb sets it"
    return Device(kind, memory, source, *peak_of(kind, dtype, peak_tflops))


def peak_of(kind: str | None, dtype: str, peak_tflops: float | None) -> tuple[float | None, str]:
    """The peak FLOP/s of a kind of device, and where the number is from; None if unknown.

    Args:
        kind: as JAX calls it; None where the device is not at hand.
        peak_tflops: 10^12 FLOP/s, instead of what ACCELERATORS has.
    """
    if peak_tflops is not None:
        return 1e12 * peak_tflops, "--peak-tflops"
    if dtype != "bfloat16":
        return None, f"no peak is listed for {dtype}; --peak-tflops sets it"
    known = [one for one in ACCELERATORS if kind is not None and kind.startswith(one.kind)]
    if known:
        return max(known, key=lambda one: len(one.kind)).peak_flops, f"this {kind}'s"
    assumed = next(one for one in ACCELERATORS if one.kind == ASSUMED_DEVICE)
    return assumed.peak_flops, f"assumed, {ASSUMED_DEVICE}'s; --peak-tflops sets it"
