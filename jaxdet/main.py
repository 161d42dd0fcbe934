"""Trains a detector and reports its AP, evaluates one, or plans a training.

    jaxdet train --config=vitb_mae --config.data.root=/data/coco --config.init=mae_vitb.npz
    jaxdet eval --config=vitb_mae --workdir=runs/vitb_mae
    jaxdet eval --config=vitb_mae --detections=results.json
    jaxdet plan --config=vitb_mae
    jaxdet plan --config=vitb_mae --config.batch_size=16 --device=h100

`python -m jaxdet.main --mode=train|eval|plan` is the same. The third scores a file in COCO's result
format, whatever made it. The last one only compiles, and says what training takes: memory, FLOPs,
the largest batch; with --device for devices that are not there. The same command resumes a run that
was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from jaxdet.config.command_line import DEFAULT_CONFIG, add_short_flags, parse_with_config
from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.flags import Parser, add_distributed, local_path, positive, run_main, share
from jaxdet.training.workdir_lock import lone_run

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from jaxdet.training.experiment import Experiment

MODES = ("train", "eval", "plan")


def main(arguments: Sequence[str] | None = None, mode: str | None = None) -> int:
    """Runs the command; returns its exit status.

    Args:
        mode: one of MODES where the command is `jaxdet <mode>`; None where --mode says it.
    """
    return run_main(lambda: _run(arguments, mode), resumes=True)


def parser_for(mode: str | None) -> Parser:
    """The flags of `jaxdet <mode>`; of `python -m jaxdet.main` for None."""
    parser = Parser("python -m jaxdet.main" if mode is None else f"jaxdet {mode}", __doc__)
    if mode is None:
        parser.add_argument("--mode", choices=MODES, default="train", help="default train")
    else:
        parser.set_defaults(mode=mode)
    add_distributed(parser)
    add_short_flags(parser)
    parser.set_defaults(detections=None, out=None)
    if mode in (None, "eval"):
        parser.add_argument(
            "--detections",
            type=local_path,
            metavar="FILE",
            help="eval: a file in COCO's result format to score in place of a checkpoint",
        )
        parser.add_argument(
            "--out",
            type=local_path,
            metavar="FOLDER",
            help="eval: where the result is written; default the --workdir",
        )
    if mode in (None, "plan"):
        _add_plan_flags(parser.add_argument_group("plan"))
    return parser


def _add_plan_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device",
        metavar="NAME",
        help="compile for devices that are not there: a100, h100, h200, b200, h100x8 (eight of "
        "them), v5e-8, v5p-64, v6e-16, ...; default those at hand",
    )
    group.add_argument(
        "--largest-batch",
        action="store_true",
        help="with --device: compile for other batches too, until the largest that fits is found",
    )
    group.add_argument("--json", action="store_true", help="with --device: print JSON")
    group.add_argument(
        "--device-memory-gb",
        type=positive,
        help="memory of a device in 10^9 bytes; default what it reports, else 80",
    )
    group.add_argument(
        "--peak-tflops",
        type=positive,
        help="peak 10^12 FLOP/s of a device; default its kind's, else an H100's in bfloat16",
    )
    group.add_argument(
        "--utilisation",
        type=share,
        default=0.4,
        help="share of the peak that training is expected to reach; default 0.4",
    )


def _run(arguments: Sequence[str] | None, mode: str | None) -> None:
    options, config = parse_with_config(parser_for(mode), arguments, DEFAULT_CONFIG)
    check(config)
    if options.detections is not None and options.mode != "eval":
        raise UserError("--detections names a file to score; add --mode=eval")
    if options.out is not None and options.mode != "eval":
        raise UserError("--out says where an evaluation is written; add --mode=eval, or --workdir")
    if options.mode == "plan":
        _prepare_plan(options)
    # Of several processes one has the lock, and which it is JAX knows.
    is_alone = options.mode == "train" and not options.distributed
    with lone_run(options.workdir) if is_alone else nullcontext():
        _start(options, config)


def _start(options: argparse.Namespace, config: ConfigDict) -> None:
    # Imported late: jax takes seconds, and a mistyped flag should not.
    from absl import logging

    from jaxdet import parallel
    from jaxdet.training.experiment import Experiment

    logging.set_verbosity(logging.WARNING)
    if options.distributed:
        parallel.join_processes()
    experiment = Experiment(config, options.workdir)
    {"train": _train, "eval": _evaluate, "plan": _plan}[options.mode](experiment, options)


def _prepare_plan(options: argparse.Namespace) -> None:
    """Gets ready to compile for absent devices, which has to be done before JAX starts."""
    if options.device is None:
        if options.largest_batch or options.json:
            raise UserError("--largest-batch and --json are for absent devices; add --device=NAME")
        return
    from jaxdet.benchmark.cost.targets import parse_target, prepare_environment, require_compiler

    target = parse_target(options.device)
    require_compiler(target)
    prepare_environment(target)


def _train(experiment: Experiment, options: argparse.Namespace) -> None:
    from jaxdet.train import train

    train(experiment)


def _evaluate(experiment: Experiment, options: argparse.Namespace) -> None:
    from jaxdet.evaluation.evaluate import evaluate, evaluate_detections

    if options.detections is None:
        evaluate(experiment, options.out)
    else:
        evaluate_detections(experiment, options.detections, options.out)


def _plan(experiment: Experiment, options: argparse.Namespace) -> None:
    if options.device is not None:
        _plan_absent(experiment, options)
        return
    from jaxdet.benchmark.cost.plan import make_plan, report

    found = make_plan(
        experiment,
        device_memory_gb=options.device_memory_gb,
        peak_tflops=options.peak_tflops,
        utilisation=options.utilisation,
    )
    print(report(found))


def _plan_absent(experiment: Experiment, options: argparse.Namespace) -> None:
    """Plans for devices that are not there."""
    from jaxdet.benchmark.cost.bound import (
        as_json,
        find_bound,
        report,
        with_full,
        with_largest_batch,
    )
    from jaxdet.benchmark.cost.plan import count_classes
    from jaxdet.benchmark.cost.targets import parse_target, with_facts

    num_classes, _ = count_classes(experiment)
    target = parse_target(options.device)
    target = with_facts(target, options.device_memory_gb, options.peak_tflops)
    bound = find_bound(experiment.workdir.name, experiment.config, num_classes, target)
    bound = with_full(bound, num_classes)
    if options.largest_batch:
        bound = with_largest_batch(bound, num_classes)
    print(json.dumps(as_json(bound), indent=1) if options.json else report(bound))


if __name__ == "__main__":
    sys.exit(main())
