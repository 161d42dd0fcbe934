"""A trained detector over a dataset: detections in COCO's result layout, and their AP."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from jaxdet import __version__, parallel
from jaxdet.config.mask_rcnn import config_digest
from jaxdet.config.roles import TEST_KEYS, difference
from jaxdet.data.loader import eval_batches
from jaxdet.data.rle import compressed_rle
from jaxdet.data.source import augmentation_of, loader_settings
from jaxdet.errors import UserError
from jaxdet.evaluation.coco import IOU_TYPES, check_novel, evaluate_coco, split_ap
from jaxdet.evaluation.submission import read_detections
from jaxdet.evaluation.table import KINDS, category_table, points, tide_lines
from jaxdet.evaluation.tide import evaluate_tide
from jaxdet.files import atomic_write, without_nan, write_json
from jaxdet.inference.coco_results import Results, coco_results, result_workers
from jaxdet.inference.prediction import DRAWN_SCORE
from jaxdet.models.build import StatelessModel, Tree, parameter_count
from jaxdet.models.mask_rcnn import Detections
from jaxdet.training.checkpoint import Checkpoints, abstract, digest
from jaxdet.training.experiment import Experiment
from jaxdet.visualize import contact_sheet, draw_detections
from jaxdet.weights.load import load_detector

Metrics = dict[str, Any]

DRAWN_IMAGES = 8


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
        metrics: COCO's numbers for boxes and masks, under "tide" what each type of error costs
            them, in few-shot detection the APs of base and novel classes under "few_shot".
        results: the detections they were computed from, in COCO's result layout.
        seconds: how long it took to "detect" (images read, detected on, masks encoded; without the
            compilation) and to "score" the detections; None where nothing was detected.
    """

    metrics: Metrics
    results: Results
    seconds: dict[str, float | None]


class Subject(NamedTuple):
    """What was evaluated.

    Attributes:
        kind: one of "checkpoint", "converted detector" and "file of detections".
        path: the checkpoint or file it came from.
        sha256: of its arrays (`jaxdet.training.checkpoint.digest`), or of a file of detections.
        config: the complete config it was trained with, its TEST_KEYS as evaluated.
        init: name and SHA-256 of the original of the weights it started from.
        step, epochs, train_images: of its training, where that was a run's.
    """

    kind: str
    path: Path
    sha256: str
    config: dict[str, Any]
    init: dict[str, str] | None = None
    step: int = 0
    epochs: float | None = None
    train_images: int | None = None


def detect_function(
    stateless: StatelessModel, mesh: jax.sharding.Mesh
) -> Callable[[Tree, Tree, dict[str, jax.Array]], Detections]:
    """The detector of parameters and batch statistics on a batch, compiled at its first call."""

    def detect(params: Tree, stats: Tree, batch: dict[str, jax.Array]) -> Detections:
        return stateless.bind(params, stats).detect(batch)

    return jax.jit(detect, out_shardings=parallel.split_batch(mesh))


class Evaluator:
    """Runs an experiment's detector over its validation set; compiled once, called often."""

    def __init__(self, experiment: Experiment):
        check_novel(
            {category.name for category in experiment.val_set.categories},
            experiment.config.few_shot.novel,
        )
        self._detect = detect_function(experiment.stateless, experiment.mesh)
        self._experiment = experiment
        self._is_compiled = False

    def __call__(self, params: Tree, stats: Tree) -> Evaluation:
        """Every process gets the same numbers; the main one works them out."""
        results, detecting = self.detect(params, stats)
        started = time.monotonic()
        iou_types = IOU_TYPES if self._experiment.config.model.heads.mask else ("bbox",)
        metrics = [score(self._experiment, results, iou_types)] if parallel.is_main() else []
        metrics = parallel.gather(metrics)[0]
        scoring = time.monotonic() - started
        return Evaluation(metrics, results, {"detect": detecting, "score": scoring})

    def detect(self, params: Tree, stats: Tree) -> tuple[Results, float]:
        """Detections on every validation image, in COCO's result layout, and the seconds they took.

        Masks are pasted and encoded while the device works on the next batches: by two threads, or
        by config.eval_workers processes.

        Raises:
            UserError: a worker process came to its end.
        """
        workers = self._experiment.config.eval_workers
        results, compiling = [], 0.0
        started = time.monotonic()
        with ExitStack() as stack:
            processes = stack.enter_context(result_workers(workers)) if workers else None
            count = workers + 1 if workers else 2
            threads = stack.enter_context(ThreadPoolExecutor(count))
            pending = deque()
            for host, batch in self._batches():
                called = time.monotonic()
                detections = self._detect(params, stats, batch)
                if not self._is_compiled:
                    # The device works on its own time: the first call lasts as long as compilation.
                    compiling, self._is_compiled = time.monotonic() - called, True
                pending.append(threads.submit(self._encode, host, detections, processes))
                if len(pending) > 2 * count:
                    results += pending.popleft().result()
            for future in pending:
                results += future.result()
            seconds = time.monotonic() - started - compiling
        # In the dataset's order, however many processes found them.
        place = {image_id: i for i, image_id in enumerate(self._experiment.val_set.image_ids)}
        results = sorted(parallel.gather(results), key=lambda result: place[result["image_id"]])
        return results, seconds

    def _encode(
        self,
        host: dict[str, np.ndarray],
        detections: Detections,
        processes: ProcessPoolExecutor | None,
    ) -> Results:
        rows = parallel.local_rows(detections)._asdict()
        known = {name: values for name, values in host.items() if name != "image"}
        category_ids = [category.id for category in self._experiment.val_set.categories]
        if processes is None:
            return coco_results(rows, known, category_ids)
        try:
            return processes.submit(coco_results, rows, known, category_ids).result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that encodes masks came to its end, as for want of memory; give a "
                "smaller --config.eval_workers, 0 for none"
            ) from error

    def _batches(self) -> Iterator[tuple[dict[str, np.ndarray], dict[str, jax.Array]]]:
        """Batches of this process as they are on the host, and their images on the devices."""
        config = self._experiment.config
        for host in eval_batches(
            self._experiment.val_set,
            augmentation_of(config),
            loader_settings(
                config.data, config.eval_batch_size, jax.process_index(), jax.process_count()
            ),
        ):
            inputs = {name: host[name] for name in ("image", "image_hw")}
            yield host, parallel.place_batch(inputs, self._experiment.mesh)


def score(experiment: Experiment, results: Results, iou_types: Sequence[str]) -> Metrics:
    """The numbers of detections on an experiment's validation set, see `Evaluation`."""
    ground_truth, config = experiment.val_set.ground_truth(), experiment.config
    limits = {"iou_types": iou_types, "max_detections": config.model.detector.detections}
    metrics = evaluate_coco(ground_truth, results, **limits)
    if config.few_shot.novel:
        metrics["few_shot"] = {
            f"{classes}_{kind}": ap
            for kind in iou_types
            for classes, ap in split_ap(
                metrics[kind]["per_category"], config.few_shot.novel
            ).items()
        }
    metrics["tide"] = evaluate_tide(ground_truth, results, **limits)
    return metrics


def evaluate(experiment: Experiment) -> Metrics:
    """Evaluates the newest checkpoint of the workdir, or config.init if there is none.

    Raises:
        UserError: there is neither, or the checkpoint was trained as another model, or config.init
            is not a whole detector.
    """
    folder, has_init = experiment.checkpoint_folder, experiment.config.init is not None
    if not folder.is_dir() and has_init:
        return _evaluate_converted(experiment)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; train first, or give the run's --workdir")
    with Checkpoints(folder) as checkpoints:
        step = checkpoints.latest
        if step is None and has_init:
            return _evaluate_converted(experiment)
        if step is None:
            raise UserError(f"{folder} holds no checkpoint yet; train first")
        stored, given = checkpoints.meta(step), experiment.identity
        free = {f"config.model.detector.{word}" for word in TEST_KEYS}
        changed = (
            difference(stored["config"]["model"], given["config"]["model"], "config.model", free)
            or difference(
                stored["config"]["image_size"], given["config"]["image_size"], "config.image_size"
            )
            or difference(stored["categories"], given["categories"], "categories")
        )
        if changed:
            raise UserError(
                f"the checkpoint in {folder} was trained as another model ({changed}); "
                "give the config and the classes of that run"
            )
        if parallel.is_main():
            print(experiment.val_set.summary())
        params, stats = experiment.stateless.abstract
        target = abstract({"params": params, "stats": stats}, parallel.replicated(experiment.mesh))
        state = checkpoints.restore(step, target)
    evaluation = Evaluator(experiment)(state["params"], state["stats"])
    for word in TEST_KEYS:
        stored["config"]["model"]["detector"][word] = given["config"]["model"]["detector"][word]
    subject = trained_subject(experiment, stored, state["params"], state["stats"])
    if parallel.is_main():
        report(experiment, subject, evaluation)
    return evaluation.metrics


def trained_subject(
    experiment: Experiment, record: dict[str, Any], params: Tree, stats: Tree
) -> Subject:
    """A checkpoint of the experiment's workdir as the subject of an evaluation.

    Args:
        record: what is stored beside its arrays (`jaxdet.train`).
    """
    position, trained_images = record["position"], record["train_images"]
    return Subject(
        kind="checkpoint",
        step=position["step"],
        epochs=position["images"] / trained_images,
        train_images=trained_images,
        path=experiment.checkpoint_folder / str(position["step"]),
        sha256=digest(params, stats),
        config=record["config"],
        init=_origin(experiment.workdir) if record["config"]["init"] is not None else None,
    )


def _origin(workdir: Path) -> dict[str, str] | None:
    """Name and SHA-256 of the original that a run's init.json tells of, None where none does."""
    try:
        report = json.loads((workdir / "init.json").read_text(encoding="utf-8"))
        return {word: report["source"][word] for word in ("file", "sha256")}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _evaluate_converted(experiment: Experiment) -> Metrics:
    """Evaluates the converted detector that config.init names."""
    path = Path(experiment.config.init)
    params, stats, origin = load_detector(experiment.config, *experiment.stateless.abstract)
    params, stats = jax.device_put((params, stats), parallel.replicated(experiment.mesh))
    if parallel.is_main():
        print(experiment.val_set.summary())
    evaluation = Evaluator(experiment)(params, stats)
    sha256 = digest(params, stats)
    if parallel.is_main():
        _make(experiment.workdir)
        write_json(experiment.workdir / "init.json", origin, indent=2)
        subject = Subject(
            kind="converted detector",
            path=path,
            sha256=sha256,
            config=experiment.plain_config,
            init=_origin(experiment.workdir),
        )
        report(experiment, subject, evaluation)
    return evaluation.metrics


def evaluate_detections(experiment: Experiment, path: Path) -> Metrics:
    """Scores a file in COCO's result format, from any detector, on the config's validation set.

    Raises:
        UserError: the file is not of that format, does not fit the data, or the workdir is a run's.
    """
    if experiment.checkpoint_folder.is_dir():
        raise UserError(
            f"{experiment.workdir} holds a run, whose result.json would be lost; give another "
            "--workdir for the result of --detections"
        )
    results, iou_types, sha256 = read_detections(path)
    print(experiment.val_set.summary())
    started = time.monotonic()
    try:
        metrics = score(experiment, results, iou_types)
    except UserError as error:
        raise UserError(
            f"{path}: {str(error).rstrip('.')}; mend that entry, or give the data that the file "
            "was made for (config.data)"
        ) from error
    seconds = {"detect": None, "score": time.monotonic() - started}
    subject = Subject(
        kind="file of detections", path=path, sha256=sha256, config=experiment.plain_config
    )
    _make(experiment.workdir)
    report(experiment, subject, Evaluation(metrics, results, seconds))
    return metrics


def _make(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{workdir} cannot be made ({error}); give another --workdir") from error


def report(experiment: Experiment, subject: Subject, evaluation: Evaluation) -> None:
    """Writes result.json, detections.json and detections.png, and says what and where they are."""
    workdir, images = experiment.workdir, len(experiment.val_set)
    metrics, results, seconds = evaluation
    is_ours = subject.kind != "file of detections"
    result = {
        "evaluated": subject.kind,
        "step": subject.step,
        "epochs": subject.epochs,
        "images": {"train": subject.train_images, "val": images},
        "metrics": without_nan(metrics),
        "parameters": parameter_count(experiment.stateless.abstract[0]) if is_ours else None,
        "checkpoint": str(subject.path),
        "checkpoint_sha256": subject.sha256,
        "init": subject.init,
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}" if is_ours else None,
        "evaluation": {
            "seconds": seconds,
            "images_per_second": images / seconds["detect"] if is_ours else None,
        },
        "config": subject.config,
        "config_sha256": config_digest(subject.config),
        "evaluated_on": experiment.plain_config["data"],
    }
    write_json(workdir / "result.json", result, indent=2)
    if is_ours:
        write_json(workdir / "detections.json", results)
    draw_samples(experiment, results, workdir / "detections.png")

    print(*category_table(metrics), *tide_lines(metrics["tide"]), sep="\n")
    for kind, name in KINDS:
        if kind not in metrics:
            continue
        numbers = metrics[kind]
        print(
            f"{name:4} AP {points(numbers['AP'])}   AP50 {points(numbers['AP50'])}   "
            f"AP75 {points(numbers['AP75'])}   ({images} images)"
        )
        if "few_shot" in metrics:
            print(f"{name:4} AP of {few_shot_summary(metrics['few_shot'], kind)}")
    detections = workdir / "detections.json" if is_ours else subject.path
    print(f"result      {workdir / 'result.json'}")
    print(f"detections  {detections}, pictures in {workdir / 'detections.png'}")
    if subject.kind == "checkpoint":
        print(f"curves      {workdir / 'metrics.jsonl'}, or: tensorboard --logdir {workdir}")
    if is_ours:
        print(f"{subject.kind:11} {subject.path}")


def few_shot_summary(numbers: dict[str, float], kind: str) -> str:
    """The APs of base and novel classes of one IoU type in a few words."""
    return ", ".join(
        f"{classes} classes {100 * numbers[f'{classes}_{kind}']:.1f}"
        for classes in ("base", "novel")
    )


def versions() -> dict[str, str]:
    """Of this package and of what a result depends on."""
    return {
        "jaxdet": __version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")},
    }


def draw_samples(experiment: Experiment, results: Results, path: Path) -> None:
    """A picture of what was found on the first images of the validation set."""
    dataset = experiment.val_set
    names = [category.name for category in dataset.categories]
    label_of = {category.id: label for label, category in enumerate(dataset.categories)}
    pictures = []
    for index in range(min(DRAWN_IMAGES, len(dataset))):
        example = dataset[index]
        found = [
            result
            for result in results
            if result["image_id"] == example.image_id and result["score"] >= DRAWN_SCORE
        ]
        masks = [
            compressed_rle(r["segmentation"], *example.lazy_image.hw)
            for r in found
            if "segmentation" in r
        ]
        boxes = [r.get("bbox") for r in found]
        if masks and None in boxes:
            boxes = rle.toBbox(masks)
        x, y, w, h = np.array(boxes, float).reshape(-1, 4).T
        pictures.append(
            draw_detections(
                example.image,
                np.stack([x, y, x + w, y + h], -1),
                np.array([label_of[r["category_id"]] for r in found], int),
                np.array([r["score"] for r in found]),
                [rle.decode(mask).astype(bool) for mask in masks] if masks else None,
                names,
            )
        )
    with atomic_write(path) as partial:
        Image.fromarray(contact_sheet(pictures, columns=4)).save(partial, "PNG")
