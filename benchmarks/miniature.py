"""The miniatures on rendered shapes with several seeds: MAE's gain, imTED's ladder, few-shot.

    PYTHONPATH=. python benchmarks/miniature.py --jobs=8 --seeds 0 1 2 3 4
    PYTHONPATH=. python benchmarks/miniature.py --jobs=0 --draws=1000

Three parts, all from two pre-trainings that are made first:

- starts: configs/mini/random.py against configs/mini/mae.py;
- ladder: the steps of imTED's ablation, configs/mini/ladder.py, on the base classes, each kind of
  box head with the learning rate that suits it best of --lrs with a seed of its own;
- few: fine-tuning on 10 and 30 objects of each class, configs/mini/ladder_few.py, from the ladder's
  runs; each seed has its own objects.

Runs are processes, --jobs of them side by side on one accelerator. Compiled programs are kept, so
that the seeds of a step share one. What is finished is not run again; after --minutes what runs is
stopped, and the same command resumes. Then the tables, in --out/tables.md and on the terminal, and
`jaxdet report` of the starts in --out/report; --jobs=0 does this alone, and --draws draws the
validation images anew.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.miniature_tables import tables
from benchmarks.side_by_side import Job, run_jobs
from jaxdet.benchmark.report import write_report
from jaxdet.config import LADDER
from jaxdet.errors import UserError
from jaxdet.flags import Parser, count, local_path, positive, run_main

PARTS = ("starts", "ladder", "few")
STARTS = ("random", "mae")
FEW_STEPS = ("convs", "modulated_random", "modulated")
SHOTS = (10, 30)
LRS = (1e-3, 3e-3)
TUNED = {"convs": "convs", "decoder": "modulated"}
"""The step by which each kind of box head is tuned."""

TUNING_SEED = 1000
FEW_SHOT_STEPS, FEW_SHOT_WARMUP, FEW_SHOT_BATCH = 500, 40, 16


def main(arguments: list[str] | None = None) -> int:
    parser = Parser("python benchmarks/miniature.py", __doc__)
    parser.add_argument("--out", type=local_path, default=Path("runs/miniature"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=(*STARTS, *LADDER),
        default=(*STARTS, *LADDER),
        help="of all parts; default all",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--lrs", nargs="+", type=float, default=LRS)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time; 0: tables alone")
    parser.add_argument("--minutes", type=positive, default=1e6, help="after which all is stopped")
    parser.add_argument("--draws", type=count, default=0, help="of the validation images")
    parser.add_argument("--steps", type=count, help="of every run, on few images: a try")
    return run_main(lambda: _run(parser.parse_args(arguments)), resumes=True)


def _run(options: Namespace) -> None:
    cache = str((options.out / "compiled").resolve())
    environment = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
    }
    failed = []
    if options.jobs:
        failed = run_jobs(
            Miniature(options).jobs(),
            side_by_side=options.jobs,
            seconds=60 * options.minutes,
            environment=environment,
        )
    starts = options.out / "starts"
    if any(starts.glob("*/result.json")):
        write_report([starts], options.out / "report", options.draws)
    found = tables(options.out, options.draws)
    (options.out / "tables.md").write_text(found)
    print(found)
    if failed:
        names = ", ".join(job.name for job in failed)
        raise UserError(f"{len(failed)} runs failed ({names}); their logs say why, see above")


class Miniature:
    """All runs of the miniature as jobs, in the order in which they are wanted."""

    def __init__(self, options: Namespace):
        self._options = options
        self._out: Path = options.out
        self._shapes = self._out / "data" / "shapes"

    def jobs(self) -> list[Job]:
        options = self._options
        steps = [step for step in LADDER if step in options.arms]
        has_imted = bool(steps) and not {"ladder", "few"}.isdisjoint(options.parts)
        found = [self._pretraining("pretrain")] if "starts" in options.parts else []
        if has_imted:
            found += [self._pretraining("pretrain_fine"), self._rendered()]
            found += [self._objects(shots, seed) for seed in options.seeds for shots in SHOTS]
        for seed in options.seeds if "starts" in options.parts else ():
            found += [self._start(arm, seed) for arm in STARTS if arm in options.arms]
        if has_imted:
            kinds = dict.fromkeys(_kind(step) for step in steps)
            found += [self._tuning(TUNED[kind], lr) for kind in kinds for lr in options.lrs]
        for seed in options.seeds if has_imted else ():
            found += [self._base(step, seed) for step in steps]
            if "few" in options.parts:
                arms = [step for step in FEW_STEPS if step in steps]
                found += [self._few(step, shots, seed) for shots in SHOTS for step in arms]
        return found

    def _pretraining(self, name: str) -> Job:
        flags = [f"--config=mini/{name}"]
        if not self._options.steps:
            flags.append("--config.data.workers=6")
        else:
            flags += ["--config.data.shapes.images=64", "--config.optim.warmup_epochs=0"]
            flags += self._tried(64, 64)
        return self._job(name, "pretrain", flags, result="weights.npz")

    def _rendered(self) -> Job:
        sizes = (64, 16) if self._options.steps else (2000, 500)
        command = ["data", "shapes", str(self._shapes), "--image-size=128"]
        command += [f"--train-images={sizes[0]}", f"--val-images={sizes[1]}"]
        result = self._shapes / "annotations" / "instances_val.json"
        log = self._out / "data" / "shapes.log"
        return Job("data", partial(_jaxdet, *command), result, log)

    def _objects(self, shots: int, seed: int) -> Job:
        """A few objects of each class; the base classes are those of the first job's folder."""
        folder = self._few_folder(shots, seed).parent
        flags = [f"--root={self._shapes}", "--novel=star", f"--shots={shots}", f"--seed={seed}"]
        command = partial(_jaxdet, "data", "fewshot", *flags, str(folder))
        return Job(
            folder.name,
            command,
            _annotations(self._few_folder(shots, seed), "val"),
            self._out / "data" / f"{folder.name}.log",
            needs=(_annotations(self._shapes, "val"),),
        )

    def _start(self, arm: str, seed: int) -> Job:
        flags = [f"--config=mini/{arm}", f"--config.seed={seed}", "--config.data.threads=2"]
        flags += ["--config.data.shapes.val_images=500", "--config.eval_every=24"]
        weights = self._out / "pretrain" / "weights.npz"
        if self._options.steps:
            flags += [*self._tried(64, 8), "--config.data.shapes.train_images=64"]
            flags += ["--config.data.shapes.val_images=20"]
        if arm == "mae":
            flags.append(f"--config.init={weights}")
        needs = (weights,) if arm == "mae" else ()
        return self._job(f"starts/{arm}_{seed}", "train", flags, needs, program="starts")

    def _tuning(self, step: str, lr: float) -> Job:
        """A step of the ladder with a learning rate, on a seed that nothing else has."""
        flags = partial(self._base_flags, step, TUNING_SEED, lr)
        return self._job(
            f"tune/{step}_{lr:g}", "train", flags, self._base_needs(step), f"{step}{lr}"
        )

    def _base(self, step: str, seed: int) -> Job:
        tuned = TUNED[_kind(step)]
        tried = [self._out / "tune" / f"{tuned}_{lr:g}" for lr in self._options.lrs]
        needs = (*self._base_needs(step), *(folder / "result.json" for folder in tried))

        def flags() -> list[str]:
            best = max(tried, key=_box_ap)
            return self._base_flags(step, seed, float(best.name.rpartition("_")[2]))

        program = LADDER[step]
        return self._job(f"ladder/{step}_{seed}", "train", flags, needs, program)

    def _base_flags(self, step: str, seed: int, lr: float) -> list[str]:
        root = self._few_folder(SHOTS[0], self._options.seeds[0]).parent / "base"
        flags = [f"--config=mini/ladder:{step}", f"--config.seed={seed}", f"--config.optim.lr={lr}"]
        flags += [f"--config.data.root={root}", "--config.data.threads=2"]
        if step != "scratch":
            flags.append(f"--config.init={self._out / 'pretrain_fine' / 'weights.npz'}")
        if self._options.steps:
            images = _count_images(_annotations(root, "train"))
            flags += self._tried(images, FEW_SHOT_BATCH)
        return flags

    def _base_needs(self, step: str) -> tuple[Path, ...]:
        root = self._few_folder(SHOTS[0], self._options.seeds[0])
        needs = (_annotations(root, "val"),)
        return needs if step == "scratch" else (*needs, self._out / "pretrain_fine" / "weights.npz")

    def _few(self, step: str, shots: int, seed: int) -> Job:
        base, root = self._out / "ladder" / f"{step}_{seed}", self._few_folder(shots, seed)

        def flags() -> list[str]:
            # Equal numbers of steps whatever the number of images: one program for all seeds.
            images = _count_images(_annotations(root, "train"))
            epochs = FEW_SHOT_BATCH / images
            schedule = [
                f"--config.epochs={FEW_SHOT_STEPS * epochs}",
                f"--config.optim.warmup_epochs={FEW_SHOT_WARMUP * epochs}",
                "--config.eval_every=100000",  # at the end alone
                "--config.checkpoint_every=100000",
            ]
            if self._options.steps:
                schedule = self._tried(images, FEW_SHOT_BATCH)
            return [
                f"--config=mini/ladder_few:{step}",
                f"--config.seed={seed}",
                f"--config.data.root={root}",
                f"--config.few_shot.base_run={base}",
                "--config.data.threads=2",
                *schedule,
            ]

        needs = (base / "result.json", _annotations(root, "val"))
        name = f"few/{step}_{shots}shot_{seed}"
        return self._job(name, "train", flags, needs, f"few {LADDER[step]}")

    def _few_folder(self, shots: int, seed: int) -> Path:
        return self._out / "data" / f"few_{shots}_{seed}" / f"{shots}shot_seed{seed}"

    def _tried(self, images: int, batch: int) -> list[str]:
        """The length of a try, --steps, on so many images."""
        return [f"--config.epochs={self._options.steps * batch / images}"]

    def _job(
        self,
        name: str,
        command: str,
        flags: Sequence[str] | Callable[[], Sequence[str]],
        needs: tuple[Path, ...] = (),
        program: str | None = None,
        result: str = "result.json",
    ) -> Job:
        """A run of `jaxdet <command>` in the workdir `name`; flags may hang on what it needs."""
        workdir = self._out / name

        def whole() -> list[str]:
            given = flags() if callable(flags) else flags
            return _jaxdet(command, *given, f"--workdir={workdir}")

        log = self._out / "logs" / f"{name.replace('/', '_')}.log"
        return Job(name, whole, workdir / result, log, needs, program or name)


def _kind(step: str) -> str:
    return "convs" if step == "convs" else "decoder"


def _jaxdet(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "jaxdet", *arguments]


def _annotations(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def _count_images(annotations: Path) -> int:
    """Images with objects, which an epoch counts."""
    content = json.loads(annotations.read_text())
    return len({each["image_id"] for each in content["annotations"]})


def _box_ap(folder: Path) -> float:
    return json.loads((folder / "result.json").read_text())["metrics"]["bbox"]["AP"]


if __name__ == "__main__":
    sys.exit(main())
