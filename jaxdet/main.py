"""Trains a detector and reports its AP, evaluates one, or plans a training.

    jaxdet train --config=vitb_mae --config.data.root=/data/coco --config.init=mae_vitb.npz
    jaxdet eval --config=vitb_mae --workdir=runs/vitb_mae
    jaxdet eval --config=vitb_mae --detections=results.json
    jaxdet plan --config=vitb_mae

`python -m jaxdet.main --mode=train|eval|plan` is the same. The third scores a file in COCO's result
format, whatever made it. The last one only compiles, and says what training takes: memory, FLOPs,
the largest batch. The same command resumes a run that was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdet.config.command_line import DEFAULT_CONFIG, add_short_flags, parse_with_config
from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.flags import Parser, add_distributed, positive, run_main, share

if TYPE_CHECKING:
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
    parser.set_defaults(detections=None)
    if mode in (None, "eval"):
        parser.add_argument(
            "--detections",
            type=Path,
            metavar="FILE",
            help="eval: a file in COCO's result format to score in place of a checkpoint",
        )
    if mode in (None, "plan"):
        _add_plan_flags(parser.add_argument_group("plan"))
    return parser


def _add_plan_flags(group: argparse._ArgumentGroup) -> None:
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
    # Imported late: jax takes seconds, and a mistyped flag should not.
    from absl import logging

    from jaxdet import parallel
    from jaxdet.training.experiment import Experiment

    logging.set_verbosity(logging.WARNING)
    if options.distributed:
        parallel.join_processes()
    experiment = Experiment(config, options.workdir)
    {"train": _train, "eval": _evaluate, "plan": _plan}[options.mode](experiment, options)


def _train(experiment: Experiment, options: argparse.Namespace) -> None:
    from jaxdet.train import train

    train(experiment)


def _evaluate(experiment: Experiment, options: argparse.Namespace) -> None:
    from jaxdet.evaluation.evaluate import evaluate, evaluate_detections

    if options.detections is None:
        evaluate(experiment)
    else:
        evaluate_detections(experiment, options.detections)


def _plan(experiment: Experiment, options: argparse.Namespace) -> None:
    from jaxdet.benchmark.cost.plan import make_plan, report

    found = make_plan(
        experiment,
        device_memory_gb=options.device_memory_gb,
        peak_tflops=options.peak_tflops,
        utilisation=options.utilisation,
    )
    print(report(found))


if __name__ == "__main__":
    sys.exit(main())
