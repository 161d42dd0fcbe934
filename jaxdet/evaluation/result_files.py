"""What an evaluation leaves in its workdir: numbers, what a report shows, detections, a drawing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image
from pycocotools import mask as mask_api

from jaxdet.config.values import config_digest
from jaxdet.data.doubts import SAME_IMAGES
from jaxdet.data.rle import compressed_rle
from jaxdet.data.source import trains_on_validation
from jaxdet.errors import UserError
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.inspection import inspect
from jaxdet.evaluation.metric_names import INSPECTION
from jaxdet.evaluation.scoring import Metrics
from jaxdet.evaluation.table import summary_lines
from jaxdet.files import atomic_write, read_file, without_nan, write_json
from jaxdet.inference.coco_results import Results
from jaxdet.inference.prediction import DRAW_THRESHOLD, Prediction
from jaxdet.models.build import Tree, parameter_count
from jaxdet.training.checkpoint import digest
from jaxdet.training.experiment import Experiment
from jaxdet.training.run import versions
from jaxdet.visualize import contact_sheet

DRAWINGS = "detections.png"

SAMPLES = 8
"""Validation images on it."""


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
        metrics: see `jaxdet.evaluation.scoring.score`.
        results: the detections they were computed from, in COCO's result layout.
        truth: what they were compared with; None in all processes but the main one.
        seconds: how long it took to "detect" (images read, detected on, masks encoded; without the
            compilation) and to "score" the detections; None where nothing was detected.
    """

    metrics: Metrics
    results: Results
    truth: GroundTruth | None
    seconds: dict[str, float | None]


class EvaluatedModel(NamedTuple):
    """What was evaluated.

    Attributes:
        kind: one of "checkpoint", "converted detector" and "file of detections".
        path: the checkpoint, file or address of the hub it came from.
        sha256: of its arrays (`jaxdet.training.checkpoint.digest`), or of a file of detections.
        config: the complete config it was trained with, its keys of test time as evaluated.
        init: name and SHA-256 of the original of the weights it started from.
        step, epochs, train_images, train_annotations_sha256: of its training, where that was a
            run's.
    """

    kind: str
    path: Path | str
    sha256: str
    config: dict[str, Any]
    init: dict[str, str] | None = None
    step: int = 0
    epochs: float | None = None
    train_images: int | None = None
    train_annotations_sha256: str | None = None


def evaluated_checkpoint(
    experiment: Experiment, record: dict[str, Any], params: Tree, stats: Tree
) -> EvaluatedModel:
    """A checkpoint of the experiment's workdir.

    Args:
        record: what is stored beside its arrays, see `Experiment.record`.
    """
    position, trained_images = record["position"], record["train_images"]
    return EvaluatedModel(
        kind="checkpoint",
        step=position["step"],
        epochs=position["images"] / trained_images,
        train_images=trained_images,
        train_annotations_sha256=record.get("train_annotations_sha256"),
        path=experiment.checkpoint_folder / str(position["step"]),
        sha256=digest(params, stats),
        config=record["config"],
        init=initial_weights(experiment.workdir) if _has_origin(record["config"]) else None,
    )


def _has_origin(config: dict[str, Any]) -> bool:
    """Whether a run of this plain config left init.json."""
    return config["init"] is not None or config.get("init_from") is not None


def initial_weights(workdir: Path) -> dict[str, str] | None:
    """Name and SHA-256 of the original in a run's init.json, None where there is none."""
    try:
        return source_of(json.loads(read_file(workdir / "init.json")))
    except (OSError, ValueError, RecursionError):
        return None


def source_of(origin: Any) -> dict[str, str] | None:
    """Name and SHA-256 of the original by what `init.json` holds, None where it is not known."""
    try:
        return {field: origin["source"][field] for field in ("file", "sha256")}
    except (TypeError, KeyError):
        return None


def report(
    experiment: Experiment,
    model: EvaluatedModel,
    evaluation: Evaluation,
    out: Path | None = None,
    train_objects: list[int] | None = None,
) -> None:
    """Says what was found, and writes result.json, inspection.json, detections.json and
    detections.png.

    Args:
        train_objects: how many of each category were trained on, where that is known.
        out: the folder to write to, by default the workdir.

    Raises:
        UserError: they cannot be written; what was found has been said.
    """
    workdir, images = experiment.workdir if out is None else out, len(experiment.val_set)
    print(*summary_lines(evaluation.metrics, images), sep="\n", flush=True)
    if trains_on_validation(experiment.config.data):
        print(f"warning: {SAME_IMAGES}")
    is_ours = model.kind != "file of detections"
    try:
        write_json(workdir / "result.json", _record(experiment, model, evaluation), indent=2)
    except UserError as error:
        raise UserError(f"{error}, or evaluate again with --out=FOLDER") from error
    _write_inspection(experiment, model, evaluation, workdir, train_objects)
    detections = model.path
    if is_ours:
        detections = workdir / "detections.json"
        write_json(detections, evaluation.results)
    draw_samples(experiment, evaluation.results, workdir / DRAWINGS)

    print(f"result      {workdir / 'result.json'}")
    print(f"detections  {detections}, images in {workdir / DRAWINGS}")
    if model.kind == "checkpoint":
        curves = experiment.workdir
        has_events = "tensorboard" in experiment.config.trackers
        shown = f", or: tensorboard --logdir {curves}" if has_events else ""
        print(f"curves      {curves / 'metrics.jsonl'}{shown}")
    if is_ours:
        print(f"{model.kind:11} {model.path}")


def _write_inspection(
    experiment: Experiment,
    model: EvaluatedModel,
    evaluation: Evaluation,
    workdir: Path,
    train_objects: list[int] | None,
) -> None:
    """Writes inspection.json; of LVIS's metric there is none, which does not know all objects."""
    path = workdir / INSPECTION
    if train_objects is None:  # its training, if it was one, has counted them
        train_objects = _train_objects(path, model.sha256)
    path.unlink(missing_ok=True)  # it may be of another result
    if experiment.config.data.metric != "coco":
        return
    inputs = EvalInputs(evaluation.truth, evaluation.results)
    limit = experiment.config.model.detector.detections
    found = inspect(inputs, max_detections=limit)
    found["objects"]["train"] = train_objects
    write_json(path, {**found, "checkpoint_sha256": model.sha256})


def _train_objects(path: Path, sha256: str) -> Any:
    """Those that the file has, if it is of these weights."""
    try:
        content = json.loads(read_file(path))
        return content["objects"]["train"] if content["checkpoint_sha256"] == sha256 else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _record(
    experiment: Experiment, model: EvaluatedModel, evaluation: Evaluation
) -> dict[str, Any]:
    """The content of result.json."""
    images, seconds = len(experiment.val_set), evaluation.seconds
    is_ours = model.kind != "file of detections"
    return {
        "evaluated": model.kind,
        "step": model.step,
        "epochs": model.epochs,
        "images": {"train": model.train_images, "val": images},
        "annotations_sha256": {
            "train": model.train_annotations_sha256,
            "val": experiment.val_set.annotations_sha256,
        },
        "metrics": without_nan(evaluation.metrics),
        "parameters": parameter_count(experiment.stateless.abstract[0]) if is_ours else None,
        "checkpoint": str(model.path),
        "checkpoint_sha256": model.sha256,
        "init": model.init,
        "versions": versions(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}" if is_ours else None,
        "attention": experiment.attention.name if is_ours else None,
        "evaluation": {
            "seconds": seconds,
            "images_per_second": images / seconds["detect"] if is_ours else None,
        },
        "validated_on_training_images": trains_on_validation(experiment.config.data),
        "config": model.config,
        "config_sha256": config_digest(model.config),
        "evaluated_on": experiment.plain_config["data"],
    }


def draw_samples(experiment: Experiment, results: Results, path: Path) -> None:
    """Draws what was found on the first images of the validation set on one sheet."""
    dataset = experiment.val_set
    drawings = []
    for index in range(min(SAMPLES, len(dataset))):
        example = dataset[index]
        image = example.image
        found = [
            _drawable(result, *image.shape[:2])
            for result in results
            if result["image_id"] == example.image_id and result["score"] >= DRAW_THRESHOLD
        ]
        drawings.append(np.asarray(Prediction(image, found, tuple(dataset.categories)).draw()))
    with atomic_write(path) as partial:
        Image.fromarray(contact_sheet(drawings, columns=4)).save(partial, "PNG")


def _drawable(result: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A scored result with a box, and its mask, if it has one, as compressed run-length code."""
    if result.get("segmentation") is None:
        return {name: value for name, value in result.items() if name != "segmentation"}
    mask = compressed_rle(result["segmentation"], height, width)
    bbox = result.get("bbox")
    return {
        **result,
        "segmentation": mask,
        "bbox": mask_api.toBbox(mask).tolist() if bbox is None else bbox,
    }
