"""Measures the conversion of a full-size MAE ViT-L checkpoint of random numbers.

    python benchmarks/convert_vitl.py

Writes benchmarks/convert_vitl.md: seconds, and the most memory that was held, against the file.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

RESULT = Path(__file__).with_suffix(".md")
WIDTH, DEPTH, PATCH, GRID = 1024, 24, 16, 14


def vit_l() -> dict[str, torch.Tensor]:
    """The tensors of `mae_pretrain_vit_large.pth`, random."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + GRID**2, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        for name, outputs, inputs in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes[f"blocks.{i}.{name}.weight"] = (outputs, inputs)
            shapes[f"blocks.{i}.{name}.bias"] = (outputs,)
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{norm}.weight"] = shapes[f"blocks.{i}.{norm}.bias"] = (WIDTH,)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def measure(source: Path, out: Path) -> tuple[float, float]:
    """Seconds and gigabytes (peak resident memory) of one conversion in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "checkpoints_convert", "--from=mae", str(source), str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "mae_pretrain_vit_large.pth", Path(folder) / "out.npz"
        torch.save({"model": vit_l()}, source)
        size = source.stat().st_size / 1e9
        seconds, memory = measure(source, out)
        rows.append(("PyTorch's format", size, seconds, memory))
        torch.save({"model": vit_l()}, source, _use_new_zipfile_serialization=False)
        seconds, memory = measure(source, out)
        rows.append(("its format before 1.6", size, seconds, max(memory, rows[0][3])))
    lines = [
        "# Conversion of a ViT-L",
        "",
        "`python benchmarks/convert_vitl.py`: a random checkpoint of MAE's ViT-L, each",
        "conversion in a process of its own. Memory is the most that was resident, the mapped file",
        "included; of the second row it is an upper bound.",
        "",
        "| file | GB | seconds | memory, GB | memory / file |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [f"| {n} | {s:.2f} | {t:.1f} | {m:.2f} | {m / s:.2f} |" for n, s, t, m in rows]
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
