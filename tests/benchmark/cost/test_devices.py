"""What a device offers, and where that is known from."""

from __future__ import annotations

from types import SimpleNamespace

import jax

from jaxdet.benchmark.cost.devices import local_device


def test_what_a_device_reports_comes_before_what_is_assumed(monkeypatch):
    def found(kind, dtype="bfloat16", memory=None):
        device = SimpleNamespace(device_kind=kind, memory_stats=lambda: memory)
        monkeypatch.setattr(jax, "devices", lambda: [device])
        return local_device(dtype)

    card = found("NVIDIA H100 80GB HBM3", memory={"bytes_limit": 60e9})
    assert (card.memory_bytes, card.peak_flops) == (60e9, 989e12)
    assert found("NVIDIA H100 PCIe").peak_flops == 756e12
    assert found("TPU v5 lite").peak_flops == 197e12
    assert found("TPU v5").peak_flops == 459e12
    unknown = found("cpu")
    assert unknown.memory_bytes == 80e9
    assert unknown.memory_source.startswith("assumed")
    assert unknown.peak_source.startswith("assumed")
    assert found("NVIDIA H100 80GB HBM3", dtype="float32").peak_flops is None
    given = local_device("float32", memory_gb=16.0, peak_tflops=100.0)
    assert (given.memory_bytes, given.peak_flops) == (16e9, 100e12)
