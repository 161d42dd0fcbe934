"""Compiles a config's training step, without running it, and writes down what XLA says of it.

    python benchmarks/compile_step.py --config=configs/vitb_mae.py --batch=1

Needs no data and no accelerator. Writes benchmarks/compile_<config>.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxdet import parallel
from jaxdet.config import check
from jaxdet.experiment import build_optimizer
from jaxdet.main import load_config
from jaxdet.models.build import Functional, build_detector, parameter_count
from jaxdet.train_step import initial_state, make_train_step

COCO_CLASSES = 80


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/vitb_mae.py"))
    parser.add_argument("--batch", type=int, default=1, help="images a step")
    parser.add_argument("--dtype", default=None, help="compute dtype instead of the config's")
    options = parser.parse_args()

    config = load_config(options.config)
    config.batch_size = config.eval_batch_size = options.batch
    if options.dtype:
        config.model.dtype = options.dtype
    check(config)
    mesh = parallel.data_mesh(options.batch, options.batch)
    functional = Functional(lambda rngs: build_detector(config, COCO_CLASSES, rngs, mesh))
    optimizer = build_optimizer(config, lambda step: config.optim.lr)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda k: initial_state(functional, optimizer, k), key)

    started = time.perf_counter()
    lowered = make_train_step(functional, optimizer, mesh).lower(state, batch_shapes(config), key)
    lowered_at = time.perf_counter()
    compiled = lowered.compile()
    compiled_at = time.perf_counter()

    parts = {name: parameter_count(part) for name, part in state["params"].items()}
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    rows = [
        ("parameters", f"{sum(parts.values()) / 1e6:.2f} M"),
        *((f"- {name}", f"{count / 1e6:.2f} M") for name, count in parts.items()),
        ("tracing and lowering", f"{lowered_at - started:.0f} s"),
        ("compilation", f"{compiled_at - lowered_at:.0f} s"),
        ("FLOPs of a step", f"{cost['flops'] / 1e9:.0f} G"),
        ("bytes accessed in a step", f"{cost['bytes accessed'] / 1e9:.1f} GB"),
        ("arguments (state and batch)", f"{memory.argument_size_in_bytes / 1e9:.2f} GB"),
        ("temporary memory", f"{memory.temp_size_in_bytes / 1e9:.2f} GB"),
    ]
    name = options.config.stem
    lines = [
        f"# {name}: the compiled training step",
        "",
        f"`python benchmarks/compile_step.py --config={options.config} --batch={options.batch}`: "
        f"{config.canvas} px, batch {options.batch}, {config.model.dtype}, "
        f"{config.model.detector.roi_batch} RoIs and {config.data.slots} object slots an image, "
        "AdamW, no rematerialisation. The numbers are XLA's own count; nothing was run.",
        "",
        f"jax {jax.__version__}, backend {jax.default_backend()}, {os.cpu_count()} cores, "
        f"{platform.machine()}, {time.strftime('%Y-%m-%d')}.",
        "",
        "| what | value |",
        "| --- | --- |",
        *(f"| {what} | {value} |" for what, value in rows),
        "",
    ]
    target = Path(__file__).parent / f"compile_{name}.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines) + f"\nwritten to {target}")


def batch_shapes(config) -> dict[str, jax.ShapeDtypeStruct]:
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


if __name__ == "__main__":
    main()
