"""What rematerialisation saves in memory and costs in FLOPs, word by word.

    python benchmarks/remat.py

Compiles the training step of ViT-B, batch 1, for each word of `config.model.vit.remat`; runs
nothing. Writes benchmarks/remat.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks.saved_residuals import residual_bytes
from jaxdet import parallel
from jaxdet.benchmark.complexity import COCO_CLASSES
from jaxdet.benchmark.cost.step import compile_step, resized_config
from jaxdet.config.keys import DetectorConfig
from jaxdet.config.mask_rcnn import check
from jaxdet.config.schema import keys
from jaxdet.flags import load_config
from jaxdet.models.build import StatelessModel, build_detector

WORDS = keys(DetectorConfig)["model.vit.remat"].choices
KEPT_OF = ("vitb_mae", "vitdet_b_mae", "vitl_mae", "vitdet_h_mae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/vitb_mae.py"))
    parser.add_argument("--image-size", type=int, default=1024)
    options = parser.parse_args()

    kept = {
        name: {word: backbone_bytes(rematerialising(name, word, options)) for word in WORDS}
        for name in KEPT_OF
    }
    rows, mesh = [], parallel.data_mesh(1, 1)
    for word in WORDS:
        config = rematerialising(options.config.stem, word, options)
        started = time.perf_counter()
        step = compile_step(config, COCO_CLASSES, mesh)
        seconds = time.perf_counter() - started
        rows.append((word, step.cost.flops, step.cost.temporary_bytes, seconds))
        print(*rows[-1], flush=True)
    lines = report(options, kept, rows)
    target = Path(__file__).parent / "remat.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines) + f"\nwritten to {target}")


def rematerialising(name: str, word: str, options: argparse.Namespace) -> ConfigDict:
    config = resized_config(load_config(options.config.parent / f"{name}.py"), 1)
    config.image_size = options.image_size
    config.model.vit.remat = word
    check(config)
    return config


def backbone_bytes(config: ConfigDict) -> int:
    """What the backbone keeps of one image for the gradient."""
    stateless = StatelessModel(lambda rngs: build_detector(config, COCO_CLASSES, rngs).backbone)
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    keys = jax.random.split(jax.random.key(0), 1)
    return residual_bytes(lambda p: stateless.bind(p, {})(images, keys), stateless.abstract[0])


def report(options: argparse.Namespace, kept, rows) -> list[str]:
    base_flops, base_bytes = rows[0][1], rows[0][2]
    header = " | ".join(WORDS)
    return [
        "# What rematerialisation saves and costs",
        "",
        f"`python benchmarks/remat.py --config={options.config} "
        f"--image-size={options.image_size}`; jax "
        f"{jax.__version__}, {jax.default_backend()}, {os.cpu_count()} cores, "
        f"{platform.machine()}, {time.strftime('%Y-%m-%d')}. Nothing was run.",
        "",
        f"GB that the backbone keeps of one image of {options.image_size} px for its gradient, in "
        "bfloat16, as JAX asks for it (`benchmarks.saved_residuals`): the same on every backend.",
        "",
        f"| config | {header} |",
        f"| --- |{' --- |' * len(WORDS)}",
        *(
            f"| {name} | " + " | ".join(f"{sizes[word] / 1e9:.2f}" for word in WORDS) + " |"
            for name, sizes in kept.items()
        ),
        "",
        f"The training step of {options.config.stem}, batch 1, as XLA compiles it for the "
        f"{jax.default_backend()}. FLOPs are what computing again costs. Temporary memory, as "
        "XLA counts it for a CPU, hardly follows what is kept; why was not found out, and what a "
        "GPU's does is for `benchmarks/gpu.py` to measure.",
        "",
        "| remat | TFLOP | more | GB temporary | change | seconds to trace and compile |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {word} | {flops / 1e12:.3f} | {100 * (flops / base_flops - 1):.1f} % | "
            f"{size / 1e9:.2f} | {100 * (size / base_bytes - 1):+.1f} % | {seconds:.0f} |"
            for word, flops, size, seconds in rows
        ),
        "",
    ]


if __name__ == "__main__":
    main()
