"""Weak scaling on simulated devices: what each does as their number grows with the batch.

    python benchmarks/weak_scaling.py

Compiles the training step of a small detector for 1, 2, 4 and 8 devices, one image each, with the
state on every device and with it split; runs nothing. Writes benchmarks/weak_scaling.md.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from benchmarks.collectives import collectives
from jaxdet.benchmark.cost.step import CompiledStep, compile_step, resized_config
from jaxdet.config.keys import DetectorConfig
from jaxdet.config.mask_rcnn import check
from jaxdet.config.schema import keys
from jaxdet.flags import load_config
from jaxdet.parallel import BATCH_AXIS

DEVICES = (1, 2, 4, 8)
CLASSES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/shapes_tiny.py"))
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", max(DEVICES))

    steps = {}
    for sharding in keys(DetectorConfig)["sharding"].choices:
        for count in DEVICES:
            config = resized_config(load_config(options.config), count)
            config.sharding = sharding
            check(config)
            devices = jax.devices()[:count]
            mesh = Mesh(np.array(devices), (BATCH_AXIS,), axis_types=(AxisType.Auto,))
            steps[sharding, count] = compile_step(config, CLASSES, mesh)
            print(row(sharding, count, steps[sharding, count]), flush=True)
    lines = report(options, steps)
    target = Path(__file__).parent / "weak_scaling.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines) + f"\nwritten to {target}")


def row(sharding: str, count: int, step: CompiledStep) -> str:
    found = collectives(step.compiled.as_text())
    messages = "; ".join(
        f"{number} {kind}, {size / 1e6:.3f} MB" for kind, (number, size) in sorted(found.items())
    )
    return (
        f"| {sharding} | {count} | {step.cost.flops / 1e9:.4f} | "
        f"{sum(step.state_bytes.values()) / 1e6:.2f} | {step.cost.temporary_bytes / 1e6:.2f} | "
        f"{step.total_bytes / 1e6:.2f} | {messages or 'none'} |"
    )


def report(options: argparse.Namespace, steps: dict[tuple[str, int], CompiledStep]) -> list[str]:
    parameters = sum(steps["replicated", 1].parameters.values())
    return [
        "# Weak scaling on simulated devices",
        "",
        f"`python benchmarks/weak_scaling.py --config={options.config}`: one image a device, "
        f"compiled and not run; jax {jax.__version__}, {jax.default_backend()}, "
        f"{time.strftime('%Y-%m-%d')}. The detector has {parameters / 1e6:.3f} M parameters, whose "
        f"gradients are {4 * parameters / 1e6:.3f} MB. FLOPs and memory are XLA's of one device, "
        "messages those of the compiled program, by the bytes that come out of them. "
        f"XLA_FLAGS: {os.environ.get('XLA_FLAGS') or 'none'}.",
        "",
        "| sharding | devices | GFLOP each | MB of state | MB temporary | MB in all | messages |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(row(*key, step) for key, step in steps.items()),
        "",
    ]


if __name__ == "__main__":
    main()
