"""What imTED's training step costs: XLA's FLOPs and memory beside what its layers need.

    python benchmarks/imted_cost.py --config=imted_mask:b

Compiles the step for one image twice, with the config's chunks of RoIs and recomputed blocks and
without; needs no data and no accelerator, runs nothing. Writes benchmarks/imted_cost.md.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.benchmark.complexity import COCO_CLASSES, Cost, forward_cost
from jaxdet.benchmark.cost.step import compile_step
from jaxdet.config.files import load_config
from jaxdet.config.mask_rcnn import check


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="imted_mask:b")
    options = parser.parse_args()
    config = load_config(options.config)
    config.batch_size = config.eval_batch_size = 1
    check(config)
    parts = forward_cost(
        config,
        COCO_CLASSES,
        proposals=config.model.detector.roi_batch,
        masks=int(config.model.detector.roi_batch * config.model.detector.roi_positive),
    )
    rows = []
    for chunks, remat in ((config.model.heads.roi_chunks, config.model.vit.remat), (1, "none")):
        config.model.heads.roi_chunks, config.model.vit.remat = chunks, remat
        cost = compile_step(config, COCO_CLASSES, parallel.data_mesh(1, 1)).cost
        needed = needed_flops(config, parts)
        blocks = "computed again" if remat == "block" else "kept"
        rows.append(
            f"| {chunks} | {blocks} | {needed / 1e12:.2f} T | "
            f"{cost.flops / 1e12:.2f} T | {cost.flops / needed:.3f} | "
            f"{cost.temporary_bytes / 1e9:.1f} GB |"
        )
        print(rows[-1], flush=True)
    lines = [
        f"# {options.config}: the compiled training step of one image",
        "",
        f"`python benchmarks/imted_cost.py --config={options.config}`: {config.image_size} px, "
        f"{config.model.dtype}, {config.model.detector.roi_batch} RoIs. FLOPs and memory are XLA's "
        "own count, loops counted as often as they run; nothing was run. Temporary memory is "
        "that of the CPU's program, and a GPU's is another.",
        "",
        f"jax {jax.__version__}, backend {jax.default_backend()}, {platform.machine()}, "
        f"{time.strftime('%Y-%m-%d')}.",
        "",
        "Forward pass, multiply-adds by structure:",
        "",
        "| part | G |",
        "| --- | --- |",
        *(f"| {name} | {part.multiply_adds / 1e9:.1f} |" for name, part in parts.items()),
        "",
        "The step, whose gradient takes twice the forward pass, and once more what is computed "
        "again:",
        "",
        "| chunks of RoIs | what blocks compute is | FLOPs by structure | FLOPs of XLA | ratio | "
        "temporary memory |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]
    target = Path(__file__).parent / "imted_cost.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines) + f"\nwritten to {target}")


def needed_flops(config: ConfigDict, parts: dict[str, Cost]) -> float:
    """FLOPs of the matrix products and convolutions of a step, by structure."""
    again = {"backbone": config.model.vit.remat == "block"}
    again |= dict.fromkeys(("box_features", "box_head"), config.model.heads.roi_chunks > 1)
    return sum(
        2 * part.multiply_adds * (4 if again.get(name) else 3) for name, part in parts.items()
    )


if __name__ == "__main__":
    main()
