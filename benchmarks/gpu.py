"""What training takes on the GPU at hand, beside the bound of its compiled program, by one command.

    PYTHONPATH=. python benchmarks/gpu.py
    PYTHONPATH=. python benchmarks/gpu.py "vitdet_b_mae batch_size=8 model.vit.remat=block"

Needs jax with CUDA, flax, optax, numpy, jaxtyping, ml_collections and absl-py, and no data. Each
argument is a config and keys of it to change; without any, STEPS. Measures the card's rates of
matrix products and of copies, whether cuDNN's gradients are right, each training step's rate and
memory, and where the first one's time goes. Writes runs/gpu.md, anew after each step. A
measurement is a process of its own, so that its peak of memory is its own and running out of memory
ends it alone; `--jobs` of them compile side by side, and one is timed while none compiles.
`--smoke` runs all of it on any machine on a tiny detector and writes nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks.attention_agreement import disagreement
from jaxdet import parallel
from jaxdet.benchmark.cost import hlo
from jaxdet.benchmark.cost.analytic import needed_flops
from jaxdet.benchmark.cost.class_count import usual_classes
from jaxdet.benchmark.cost.devices import ACCELERATORS, Accelerator
from jaxdet.benchmark.cost.parts import OTHER, PARTS
from jaxdet.benchmark.cost.roofline import parts_of, roofline
from jaxdet.benchmark.cost.step import compile_step, full_batch, resized_config
from jaxdet.config.command_line import config_of
from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.flags import Parser, run_main
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.training.optim import build_optimizer
from jaxdet.training.step import initial_state

STEPS = (
    "vitb_mae batch_size=16",
    "vitb_mae batch_size=32",
    "vitb_mae batch_size=4 model.vit.attention=xla",
    "vitb_mae batch_size=16 model.vit.attention=xla model.vit.remat=block",
    "vitl_mae batch_size=16",
    "vitdet_b_mae batch_size=16",
    "vitdet_l_mae batch_size=8",
    "imted_mask:b batch_size=8",
)
SMOKE_STEPS = ("shapes_tiny batch_size=2", "shapes_tiny batch_size=1 model.vit.remat=block")

POSITIONS = ("shared", "decomposed", "none")


def main() -> int:
    return run_main(measure)


def measure() -> None:
    parser = Parser("benchmarks/gpu.py", __doc__)
    parser.add_argument("step", nargs="*", help="a config and keys to change, in one argument")
    parser.add_argument("--timed", type=int, default=20, help="timed steps of each measurement")
    parser.add_argument("--jobs", type=int, default=4, help="that compile side by side")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one measurement")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.md"))
    parser.add_argument("--smoke", action="store_true", help="try the script itself, anywhere")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.timed = 2
    if options.task:
        print(json.dumps(TASKS[options.task.pop("name")](options, **options.task)))
        return

    steps = options.step or (SMOKE_STEPS if options.smoke else STEPS)
    with tempfile.NamedTemporaryFile() as lock, ThreadPoolExecutor(options.jobs) as pool:
        device = run(options, lock.name, "device")
        if isinstance(device, str):
            raise UserError(device)
        if device["platform"] != "gpu" and not options.smoke:
            raise UserError("jax finds no GPU here; --smoke tries the script without")
        start = partial(pool.submit, run, options, lock.name)
        measured = {step: start("step", step=step) for step in steps[:1]}
        profile = start("profile", step=steps[0])
        measured |= {step: start("step", step=step) for step in steps[1:]}
        agreement = {one: start("agreement", position=one) for one in POSITIONS}
        for future in (*measured.values(), profile, *agreement.values()):
            future.result()
            lines = report(
                options,
                device,
                {name: one.result() for name, one in agreement.items() if one.done()},
                {name: one.result() for name, one in measured.items() if one.done()},
                (steps[0], profile.result()) if profile.done() else None,
            )
            if not options.smoke:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def run(options: argparse.Namespace, lock: str, name: str, **arguments: Any) -> Any:
    """The result of a task in a process of its own; where it fails, the last line it said."""
    task = json.dumps({"name": name, **arguments})
    print(task, file=sys.stderr, flush=True)
    command = [sys.executable, __file__, f"--task={task}", f"--timed={options.timed}"]
    command += ["--smoke"] if options.smoke else []
    root = str(Path(__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAXDET_GPU_LOCK": lock,
    }
    if name == "profile":  # as parts of a graph, kernels lose the names of what they compute
        flags = [os.environ.get("XLA_FLAGS", ""), "--xla_gpu_enable_command_buffer="]
        environment["XLA_FLAGS"] = " ".join(flags)
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=options.limit,
        )
    except subprocess.TimeoutExpired:
        return f"not done in {options.limit:.0f} s"
    print(f"{task}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "RESOURCE_EXHAUSTED" in done.stderr:
        return "out of memory"
    print(done.stderr[-4000:], file=sys.stderr, flush=True)
    said = done.stderr.strip().splitlines()
    return said[-1].removeprefix("error: ") if said else f"ended with status {done.returncode}"


@contextmanager
def gpu(*, alone: bool) -> Iterator[None]:
    """The GPU, shared with other measurements that compile, or alone."""
    with open(os.environ["JAXDET_GPU_LOCK"]) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def device_task(options: argparse.Namespace) -> dict[str, Any]:
    """The device, and its rates: bfloat16 matrix products in 10^12 FLOP/s, copies in 10^9 B/s."""
    side, rounds = (256, 2) if options.smoke else (8192, 20)
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    y = x / side**0.5
    seconds = {
        "product": _seconds(lambda _, x: (x @ y).astype(x.dtype), x, rounds),
        "copy": _seconds(lambda _, x: -x, jnp.tile(x, (8, 1)), rounds),
    }
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "memory": (device.memory_stats() or {}).get("bytes_limit"),
        "version": device.client.platform_version.splitlines()[0],
        "tflops": 2 * side**3 / seconds["product"] / 1e12,
        "copied": 2 * 8 * x.nbytes / seconds["copy"] / 1e9,
        "side": side,
    }


def _seconds(function: Any, x: jax.Array, rounds: int) -> float:
    """Of one round of a function of the round's number and an array like x."""
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, rounds, function, x))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        chain(x).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:]) / rounds


def agreement_task(options: argparse.Namespace, position: str) -> dict[str, dict[str, float]]:
    """cuDNN's attention against XLA's, in windows and on the whole map of a 1024 px image."""
    if options.smoke:
        sizes, implementation, shape = {"4 x 4": (4, 3)}, "xla", {"heads": 2, "channels": 8}
    else:
        sizes, implementation = {"14 x 14": (14, 25), "64 x 64": (64, 2)}, "cudnn"
        if position != "shared":
            sizes["63 x 63"] = (63, 2)  # an odd number of tokens
        shape = {"heads": 12, "channels": 64}
    with gpu(alone=False):
        return {
            name: disagreement(implementation, position, side=side, sequences=sequences, **shape)
            for name, (side, sequences) in sizes.items()
        }


def step_task(options: argparse.Namespace, step: str) -> dict[str, float]:
    """Median time and peak memory of a training step, and the bound of its program."""
    prepared = Prepared(step)
    with gpu(alone=True):
        state, *rest = prepared.arguments()
        seconds = []
        for _ in range(options.timed + 1):
            started = time.perf_counter()
            state, metrics = prepared.step.compiled(state, *rest)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - started)
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    typical = statistics.median(seconds[1:])
    rate = prepared.config.batch_size / typical
    bound = roofline(prepared.program, accelerator(), 1).total
    return {
        "batch": prepared.config.batch_size,
        "seconds": typical,
        "slowest": max(seconds[1:]),
        "images_per_second": rate,
        "bound_seconds": bound.seconds,
        "launches": bound.launches,
        "needed_tflops": rate * needed_flops(prepared.config, prepared.classes) / 1e12,
        "planned_bytes": prepared.step.total_bytes,
        "peak_bytes": peak,
        "compile_seconds": prepared.compile_seconds,
        "loss": float(metrics["loss"]),
    }


def profile_task(options: argparse.Namespace, step: str) -> dict[str, Any]:
    """Seconds of the kernels of a step by part, beside the bound, and the longest kernels."""
    prepared, rounds = Prepared(step), 3
    with gpu(alone=True), tempfile.TemporaryDirectory() as folder:
        state, *rest = prepared.arguments()
        state, _ = prepared.step.compiled(state, *rest)
        jax.block_until_ready(state)
        with jax.profiler.trace(folder):
            for _ in range(rounds):
                state, metrics = prepared.step.compiled(state, *rest)
            jax.block_until_ready((state, metrics))
        traces = Path(folder).rglob("*.xplane.pb")
        spent, kernels = kernel_times(jax.profiler.ProfileData.from_file(str(next(traces))))
    parts, names = Counter(), parts_of(prepared.program)
    for name, nanoseconds in spent.items():
        parts[names.get(name, OTHER)] += nanoseconds / rounds / 1e9
    bound = roofline(prepared.program, accelerator(), 1)
    return {
        "parts": dict(parts),
        "bound": {name: share.seconds for name, share in bound.parts.items()},
        "launches": kernels / rounds,
        "longest": [
            [name, names.get(name, OTHER), nanoseconds / rounds / 1e9]
            for name, nanoseconds in spent.most_common(40)
        ],
    }


def kernel_times(profile: jax.profiler.ProfileData) -> tuple[Counter[str], int]:
    """Nanoseconds by the instruction whose kernels took them, and how many kernels ran."""
    planes = list(profile.planes)
    on_device = [plane for plane in planes if plane.name.startswith("/device:")]
    spent: Counter[str] = Counter()
    kernels = 0
    for plane in on_device or planes:
        for line in plane.lines:
            if on_device and not line.name.startswith("Stream"):
                continue  # JAX's own summaries of the same kernels
            for event in line.events:
                found = dict(event.stats)
                if "hlo_op" in found or on_device:
                    spent[str(found.get("hlo_op", event.name))] += event.duration_ns
                    kernels += 1
    return spent, kernels


TASKS = {
    "device": device_task,
    "agreement": agreement_task,
    "step": step_task,
    "profile": profile_task,
}


class Prepared:
    """A config's compiled step, what its program says, and what to call it with."""

    def __init__(self, step: str):
        self.config = experiment_config(step)
        self.classes = usual_classes(self.config)[0]
        self.mesh = parallel.data_mesh(self.config.batch_size, self.config.batch_size)
        started = time.perf_counter()
        with gpu(alone=False):
            self.step = compile_step(self.config, self.classes, self.mesh)
            self.compile_seconds = time.perf_counter() - started
            stateless = StatelessModel(
                lambda rngs: build_detector(self.config, self.classes, rngs, self.mesh)
            )
            optimizer = build_optimizer(self.config, lambda step: self.config.optim.lr)
            start = jax.jit(
                partial(initial_state, stateless, optimizer),
                out_shardings=parallel.replicated(self.mesh),
            )
            self._start = start.lower(jax.random.key(0)).compile()
        self.program = hlo.parse(self.step.compiled.as_text())

    def arguments(self) -> tuple[Any, ...]:
        key = jax.device_put(jax.random.key(0), parallel.replicated(self.mesh))
        data = jax.device_put(
            full_batch(self.config, self.classes), parallel.batch_sharding(self.mesh)
        )
        return self._start(key), data, key


def experiment_config(step: str) -> ConfigDict:
    name, *keys = step.split()
    config = config_of([f"--config={name}", *(f"--config.{key}" for key in keys)])
    config = resized_config(config, config.batch_size)
    config.eval_batch_size = config.batch_size
    config.model.dtype = "bfloat16"
    check(config)
    return config


def accelerator() -> Accelerator:
    """What the maker says of this device; of one that is not listed, what it says of an H100."""
    kind = jax.devices()[0].device_kind
    known = [one for one in ACCELERATORS if kind.startswith(one.kind)]
    assumed = next(one for one in ACCELERATORS if one.name == "h100")
    return max(known, key=lambda one: len(one.kind), default=assumed)


def report(options, device, agreement, measured, profile) -> list[str]:
    lines = [
        f"# Training on one {device['kind']}",
        "",
        f"`python benchmarks/gpu.py`; jax {jax.__version__}, {device['version']}, "
        f"{time.strftime('%Y-%m-%d')}.",
        "",
        f"Matrix products of {device['side']} x {device['side']} in bfloat16 run at "
        f"{device['tflops']:.0f} TFLOP/s here, copies at {device['copied']:.0f} GB/s.",
        "",
        "The training step in bfloat16 on noise, 1024 px unless a key says otherwise, as many "
        f"objects an image as fit in, median of {options.timed} steps. The bound is of the same "
        "compiled program by the maker's figures (`jaxdet/benchmark/cost/roofline.py`). "
        "Utilisation is what the layers need (the forward pass's multiply-adds, and twice those "
        "of what is trained, whatever is computed again) over the rate of matrix products above.",
        "",
        "| step | images/s | ms a step (slowest) | bound, ms | launches | GB planned | GB at peak "
        "| utilisation | s to compile |",
        "|" + " --- |" * 9,
        *(_row(step, found, device) for step, found in measured.items()),
        "",
        "cuDNN's attention in bfloat16 against XLA's in float32: largest difference of the output "
        "and of each gradient as a share of the largest value. Rounding makes about 0.01; a "
        "gradient that is missing makes 1.",
        "",
        "| relative position | tokens | difference |",
        "| --- | --- | --- |",
        *(line for position, found in agreement.items() for line in _differences(position, found)),
        "",
    ]
    if profile:
        lines += _profile_lines(*profile)
    return lines


def _row(step: str, found: dict[str, float] | str, device: dict[str, Any]) -> str:
    if isinstance(found, str):
        return f"| {step} | {found} |" + " |" * 7
    peak = found["peak_bytes"]
    return (
        f"| {step} | {found['images_per_second']:.2f} | {1e3 * found['seconds']:.1f} "
        f"({1e3 * found['slowest']:.1f}) | {1e3 * found['bound_seconds']:.1f} | "
        f"{found['launches']} | {found['planned_bytes'] / 1e9:.2f} | "
        f"{'unknown' if peak is None else f'{peak / 1e9:.2f}'} | "
        f"{100 * found['needed_tflops'] / device['tflops']:.1f} % | "
        f"{found['compile_seconds']:.0f} |"
    )


def _differences(position: str, found: dict[str, dict[str, float]] | str) -> list[str]:
    if isinstance(found, str):
        return [f"| {position} | | {found} |"]
    return [
        f"| {position} | {tokens} | "
        + ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        + " |"
        for tokens, values in found.items()
    ]


def _profile_lines(step: str, found: dict[str, Any] | str) -> list[str]:
    if isinstance(found, str):
        return [f"Where the time of {step} goes: {found}", ""]
    total = sum(found["parts"].values())
    return [
        f"Where the time of {step} goes, its {found['launches']:.0f} kernels a step timed one by "
        "one (started without graphs):",
        "",
        "| part | measured, ms | bound, ms |",
        "| --- | --- | --- |",
        *(
            f"| {part} | {1e3 * found['parts'].get(part, 0):.2f} | "
            f"{1e3 * found['bound'].get(part, 0):.2f} |"
            for part in PARTS
        ),
        f"| all | {1e3 * total:.2f} | {1e3 * sum(found['bound'].values()):.2f} |",
        "",
        "| instruction | part | ms |",
        "| --- | --- | --- |",
        *(
            f"| `{_plain(name)}` | {part} | {1e3 * seconds:.2f} |"
            for name, part, seconds in found["longest"]
        ),
        "",
    ]


def _plain(name: str) -> str:
    """A name that cannot end a cell of a table."""
    return re.sub(r"[^\w.:/-]+", " ", name)[:80]


if __name__ == "__main__":
    sys.exit(main())
