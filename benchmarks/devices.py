"""What the recipes' training steps take on GPUs and TPUs, by the programs of their compilers.

    PYTHONPATH=. python benchmarks/devices.py vitb_mae@h100 imted_mask:b@v5p-64 --state=after
    PYTHONPATH=. python benchmarks/devices.py missing --state=after
    PYTHONPATH=. python benchmarks/devices.py

The first compiles the steps named, the second those of the table that devices.json lacks, one after
the other, in minutes each; what is found is added to benchmarks/devices.json. From it,
benchmarks/devices.md is written, which is all that the last one does. No device is needed, but the
extras plan-gpu and plan-tpu.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from jaxdet.benchmark.cost.parts import PARTS
from jaxdet.benchmark.cost.targets import parse_target
from jaxdet.errors import UserError
from jaxdet.flags import Parser, count, run_main

CONFIGS = (
    "vitb_mae",
    "vitl_mae",
    "vitdet_b_mae",
    "vitdet_l_mae",
    "vitdet_h_mae",
    "imted_mask:b",
)
DEVICES = ("h100", "h100x8", "v5e-8", "v5p-64")

IMAGES = {
    ("vitb_mae", "h100"): 16,
    ("vitdet_b_mae", "h100"): 16,
    ("imted_mask:b", "h100"): 8,
    ("vitb_mae", "h100x8"): 8,
    ("vitdet_b_mae", "h100x8"): 8,
    ("vitb_mae", "v5e-8"): 1,
}
"""Images a device that are compiled for unless --images says otherwise; 1 on v5e, else 2."""

STATES = ("before", "after")
KEPT = Path(__file__).with_suffix(".json")

Record = dict[str, Any]


def main() -> int:
    return run_main(run)


def run() -> None:
    parser = Parser("benchmarks/devices.py", __doc__)
    parser.add_argument("steps", nargs="*", metavar="CONFIG@DEVICE", help="or missing")
    parser.add_argument("--state", choices=STATES, default="after", help="of the code")
    parser.add_argument("--images", type=count, help="a device")
    parser.add_argument("--attention", help="config.model.vit.attention; default the config's")
    options = parser.parse_args()
    records = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else []
    for config, device in steps_of(options.steps, options.state, records):
        images = options.images or IMAGES.get((config, device), 1 if "v5e" in device else 2)
        found = compile_step(config, device, images, options.attention)
        found |= {"state": options.state, "attention": options.attention, "commit": commit()}
        records = [one for one in records if key_of(one) != key_of(found)] + [found]
        records.sort(key=key_of)
        KEPT.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    target = KEPT.with_suffix(".md")
    target.write_text("\n".join(report(records)), encoding="utf-8")
    print(f"written to {target}")


def steps_of(names: list[str], state: str, records: list[Record]) -> list[tuple[str, str]]:
    """The steps that a command line names."""
    if names == ["missing"]:
        known = {(one["config"], one["device"]) for one in records if one["state"] == state}
        return [step for step in product(CONFIGS, DEVICES) if step not in known]
    for name in names:
        if name.count("@") != 1:
            raise UserError(f"{name} must be CONFIG@DEVICE, such as vitb_mae@h100")
    return [tuple(name.split("@")) for name in names]


def key_of(record: Record) -> tuple:
    """What tells records apart, in the order of the table."""
    names, devices = [*CONFIGS, record["config"]], [*DEVICES, record["device"]]
    return (
        names.index(record["config"]),
        devices.index(record["device"]),
        record["config"],
        record["device"],
        STATES.index(record["state"]),
        record["attention"] or "",
        record["images_a_device"],
    )


def compile_step(config: str, device: str, images: int, attention: str | None) -> Record:
    """What `jaxdet plan` says, in a process of its own."""
    batch = images * parse_target(device).count
    command = [sys.executable, "-m", "jaxdet.main", "--mode=plan", "--json"]
    command += [f"--config={config}", f"--device={device}", f"--config.batch_size={batch}"]
    command += ["--config.accumulate=1", "--config.model.dtype=bfloat16"]
    if attention is not None:
        command.append(f"--config.model.vit.attention={attention}")
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root, check=False
    )
    if done.returncode:
        raise UserError(f"planning {config} for {device} ended with status {done.returncode}")
    return json.loads(done.stdout) | {"config": config}


def commit() -> str:
    """The commit that was compiled, and whether files differed from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def report(records: list[Record]) -> Iterator[str]:
    yield from (
        "# The training step on GPUs and TPUs, as their compilers make it",
        "",
        "`python benchmarks/devices.py`; compiled without these devices, nothing was run. The rate",
        "is a bound from the programs and the makers' figures, not a measurement: see",
        "`jaxdet/benchmark/cost/roofline.py`. All in bfloat16. GB, TFLOP and launches are of one",
        "device; collectives are the bytes of the arrays that are reduced or gathered. `before` is",
        "8725d43, with scopes that name its parts; its times to compile on GPUs leave the",
        "assembler's processes out.",
        "",
        "| config | devices | code | attention | images a device | memory needed, GB | of them "
        "temporary | TFLOP a step | GB moved an image | launches | collectives, MB | at most, "
        "images/s a device | CPU s to compile |",
        "|" + " --- |" * 13,
    )
    yield from map(row, records)
    compiled = [one for one in records if one["parts"] is not None]
    yield from (
        "",
        "Where the bound's time goes, ms a step:",
        "",
        "| config | devices | code | attention | " + " | ".join(PARTS) + " |",
        "|" + " --- |" * (4 + len(PARTS)),
    )
    for one in compiled:
        times = (f"{1e3 * one['parts'][part]['seconds']:.1f}" for part in PARTS)
        yield f"| {heading(one)} | " + " | ".join(times) + " |"
    yield ""


def row(record: Record) -> str:
    needs = record["total_bytes"]
    memory = "more than there is" if needs is None else f"{needs / 1e9:.1f}"
    if not record["fits"]:
        memory += f", does not fit into {record['device_bytes'] / 1e9:.0f}"
    cells = [heading(record), str(record["images_a_device"]), memory]
    if record["parts"] is None:
        cells += [""] * 6
    else:
        images, total = record["images_a_device"] * record["accumulate"], record["total"]
        sent = ", ".join(
            f"{one['bytes'] / 1e6:.1f} {one['kind']} {one['dtype']}"
            for one in record["collectives"]
        )
        cells += [
            f"{record['memory']['temporary'] / 1e9:.1f}",
            f"{total['flops'] / 1e12:.2f}",
            f"{total['bytes'] / images / 1e9:.1f}",
            str(total["launches"]),
            sent or "none",
            f"{record['images_per_second']:.1f}",
        ]
    return "| " + " | ".join([*cells, f"{record['compile_seconds']:.0f}"]) + " |"


def heading(record: Record) -> str:
    state = f"{record['state']} ({record['commit']})"
    attention = record["attention"] or "the config's"
    return f"{record['config']} | {record['device']} | {state} | {attention}"


if __name__ == "__main__":
    sys.exit(main())
