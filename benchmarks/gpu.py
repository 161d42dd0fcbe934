"""Everything about training speed that only a GPU can tell, by one command.

    PYTHONPATH=. python benchmarks/gpu.py

Needs jax with CUDA, flax, optax, numpy, jaxtyping, ml_collections and absl-py, and no data.
Measures the card's rate of matrix products, whether cuDNN's gradients are right, the training step
at growing batch sizes for each way to attend and to rematerialise, and what the step's time goes
to. Writes benchmarks/gpu.md. Each measurement is a process of its own, so that its peak of memory
is its own and running out of memory ends it alone. `--smoke` runs all of it on any machine on a
tiny detector and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks.attention_agreement import disagreement
from jaxdet import parallel
from jaxdet.benchmark.cost.analytic import COCO_CLASSES, needed_flops
from jaxdet.benchmark.cost.step import compile_step, full_batch, resized_config
from jaxdet.config.files import load_config
from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.flags import Parser, run_main
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.training.optim import build_optimizer
from jaxdet.training.step import initial_state

WAYS = (
    ("none", "xla"),
    ("attention", "xla"),
    ("block", "xla"),
    ("none", "cudnn"),
    ("block", "cudnn"),
)
"""Values of config.model.vit.remat and config.model.vit.attention."""

POSITIONS = ("shared", "decomposed", "none")


def main() -> int:
    return run_main(measure)


def measure() -> None:
    parser = Parser("benchmarks/gpu.py", __doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/vitb_mae.py"))
    parser.add_argument("--most", type=int, default=64, help="largest batch to try")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each measurement")
    parser.add_argument("--smoke", action="store_true", help="try the script itself, anywhere")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.config, options.most, options.steps = Path("configs/shapes_tiny.py"), 2, 2
    if options.task:
        print(json.dumps(TASKS[options.task.pop("name")](options, **options.task)))
        return

    device = run(options, "device")
    if isinstance(device, str):
        raise UserError(device)
    if device["platform"] != "gpu" and not options.smoke:
        raise UserError("jax finds no GPU here; --smoke tries the script without")
    agreement = {position: run(options, "agreement", position=position) for position in POSITIONS}
    ways = WAYS if not options.smoke else WAYS[:1] + WAYS[2:3]
    measured = {}
    for remat, attention in ways:
        batch = 1
        while batch <= options.most:
            found = run(options, "step", batch=batch, remat=remat, attention=attention)
            measured[remat, attention, batch] = found
            if isinstance(found, str):
                break
            batch *= 2
    succeeded = {way: found for way, found in measured.items() if not isinstance(found, str)}
    profile = {}
    if succeeded:
        fastest = max(succeeded, key=lambda way: succeeded[way]["images_per_second"])
        remat, attention, batch = fastest
        found = run(options, "profile", batch=batch, remat=remat, attention=attention)
        profile = {"of": fastest, "found": found}
    lines = report(options, device, agreement, measured, profile)
    print("\n".join(lines))
    if not options.smoke:
        target = Path(__file__).parent / "gpu.md"
        target.write_text("\n".join(lines), encoding="utf-8")
        print(f"written to {target}")


def run(options: argparse.Namespace, name: str, **arguments: Any) -> Any:
    """The result of a task in a process of its own; where it fails, the last line it said."""
    task = json.dumps({"name": name, **arguments})
    print(task, file=sys.stderr, flush=True)
    command = [sys.executable, __file__, f"--task={task}", f"--config={options.config}"]
    command += [f"--steps={options.steps}", *(["--smoke"] if options.smoke else [])]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "RESOURCE_EXHAUSTED" in done.stderr:
        return "out of memory"
    said = done.stderr.strip().splitlines()
    return said[-1].removeprefix("error: ") if said else f"ended with status {done.returncode}"


def device_task(options: argparse.Namespace) -> dict[str, Any]:
    """The device, and its rate of bfloat16 matrix products in 10^12 FLOP/s."""
    side, products = (256, 2) if options.smoke else (8192, 20)

    @jax.jit
    def chain(x, y):
        return jax.lax.fori_loop(0, products, lambda _, x: (x @ y).astype(x.dtype), x)

    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    y = x / side**0.5
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        chain(x, y).block_until_ready()
        seconds.append(time.perf_counter() - started)
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "memory": (device.memory_stats() or {}).get("bytes_limit"),
        "version": device.client.platform_version.splitlines()[0],
        "tflops": 2 * side**3 * products / min(seconds[1:]) / 1e12,
        "side": side,
    }


def agreement_task(options: argparse.Namespace, position: str) -> dict[str, dict[str, float]]:
    """cuDNN's attention against XLA's, in windows and on the whole map of a 1024 px image."""
    if options.smoke:
        sizes, implementation, shape = {"4 x 4": (4, 3)}, "xla", {"heads": 2, "channels": 8}
    else:
        sizes, implementation = {"14 x 14": (14, 25), "64 x 64": (64, 2)}, "cudnn"
        shape = {"heads": 12, "channels": 64}
    return {
        name: disagreement(implementation, position, side=side, sequences=sequences, **shape)
        for name, (side, sequences) in sizes.items()
    }


def step_task(
    options: argparse.Namespace, batch: int, remat: str, attention: str
) -> dict[str, float]:
    """Median time and peak memory of the training step."""
    config, step, arguments = prepare(options, batch, remat, attention)
    state, *rest = arguments
    seconds = []
    for _ in range(options.steps + 1):
        started = time.perf_counter()
        state, metrics = step.compiled(state, *rest)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - started)
    rate = batch / statistics.median(seconds[1:])
    memory = jax.devices()[0].memory_stats() or {}
    return {
        "images_per_second": rate,
        "needed_tflops": rate * needed_flops(config, COCO_CLASSES) / 1e12,
        "planned_bytes": step.total_bytes,
        "peak_bytes": memory.get("peak_bytes_in_use"),
    }


def profile_task(
    options: argparse.Namespace, batch: int, remat: str, attention: str
) -> list[list[Any]]:
    """The five kernels, or kinds of kernels, that take most of a step: name, share of all time."""
    _, step, (state, *rest) = prepare(options, batch, remat, attention)
    state, _ = step.compiled(state, *rest)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(3):
                state, metrics = step.compiled(state, *rest)
            jax.block_until_ready((state, metrics))
        traces = Path(folder).rglob("*.xplane.pb")
        spent = kernel_times(jax.profiler.ProfileData.from_file(str(next(traces))))
    everything = sum(spent.values())
    return [[name, time / everything] for name, time in spent.most_common(5)]


def kernel_times(profile: jax.profiler.ProfileData) -> Counter[str]:
    """Nanoseconds by the name of a kernel, numbers at its end left out."""
    planes = list(profile.planes)
    on_device = [plane for plane in planes if plane.name.startswith("/device:")]
    spent: Counter[str] = Counter()
    for plane in on_device or planes:
        for line in plane.lines:
            for event in line.events:
                if any(name == "hlo_op" for name, _ in event.stats):
                    spent[re.sub(r"[._]\d+$", "", event.name)] += event.duration_ns
    return spent


TASKS = {
    "device": device_task,
    "agreement": agreement_task,
    "step": step_task,
    "profile": profile_task,
}


def prepare(options: argparse.Namespace, batch: int, remat: str, attention: str):
    """The config, its compiled step, and what to call that with."""
    config = experiment_config(options, batch, remat, attention)
    mesh = parallel.data_mesh(batch, batch)
    step = compile_step(config, COCO_CLASSES, mesh)
    stateless = StatelessModel(lambda rngs: build_detector(config, COCO_CLASSES, rngs, mesh))
    optimizer = build_optimizer(config, lambda step: config.optim.lr)
    start = partial(initial_state, stateless, optimizer)
    placement = parallel.replicated(mesh)
    key = jax.device_put(jax.random.key(0), placement)
    state = jax.jit(start, out_shardings=placement)(key)
    data = jax.device_put(full_batch(config, COCO_CLASSES), parallel.batch_sharding(mesh))
    return config, step, (state, data, key)


def experiment_config(
    options: argparse.Namespace, batch: int, remat: str, attention: str
) -> ConfigDict:
    config = resized_config(load_config(options.config), batch)
    config.eval_batch_size = batch
    config.model.dtype = "bfloat16"
    config.model.vit.update(remat=remat, attention=attention)
    check(config)
    return config


def report(options, device, agreement, measured, profile) -> list[str]:
    def row(way: tuple[str, str, int], found: dict[str, float] | str) -> str:
        remat, attention, batch = way
        if isinstance(found, str):
            return f"| {attention} | {remat} | {batch} | {found} | | | |"
        peak = found["peak_bytes"]
        return (
            f"| {attention} | {remat} | {batch} | {found['images_per_second']:.2f} | "
            f"{found['planned_bytes'] / 1e9:.2f} | "
            f"{'unknown' if peak is None else f'{peak / 1e9:.2f}'} | "
            f"{100 * found['needed_tflops'] / device['tflops']:.1f} % |"
        )

    def differences(position: str, found: dict[str, dict[str, float]] | str) -> list[str]:
        if isinstance(found, str):
            return [f"| {position} | | {found} |"]
        return [
            f"| {position} | {tokens} | "
            + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            + " |"
            for tokens, values in found.items()
        ]

    lines = [
        f"# {options.config.stem}: training on one {device['kind']}",
        "",
        f"`python benchmarks/gpu.py --config={options.config} --steps={options.steps}`; jax "
        f"{jax.__version__}, {device['version']}, {time.strftime('%Y-%m-%d')}.",
        "",
        f"Matrix products of {device['side']} x {device['side']} in bfloat16 run at "
        f"{device['tflops']:.1f} TFLOP/s here.",
        "",
        "The training step in bfloat16 on noise, as many objects an image as fit in, median of "
        f"{options.steps} steps. Utilisation is what the layers need (three times the forward "
        "pass's multiply-adds, whatever is computed again) over the rate of matrix products above.",
        "",
        "| attention | remat | batch | images/s | GB planned | GB at peak | utilisation |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(row(way, found) for way, found in measured.items()),
        "",
        "cuDNN's attention in bfloat16 against XLA's in float32: largest difference of the output "
        "and of each gradient as a share of the largest value. Rounding makes about 0.01; a "
        "gradient that is missing makes 1.",
        "",
        "| relative position | tokens | difference |",
        "| --- | --- | --- |",
        *(line for position, found in agreement.items() for line in differences(position, found)),
        "",
    ]
    if profile:
        (remat, attention, batch), found = profile["of"], profile["found"]
        lines += [
            f"What the fastest of these (attention {attention}, remat {remat}, batch {batch}) "
            "spends its time on:",
            "",
        ]
        if isinstance(found, str):
            lines += [found, ""]
        else:
            lines += ["| kernel | share of kernel time |", "| --- | --- |"]
            lines += [f"| `{name}` | {100 * share:.1f} % |" for name, share in found]
            lines += [""]
    return lines


if __name__ == "__main__":
    sys.exit(main())
