"""A trained detector over a dataset: detections in COCO's result layout, and their AP."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdet import parallel
from jaxdet.config.keys import keys_with
from jaxdet.config.roles import difference
from jaxdet.data.source import loader_settings
from jaxdet.errors import UserError
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.lvis import check_lvis
from jaxdet.evaluation.metric_names import IOU_TYPES
from jaxdet.evaluation.result_files import (
    EvaluatedModel,
    Evaluation,
    evaluated_checkpoint,
    report,
    source_of,
)
from jaxdet.evaluation.scoring import Metrics, check_novel, score
from jaxdet.evaluation.submission import read_detections
from jaxdet.files import write_json
from jaxdet.inference.batches import Inputs, detect_function, inputs_of
from jaxdet.inference.coco_results import Results, coco_results, result_workers
from jaxdet.models.build import Tree
from jaxdet.models.detections import Detections
from jaxdet.training.checkpoint import digest, latest_step, open_latest
from jaxdet.training.experiment import Experiment
from jaxdet.weights.load import load_detector


class Evaluator:
    """Runs an experiment's detector over its validation set.

    The detector is compiled once for each shape of batches, and the annotations are read once,
    however often it is called.
    """

    def __init__(self, experiment: Experiment):
        check_novel(
            {category.name for category in experiment.val_set.categories},
            experiment.config.few_shot.novel,
        )
        _check_metric(experiment)  # before a training that ends in it
        self._detect = detect_function(experiment.config, experiment.stateless, experiment.mesh)
        self._experiment = experiment
        self._compiled: set[tuple[tuple[int, ...], ...]] = set()  # shapes of inputs

    def __call__(self, params: Tree, stats: Tree) -> Evaluation:
        """Every process gets the same numbers; the main one works them out."""
        results, detecting = self.detect(params, stats)
        started = time.monotonic()
        truth = self._truth if parallel.is_main() else None
        metrics = [] if truth is None else [_score(self._experiment, truth, results)]
        metrics = parallel.gather(metrics)[0]
        scoring = time.monotonic() - started
        return Evaluation(metrics, results, truth, {"detect": detecting, "score": scoring})

    @cached_property
    def _truth(self) -> GroundTruth:
        has_masks = self._experiment.config.model.heads.mask
        document = self._experiment.val_set.ground_truth()
        return GroundTruth(document, IOU_TYPES if has_masks else ("bbox",))

    def detect(self, params: Tree, stats: Tree) -> tuple[Results, float]:
        """Detections on every validation image, in COCO's result layout, and the seconds they took.

        Masks are pasted and encoded while the device works on the next batches: by two threads, or
        by config.eval_workers processes.

        Raises:
            UserError: a worker process died.
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
                shapes = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
                if shapes not in self._compiled:
                    # The device works on its own time: the first call lasts as long as compilation.
                    compiling += time.monotonic() - called
                    self._compiled.add(shapes)
                pending.append(threads.submit(self._encode, host, detections, processes))
                if len(pending) > 2 * count:
                    results += pending.popleft().result()
            for future in pending:
                results += future.result()
            seconds = time.monotonic() - started - compiling
        # In the dataset's order, however many processes found them.
        rank = {image_id: i for i, image_id in enumerate(self._experiment.val_set.image_ids)}
        results = sorted(parallel.gather(results), key=lambda result: rank[result["image_id"]])
        return results, seconds

    def _encode(
        self,
        host: dict[str, np.ndarray],
        detections: Detections,
        processes: ProcessPoolExecutor | None,
    ) -> Results:
        rows = parallel.local_rows(detections)._asdict()
        category_ids = [category.id for category in self._experiment.val_set.categories]
        if processes is None:
            return coco_results(rows, host, category_ids)
        try:
            return processes.submit(coco_results, rows, host, category_ids).result()
        except BrokenProcessPool as error:
            raise UserError(
                "a process that encodes masks died (out of memory?); lower "
                "--config.eval_workers, 0 for none"
            ) from error

    def _batches(self) -> Iterator[tuple[dict[str, np.ndarray], Inputs]]:
        """What is known of this process's batches, and their images on the devices."""
        config = self._experiment.config
        settings = loader_settings(
            config.data, config.eval_batch_size, jax.process_index(), jax.process_count()
        )
        for host, inputs in inputs_of(config, self._experiment.val_set, settings):
            yield host, parallel.shard_batch(inputs, self._experiment.mesh)


def _check_metric(experiment: Experiment) -> None:
    """Raises UserError where the validation data lack what config.data.metric needs."""
    if experiment.config.data.metric == "lvis":
        check_lvis(experiment.val_set.ground_truth())


def _score(experiment: Experiment, truth: GroundTruth, results: Results) -> Metrics:
    config = experiment.config
    return score(
        EvalInputs(truth, results),
        max_detections=config.model.detector.detections,
        novel=config.few_shot.novel,
        metric=config.data.metric,
    )


def evaluate(experiment: Experiment, out: Path | None = None) -> Metrics:
    """Evaluates the newest checkpoint of the workdir, or config.init if there is none.

    Args:
        out: the folder to write to, by default the workdir.

    Raises:
        UserError: there is neither, or the checkpoint was trained as another model, or config.init
            is not a whole detector.
    """
    folder = experiment.checkpoint_folder
    if experiment.config.init is not None and latest_step(folder) is None:
        return _evaluate_converted(experiment, out)
    with open_latest(folder) as (checkpoints, step):
        stored, given = checkpoints.meta(step), experiment.identity
        changed = _difference(stored, given)
        if changed:
            raise UserError(
                f"the checkpoint in {folder} was trained as another model ({changed}); "
                "give the config and the classes of that run"
            )
        params, stats = checkpoints.restore_model(step, experiment.stateless, experiment.mesh)
    if parallel.is_main():
        print(*experiment.val_summary, sep="\n")
    evaluation = Evaluator(experiment)(params, stats)
    for name in keys_with("test"):
        key = name.removeprefix("model.detector.")
        stored["config"]["model"]["detector"][key] = given["config"]["model"]["detector"][key]
    model = evaluated_checkpoint(experiment, stored, params, stats)
    if parallel.is_main():
        report(experiment, model, evaluation, out)
    return evaluation.metrics


def _difference(stored: dict[str, Any], given: dict[str, Any]) -> str | None:
    """What the models of two identities (`Experiment.identity`) differ in, None if in nothing."""
    free = {f"config.{name}" for name in (*keys_with("test"), *keys_with("resume"))}
    was, is_now = stored["config"], given["config"]
    return (
        difference(was["model"], is_now["model"], "config.model", free)
        or difference(was["image_size"], is_now["image_size"], "config.image_size")
        or difference(stored["categories"], given["categories"], "categories")
    )


def _evaluate_converted(experiment: Experiment, out: Path | None) -> Metrics:
    """Evaluates the converted detector that config.init names."""
    params, stats, origin = load_detector(experiment.config, *experiment.stateless.abstract)
    params, stats = jax.device_put((params, stats), parallel.replicated(experiment.mesh))
    if parallel.is_main():
        print(*experiment.val_summary, sep="\n")
    evaluation = Evaluator(experiment)(params, stats)
    sha256 = digest(params, stats)
    if parallel.is_main():
        model = EvaluatedModel(
            kind="converted detector",
            path=experiment.config.init,
            sha256=sha256,
            config=experiment.plain_config,
            init=source_of(origin),
        )
        report(experiment, model, evaluation, out)
        write_json((out or experiment.workdir) / "init.json", origin, indent=2)
    return evaluation.metrics


def evaluate_detections(experiment: Experiment, path: Path, out: Path | None = None) -> Metrics:
    """Scores a file in COCO's result format, from any detector, on the config's validation set.

    Raises:
        UserError: the file is not of that format, does not fit the data, or the workdir is a run's.
    """
    folder = experiment.workdir if out is None else out
    if (folder / experiment.checkpoint_folder.name).is_dir():
        raise UserError(
            f"{folder} holds a run, whose result.json would be lost; give another --workdir or "
            "--out for the result of --detections"
        )
    _check_metric(experiment)
    results, iou_types, sha256 = read_detections(path)
    print(*experiment.val_summary, sep="\n")
    started = time.monotonic()
    truth = GroundTruth(experiment.val_set.ground_truth(), iou_types)
    try:
        metrics = _score(experiment, truth, results)
    except UserError as error:
        raise UserError(
            f"{path}: {str(error).rstrip('.')}; fix that entry, or give the data that the file "
            "was made for (config.data)"
        ) from error
    seconds = {"detect": None, "score": time.monotonic() - started}
    model = EvaluatedModel(
        kind="file of detections", path=path, sha256=sha256, config=experiment.plain_config
    )
    report(experiment, model, Evaluation(metrics, results, truth, seconds), folder)
    return metrics
