"""Training a detector, with its evaluation on the way and at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxdet import parallel
from jaxdet.config.mask_rcnn import has_start
from jaxdet.config.published_weights import how_to_get
from jaxdet.data.loader import Batch, train_batches
from jaxdet.data.source import augmentation_of, loader_settings
from jaxdet.errors import UserError
from jaxdet.evaluation.evaluate import Evaluator
from jaxdet.evaluation.inspection import object_counts
from jaxdet.evaluation.result_files import DRAWINGS, Evaluation, evaluated_checkpoint, report
from jaxdet.evaluation.table import KINDS, few_shot_summary, points
from jaxdet.evaluation.tracked import metric_table, per_category_table
from jaxdet.files import write_json
from jaxdet.models.build import Tree
from jaxdet.training.experiment import Experiment
from jaxdet.training.fine_tune import start_from_detector
from jaxdet.training.loop import Evaluated, Task, fit
from jaxdet.training.step import State
from jaxdet.training.trackers.tracking import Trackers
from jaxdet.training.transfer import start_from_base_run
from jaxdet.training.validation_loss import ValidationLoss
from jaxdet.weights.load import initialise


def train(experiment: Experiment) -> dict[str, Any]:
    """Trains to the config's last epoch, or resumes from the newest checkpoint of the workdir.

    Returns:
        The final evaluation's metrics, as `evaluate_coco` returns them.

    Raises:
        UserError: the initial weights are missing or do not fit; or see
            `jaxdet.training.loop.fit`.
        PreemptedError: the process was asked to stop by SIGTERM, and has saved its state.
    """
    config = experiment.config
    if config.initialisation != "random" and not has_start(config):
        raise UserError(
            f"this config fine-tunes {config.initialisation} weights and config.init is not set: "
            f"{how_to_get(config)}"
        )
    evaluator = Evaluator(experiment)
    validation_loss = ValidationLoss(experiment) if config.eval_loss else None
    evaluation: Evaluation | None = None

    def evaluate(state: State) -> Evaluated:
        nonlocal evaluation
        evaluation = evaluator(state["params"], state["stats"])
        metrics, ap = evaluation.metrics, evaluation.metrics["bbox"]["AP"]
        scalars = _flat(metrics)
        if validation_loss is not None:
            scalars |= _flat(validation_loss(state["params"], state["stats"]))
        return Evaluated(None if math.isnan(ap) else ap, scalars, _summary(metrics))

    with Trackers(config.trackers) as trackers:
        state = fit(
            Task(
                experiment,
                batches=partial(training_batches, experiment),
                load_weights=partial(_load_weights, experiment),
                eval_steps=experiment.steps_every(config.eval_every),
                evaluate=evaluate,
                trackers=trackers,
            )
        )
        params, stats = state["params"], state["stats"]
        # A run that had reached its end is only evaluated.
        evaluation = evaluation or evaluator(params, stats)
        record = experiment.record(int(state["step"]))
        model = evaluated_checkpoint(experiment, record, params, stats)
        if parallel.is_main():
            is_inspected = config.data.metric == "coco"
            counts = object_counts(experiment.train_set) if is_inspected else None
            report(experiment, model, evaluation, train_objects=counts)
            _track(trackers, model.step, evaluation.metrics, experiment.workdir / DRAWINGS)
    return evaluation.metrics


def _track(trackers: Trackers, step: int, metrics: dict[str, Any], drawings: Path) -> None:
    """Gives the trackers what was found at the end."""
    trackers.picture(step, drawings.stem, drawings)
    trackers.table(step, "metrics", metric_table(metrics))
    trackers.table(step, "per_category", per_category_table(metrics))


def training_batches(experiment: Experiment, start_step: int = 0) -> Iterator[Batch]:
    """This process's rows of the batches from `start_step` on, on the host."""
    config = experiment.config
    return train_batches(
        experiment.train_set,
        augmentation_of(config),
        loader_settings(config.data, config.batch_size, jax.process_index(), jax.process_count()),
        max_instances=config.data.max_instances,
        mask_size=config.data.mask_size,
        seed=config.seed,
        empty_images=config.data.empty_images,
        repeat_threshold=config.data.repeat_threshold,
        start_step=start_step,
    )


def _load_weights(experiment: Experiment, params: Tree, stats: Tree) -> tuple[Tree, Tree]:
    """The parameters and batch statistics that the config starts from, given random ones."""
    if experiment.config.few_shot.base_run is not None:
        return start_from_base_run(experiment, params)
    if experiment.config.init_from is not None:
        params, stats, origin = start_from_detector(experiment, params, stats)
    elif experiment.config.init is not None:
        params, stats, origin = initialise(experiment.config, params, stats)
    else:
        return params, stats
    if parallel.is_main():
        write_json(experiment.workdir / "init.json", origin, indent=2)
    return params, stats


def _flat(metrics: dict[str, Any], prefix: str = "val") -> dict[str, float]:
    """Evaluation metrics under names such as "val/bbox/AP" and "val/tide/bbox/main/Loc".

    Those without ground truth and those of single categories are left out.
    """
    flat = {}
    for name, value in metrics.items():
        if isinstance(value, dict) and name != "per_category":
            flat |= _flat(value, f"{prefix}/{name}")
        elif isinstance(value, float) and math.isfinite(value):
            flat[f"{prefix}/{name}"] = value
    return flat


def _summary(metrics: dict[str, Any]) -> str:
    found = [
        f"{name} AP {points(metrics[kind]['AP']).strip()} "
        f"(AP50 {points(metrics[kind]['AP50']).strip()})"
        for kind, name in KINDS
        if kind in metrics
    ]
    if "few_shot" in metrics:
        found.append(few_shot_summary(metrics["few_shot"], "bbox"))
    return ", ".join(found)
