"""The command line: trains a detector and reports its AP, or evaluates one.

    python -m jaxdet.main --config=configs/vitb_mae.py --workdir=runs/vitb_mae
    python -m jaxdet.main --config=... --workdir=... --mode=eval
    python -m jaxdet.main --config=... --workdir=... --mode=eval --detections=results.json
    python -m jaxdet.main --config=... --mode=plan

The third scores a file in COCO's result format, whatever made it. The last one only compiles, and
says what training takes: memory, FLOPs, the largest batch. Every word of the config can be set:
--config.optim.lr=1e-4. The same command resumes a run that was interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import logging

from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.flags import config_path, parse, run_main


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> None:
    values = parse(arguments)
    if values.help:
        print(__doc__ + "\n" + values.main_module_help())
        return
    config = values.config
    check(config)
    if values.detections is not None and values.mode != "eval":
        raise UserError("--detections names a file to score; add --mode=eval")
    name = config_path(arguments).stem
    workdir = Path(values.workdir or Path("runs") / name)
    # Imported late: jax takes seconds, and a mistyped flag should not.
    from jaxdet import parallel
    from jaxdet.benchmark.cost.plan import make_plan, report
    from jaxdet.evaluation.evaluate import evaluate, evaluate_detections
    from jaxdet.train import train
    from jaxdet.training.experiment import Experiment

    if values.distributed:
        parallel.join_processes()
    experiment = Experiment(config, workdir)
    if values.mode == "plan":
        found = make_plan(
            experiment,
            device_memory_gb=values.device_memory_gb,
            peak_tflops=values.peak_tflops,
            utilisation=values.utilisation,
        )
        print(report(found))
    elif values.detections is not None:
        evaluate_detections(experiment, Path(values.detections))
    else:
        {"train": train, "eval": evaluate}[values.mode](experiment)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    sys.exit(main())
