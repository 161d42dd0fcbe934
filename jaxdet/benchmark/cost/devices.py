"""What one device offers: memory and peak rate, from JAX, the makers' figures, or the user."""

from __future__ import annotations

from typing import NamedTuple

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
        peak_tflops: 10^12 FLOP/s, instead of PEAK_TFLOPS.
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
        peak_tflops: 10^12 FLOP/s, instead of PEAK_TFLOPS.
    """
    if peak_tflops is not None:
        return 1e12 * peak_tflops, "--peak-tflops"
    if dtype != "bfloat16":
        return None, f"no peak is listed for {dtype}; --peak-tflops sets it"
    known = [name for name in PEAK_TFLOPS if kind is not None and kind.startswith(name)]
    if known:
        return 1e12 * PEAK_TFLOPS[max(known, key=len)], f"this {kind}'s"
    return (
        1e12 * PEAK_TFLOPS[ASSUMED_DEVICE],
        f"assumed, {ASSUMED_DEVICE}'s; --peak-tflops sets it",
    )
