"""A trained detector over a dataset: detections in COCO's result layout, and their AP."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from jaxdet import __version__, parallel
from jaxdet.checkpoint import Checkpoints, abstract, digest
from jaxdet.data.loader import eval_batches
from jaxdet.data.source import multiscale_of
from jaxdet.errors import UserError
from jaxdet.experiment import Experiment, difference
from jaxdet.initialise import load_detector
from jaxdet.metrics.coco import IOU_TYPES, evaluate_coco, split_ap
from jaxdet.metrics.tide import evaluate_tide
from jaxdet.models.build import Tree, parameter_count
from jaxdet.models.mask_rcnn import Detections
from jaxdet.ops.masks import paste
from jaxdet.visualize import contact_sheet, draw_detections

Metrics = dict[str, Any]
Results = list[dict[str, Any]]

PICTURED_IMAGES = 8
PICTURED_SCORE = 0.5


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
        step, epochs: of its training; epochs None where they are not known.
        train_images: that it was trained on, None where that is not known.
        path: the checkpoint or file it came from.
        sha256: of its arrays (`jaxdet.checkpoint.digest`), or of a file of detections.
        config: the complete config it was trained with.
        init: name and SHA-256 of the original of the weights it started from.
    """

    step: int
    epochs: float | None
    train_images: int | None
    path: Path
    sha256: str
    config: dict[str, Any]
    init: dict[str, str] | None


class Evaluator:
    """Runs an experiment's detector over its validation set; compiled once, called often."""

    def __init__(self, experiment: Experiment):
        functional, mesh = experiment.functional, experiment.mesh

        def detect(params: Tree, stats: Tree, batch: dict[str, jax.Array]) -> Detections:
            return functional.bind(params, stats).detect(batch)

        self._detect = jax.jit(detect, out_shardings=parallel.split_batch(mesh))
        self._experiment = experiment
        self._is_compiled = False

    def __call__(self, params: Tree, stats: Tree) -> Evaluation:
        results, detecting = self.detect(params, stats)
        started = time.monotonic()
        metrics = score(self._experiment, results)
        scoring = time.monotonic() - started
        return Evaluation(metrics, results, {"detect": detecting, "score": scoring})

    def detect(self, params: Tree, stats: Tree) -> tuple[Results, float]:
        """Detections on every validation image, in COCO's result layout, and the seconds they took.

        Masks are pasted and encoded in threads while the device works on the next batches.
        """
        category_ids = [category.id for category in self._experiment.val_set.categories]

        def encode(item: tuple[dict[str, np.ndarray], Detections]) -> Results:
            host, detections = item
            return coco_results(parallel.local_rows(detections), host, category_ids)

        results, compiling = [], 0.0
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=2) as pool:
            pending = []
            for host, batch in self._batches():
                called = time.monotonic()
                detections = self._detect(params, stats, batch)
                if not self._is_compiled:
                    # The device works on its own time: the first call lasts as long as compilation.
                    compiling, self._is_compiled = time.monotonic() - called, True
                pending.append(pool.submit(encode, (host, detections)))
                if len(pending) > 4:
                    results += pending.pop(0).result()
            for future in pending:
                results += future.result()
        seconds = time.monotonic() - started - compiling
        # In the dataset's order, however many processes found them.
        place = {image_id: i for i, image_id in enumerate(self._experiment.val_set.image_ids)}
        results = sorted(parallel.gather(results), key=lambda result: place[result["image_id"]])
        return results, seconds

    def _batches(self) -> Iterator[tuple[dict[str, np.ndarray], dict[str, jax.Array]]]:
        """Batches of this process as they are on the host, and their images on the devices."""
        config = self._experiment.config
        for host in eval_batches(
            self._experiment.val_set,
            batch_size=config.eval_batch_size,
            canvas=config.canvas,
            multiscale=multiscale_of(config.data),
            threads=config.data.threads,
            workers=config.data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            inputs = {name: host[name] for name in ("image", "image_hw")}
            yield host, parallel.place_batch(inputs, self._experiment.mesh)


def score(experiment: Experiment, results: Results) -> Metrics:
    """The numbers of detections on an experiment's validation set, see `Evaluation`."""
    ground_truth, config = experiment.val_set.ground_truth(), experiment.config
    limits = {
        "iou_types": IOU_TYPES if config.model.heads.mask else ("bbox",),
        "max_detections": config.model.detector.detections,
    }
    metrics = evaluate_coco(ground_truth, results, **limits)
    if config.few_shot.novel:
        metrics["few_shot"] = {
            f"{classes}_{kind}": ap
            for kind in limits["iou_types"]
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
        changed = (
            difference(stored["config"]["model"], given["config"]["model"], "config.model")
            or difference(stored["config"]["canvas"], given["config"]["canvas"], "config.canvas")
            or difference(stored["categories"], given["categories"], "categories")
        )
        if changed:
            raise UserError(
                f"the checkpoint in {folder} was trained as another model ({changed}); "
                "give the config and the classes of that run"
            )
        if parallel.is_main():
            print(experiment.val_set.summary())
        params, stats = experiment.functional.abstract
        target = abstract({"params": params, "stats": stats}, parallel.replicated(experiment.mesh))
        state = checkpoints.restore(step, target)
    evaluation = Evaluator(experiment)(state["params"], state["stats"])
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
    params, stats, origin = load_detector(experiment.config, *experiment.functional.abstract)
    params, stats = jax.device_put((params, stats), parallel.replicated(experiment.mesh))
    if parallel.is_main():
        print(experiment.val_set.summary())
    evaluation = Evaluator(experiment)(params, stats)
    sha256 = digest(params, stats)
    if parallel.is_main():
        try:
            experiment.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{experiment.workdir} cannot be made ({error})") from error
        write_json(experiment.workdir / "init.json", origin, indent=2)
        subject = Subject(
            step=0,
            epochs=None,
            train_images=None,
            path=path,
            sha256=sha256,
            config=experiment.plain_config,
            init=_origin(experiment.workdir),
        )
        report(experiment, subject, evaluation)
    return evaluation.metrics


def report(experiment: Experiment, subject: Subject, evaluation: Evaluation) -> None:
    """Writes result.json, detections.json and detections.png, and says what and where they are."""
    workdir, images = experiment.workdir, len(experiment.val_set)
    metrics, results, seconds = evaluation
    config_text = json.dumps(subject.config, sort_keys=True, separators=(",", ":"))
    result = {
        "step": subject.step,
        "epochs": subject.epochs,
        "images": {"train": subject.train_images, "val": images},
        "metrics": without_nan(metrics),
        "parameters": parameter_count(experiment.functional.abstract[0]),
        "checkpoint": str(subject.path),
        "checkpoint_sha256": subject.sha256,
        "init": subject.init,
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "evaluation": {"seconds": seconds, "images_per_second": images / seconds["detect"]},
        "config": subject.config,
        "config_sha256": hashlib.sha256(config_text.encode()).hexdigest(),
        "evaluated_on": experiment.plain_config["data"],
    }
    write_json(workdir / "result.json", result, indent=2)
    write_json(workdir / "detections.json", results)
    draw_samples(experiment, results, workdir / "detections.png")

    for kind, name in (("bbox", "box"), ("segm", "mask")):
        if kind not in metrics:
            continue
        numbers = metrics[kind]
        print(
            f"{name:4} AP {100 * numbers['AP']:5.1f}   AP50 {100 * numbers['AP50']:5.1f}   "
            f"AP75 {100 * numbers['AP75']:5.1f}   ({images} images)"
        )
        if "few_shot" in metrics:
            print(f"{name:4} AP of {few_shot_summary(metrics['few_shot'], kind)}")
    print(f"result      {workdir / 'result.json'}")
    print(f"detections  {workdir / 'detections.json'}, pictures in {workdir / 'detections.png'}")
    print(f"curves      {workdir / 'metrics.jsonl'}, or: tensorboard --logdir {workdir}")
    print(f"checkpoint  {result['checkpoint']}")


def few_shot_summary(numbers: dict[str, float], kind: str) -> str:
    """The APs of base, novel and all classes of one IoU type in a few words."""
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
    for index in range(min(PICTURED_IMAGES, len(dataset))):
        example = dataset[index]
        found = [
            result
            for result in results
            if result["image_id"] == example.image_id and result["score"] >= PICTURED_SCORE
        ]
        x, y, w, h = np.array([r["bbox"] for r in found]).reshape(-1, 4).T
        pictures.append(
            draw_detections(
                example.image,
                np.stack([x, y, x + w, y + h], -1),
                np.array([label_of[r["category_id"]] for r in found], int),
                np.array([r["score"] for r in found]),
                [rle.decode(r["segmentation"]).astype(bool) for r in found]
                if experiment.config.model.heads.mask
                else None,
                names,
            )
        )
    Image.fromarray(contact_sheet(pictures, columns=4)).save(path)


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes a file whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(
            json.dumps(content, indent=indent, allow_nan=False) + "\n", encoding="utf-8"
        )
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}); free space or rights") from error


def without_nan(tree: Any) -> Any:
    """The same nested dictionaries with None for every number that is not finite."""
    if isinstance(tree, dict):
        return {name: without_nan(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def coco_results(
    detections: Detections, batch: dict[str, np.ndarray], category_ids: list[int]
) -> list[dict[str, Any]]:
    """Detections of one batch, mapped from the canvas to the original images.

    Args:
        detections: arrays on the host, boxes in canvas pixels.
        batch: the evaluation batch they were made from.
        category_ids: the dataset's category id of each label.

    Returns:
        One dictionary a detection: image_id, category_id, bbox (x, y, width, height), score, and
        from a detector with masks segmentation (RLE whose counts are text).
    """
    results = []
    for i in np.flatnonzero(batch["is_real"]):
        height, width = (int(side) for side in batch["original_hw"][i])
        # Per axis, because the resized sides were rounded to whole pixels one by one.
        scale = np.array([height, width]) / batch["image_hw"][i]
        boxes = detections.boxes[i] * np.tile(scale[::-1], 2)
        boxes = np.clip(boxes, 0, [width, height, width, height])
        for j in np.flatnonzero(detections.valid[i]):
            x1, y1, x2, y2 = boxes[j]
            if x2 <= x1 or y2 <= y1:
                continue
            result = {
                "image_id": int(batch["image_id"][i]),
                "category_id": category_ids[detections.labels[i, j]],
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(detections.scores[i, j]),
            }
            if detections.masks is not None:
                mask = paste(detections.masks[i, j], boxes[j], height, width)
                encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
                result["segmentation"] = {**encoded, "counts": encoded["counts"].decode("ascii")}
            results.append(result)
    return results
