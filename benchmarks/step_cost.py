"""What each part of a config's training step costs: FLOPs, bytes, memory, and time on this machine.

    python benchmarks/step_cost.py --config=configs/vitb_mae.py

Needs no data and no accelerator; runs the step's parts on random numbers, the whole step only once.
Writes benchmarks/step_cost.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.benchmark.cost.analytic import COCO_CLASSES, forward_cost, total
from jaxdet.benchmark.cost.compiled_program import XlaCost, xla_cost
from jaxdet.benchmark.cost.step import full_batch
from jaxdet.config.files import load_config
from jaxdet.config.mask_rcnn import check
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.mask_rcnn import MaskRCNN
from jaxdet.models.roi_features import Features, PyramidRoIs
from jaxdet.training.optim import build_optimizer
from jaxdet.training.step import initial_state, make_train_step

FORWARD, STEP = "whole forward pass with losses", "whole step (gradient, AdamW)"
ROI_ALIGN = ("RoIAlign of the box head", "RoIAlign of the mask head")


class Part(NamedTuple):
    """One row of the table; `seconds` is the median of several runs."""

    name: str
    cost: XlaCost
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("configs/vitb_mae.py"))
    parser.add_argument("--dtype", default=None, help="compute dtype instead of the config's")
    parser.add_argument("--runs", type=int, default=3, help="of each part but the whole step")
    options = parser.parse_args()

    config = load_config(options.config)
    config.batch_size = config.eval_batch_size = 1
    if options.dtype:
        config.model.dtype = options.dtype
    check(config)
    parts = measure(config, options.runs)
    lines = report(config, options, parts)
    target = Path(__file__).parent / "step_cost.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines) + f"\nwritten to {target}")


def measure(config: ConfigDict, runs: int) -> list[Part]:
    """Compiles and runs every part of the step on one image full of objects."""
    stateless = StatelessModel(lambda rngs: build_detector(config, COCO_CLASSES, rngs))
    params, stats = jax.jit(stateless.init)(jax.random.key(0))
    batch, keys = full_batch(config, COCO_CLASSES), jax.random.split(jax.random.key(0), 1)
    parts = []

    def run(name: str, function: Any, *arguments: Any) -> Any:
        """Measures function(model, *arguments) as a part and returns what it returns."""

        def bound(params, stats, *arguments):
            return function(stateless.bind(params, stats), *arguments)

        result, part = time_part(name, bound, (params, stats, *arguments), runs)
        parts.append(part)
        print(f"{name}: {part.cost.flops / 1e9:.1f} GFLOP, {part.seconds:.2f} s", flush=True)
        return result

    image = (batch["image"], batch["image_hw"])
    objects = (batch["boxes"], batch["labels"], batch["valid"])
    tokens = run("backbone", lambda m, *a: m.backbone(m.normalise(*a)), *image)
    pyramid = run("pyramid", lambda m, x: m.pyramid.merge(m.pyramid.project(x), train=True), tokens)
    maps = Features(pyramid, tokens[-1])
    objectness, deltas = run("RPN head", lambda m, x: m.rpn(x), pyramid)
    run("RPN matching and losses", rpn_losses, pyramid, objectness, deltas, *objects, keys)
    proposals = run("proposals", propose, pyramid, objectness, deltas, batch["image_hw"])
    samples = run(
        "sampling of RoIs", lambda m, *a: jax.vmap(m._sample)(*a), proposals, *objects, keys
    )
    box_size, mask_size = config.model.detector.box_roi_size, config.model.detector.mask_roi_size
    features = run(
        ROI_ALIGN[0],
        lambda m, x, r: m.box_features.combine(m._pool(m.box_features, box_size, x, r)),
        maps,
        samples.rois,
    )
    run("box head", partial(head, "box_head"), features, samples.sampled)
    most = int(config.model.detector.roi_batch * config.model.detector.roi_positive)
    positives = jax.tree.map(lambda a: a[:, :most], samples)
    features = run(
        ROI_ALIGN[1],
        lambda m, x, r: m._pool(PyramidRoIs(m.settings), mask_size, x, r),
        maps,
        positives.rois,
    )
    logits = run("mask head", partial(head, "mask_head"), features, positives.foreground)
    run(
        "mask targets and loss",
        lambda m, *a: jax.vmap(m._mask_loss)(*a),
        logits.reshape(1, most, *logits.shape[1:]),
        positives,
        batch["masks"],
        batch["boxes"],
    )
    run(FORWARD, lambda m, *a: m.losses(*a)[0], batch, keys)
    parts.append(full_step(config, stateless, batch))
    return parts


def time_part(name: str, function: Any, arguments: tuple[Any, ...], runs: int) -> tuple[Any, Part]:
    compiled = jax.jit(function).lower(*arguments).compile()
    cost = xla_cost(compiled, jax.make_jaxpr(function)(*arguments))
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - started)
    return result, Part(name, cost, statistics.median(seconds))


def full_step(config: ConfigDict, stateless: StatelessModel, batch: dict[str, Any]) -> Part:
    mesh = parallel.data_mesh(1, 1)
    optimizer = build_optimizer(config, lambda step: config.optim.lr)
    step, key = make_train_step(stateless, optimizer, mesh), jax.random.key(0)
    state = jax.jit(partial(initial_state, stateless, optimizer))(key)
    compiled = step.lower(state, batch, key).compile()
    cost = xla_cost(compiled, jax.make_jaxpr(step)(state, batch, key))
    started = time.perf_counter()
    jax.block_until_ready(compiled(state, batch, key))
    return Part(STEP, cost, time.perf_counter() - started)


def rpn_losses(model: MaskRCNN, pyramid, objectness, deltas, boxes, labels, valid, keys):
    one_image = partial(model._rpn_losses, np.concatenate(model.anchors(pyramid)))
    flat = jnp.concatenate(objectness, 1), jnp.concatenate(deltas, 1)
    return jax.vmap(one_image)(*flat, boxes, valid, keys)


def propose(model: MaskRCNN, pyramid, objectness, deltas, image_hw):
    return model._propose(objectness, deltas, model.anchors(pyramid), image_hw, train=True)


def head(name: str, model: MaskRCNN, features, valid):
    x = features.reshape(-1, *features.shape[2:])
    return getattr(model, name)(x, valid=valid.reshape(-1), train=True)


def report(config: ConfigDict, options: argparse.Namespace, parts: list[Part]) -> list[str]:
    detector = config.model.detector
    masks = int(detector.roi_batch * detector.roi_positive)
    analytic = forward_cost(config, COCO_CLASSES, proposals=detector.roi_batch, masks=masks)
    needed = 2 * total(analytic.values()).multiply_adds
    cost = {part.name: part.cost for part in parts}
    seconds = {part.name: part.seconds for part in parts}
    pooled = [
        sum(values[name] for name in ROI_ALIGN)
        for values in ({name: c.flops for name, c in cost.items()}, seconds)
    ]

    def row(part: Part) -> str:
        c = part.cost
        return (
            f"| {part.name} | {c.flops / 1e9:.1f} | {c.bytes_accessed / 1e9:.2f} | "
            f"{c.temporary_bytes / 1e9:.2f} | {part.seconds:.2f} | "
            f"{100 * c.flops / cost[FORWARD].flops:.1f} | "
            f"{100 * part.seconds / seconds[FORWARD]:.1f} |"
        )

    return [
        f"# {options.config.stem}: what a training step costs",
        "",
        f"`python benchmarks/step_cost.py --config={options.config}`: {config.image_size} px, "
        f"batch 1, {config.model.dtype}, {detector.roi_batch} RoIs and "
        f"{config.data.max_instances} objects, no "
        "rematerialisation. FLOPs, bytes and temporary memory are XLA's own counts of the compiled "
        "parts, loops of known length counted as often as they run (bytes: once). Times are wall "
        f"clock on this CPU, the median of {options.runs} runs of each part and one run of the "
        "step, on random numbers. Parts are compiled apart: inside the whole, XLA joins them.",
        "",
        f"jax {jax.__version__}, {os.cpu_count()} cores, {platform.machine()}, "
        f"{time.strftime('%Y-%m-%d')}.",
        "",
        "| part | GFLOP | GB accessed | GB temporary | seconds | % of forward FLOPs | % of forward "
        "time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *map(row, parts),
        "",
        "What the model needs (`jaxdet.benchmark.cost.analytic`), in 10^9 multiply-adds of an "
        "image's forward pass: "
        + ", ".join(f"{name} {c.multiply_adds / 1e9:.1f}" for name, c in analytic.items())
        + f"; together {needed / 2e9:.1f}.",
        "",
        f"- Forward pass: {cost[FORWARD].flops / needed:.3f} of twice the multiply-adds needed.",
        f"- Step: {cost[STEP].flops / (3 * needed):.3f} of three times that (at most 1.10 wanted).",
        f"- RoIAlign of both heads: {100 * pooled[0] / cost[FORWARD].flops:.2f} % of the forward "
        f"pass's FLOPs and {100 * pooled[1] / seconds[FORWARD]:.1f} % of its time (at most 5 % "
        "wanted).",
        "",
    ]


if __name__ == "__main__":
    main()
