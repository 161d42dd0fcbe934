"""The training loop: from the start or the last checkpoint to the last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdet import parallel
from jaxdet.config.published_weights import how_to_get
from jaxdet.config.roles import difference, resumable_keys
from jaxdet.data.loader import train_batches
from jaxdet.data.source import augmentation_of, loader_settings
from jaxdet.errors import PreemptedError, UserError
from jaxdet.evaluation.evaluate import (
    Evaluator,
    few_shot_summary,
    report,
    trained_subject,
    versions,
)
from jaxdet.files import write_json
from jaxdet.models.build import parameter_count
from jaxdet.training.checkpoint import Checkpoints, abstract
from jaxdet.training.experiment import Experiment
from jaxdet.training.metric_writer import MetricWriter, Progress
from jaxdet.training.monitor import Monitor
from jaxdet.training.optim import frozen_parameters
from jaxdet.training.step import Metrics, State, abstract_state, initial_state, make_train_step
from jaxdet.weights.load import initialise
from jaxdet.weights.transfer import start_from_base_run


def train(experiment: Experiment) -> dict[str, Any]:
    """Trains to the config's last epoch, or goes on from the newest checkpoint of the workdir.

    Returns:
        The final evaluation's numbers, as `evaluate_coco` returns them.

    Raises:
        UserError: the workdir holds a run of another config, the initial weights are missing or do
            not fit, a checkpoint cannot be written, or the loss is no longer finite.
        PreemptedError: the process was asked to stop by SIGTERM, and has saved its state.
    """
    config, workdir = experiment.config, experiment.workdir
    is_started = config.init is not None or config.few_shot.base_run is not None
    if config.initialisation != "random" and not is_started:
        raise UserError(
            f"this config fine-tunes {config.initialisation} weights and config.init is not set: "
            f"{how_to_get(config)}"
        )
    total_steps = experiment.total_steps
    eval_steps = _marks(experiment, config.eval_every)
    checkpoint_steps = _marks(experiment, config.checkpoint_every) | eval_steps
    run_key = jax.jit(
        lambda: jax.random.key(config.seed), out_shardings=parallel.replicated(experiment.mesh)
    )()
    train_step = make_train_step(
        experiment.stateless,
        experiment.optimizer,
        experiment.mesh,
        accumulate=config.accumulate,
        batch_statistics=config.batch_statistics,
        frozen=frozen_parameters(config),
        sharding=config.sharding,
    )
    evaluator = Evaluator(experiment)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(experiment.checkpoint_folder))
        preemption = stack.enter_context(parallel.Preemption())
        _claim_workdir(experiment, checkpoints)
        state, start_step = _start(experiment, checkpoints)
        writer = progress = None
        if parallel.is_main():
            _introduce(experiment, start_step)
            writer = stack.enter_context(MetricWriter(workdir, start_step))
            progress = stack.enter_context(
                Progress(
                    total_steps,
                    start_step,
                    images_per_step=config.batch_size,
                    log_every_seconds=config.log_every_seconds,
                )
            )
        watch = Monitor(experiment, checkpoints, writer, progress)
        profile = stack.enter_context(Profile(workdir / "profile", config.profile_steps))
        batches = _training_batches(experiment, start_step, watch)
        evaluation = None
        for step in range(start_step + 1, total_steps + 1):
            image_ids, batch = next(batches)
            profile.before(step)
            state, metrics = train_step(state, batch, run_key)
            watch.add(step, image_ids, metrics)
            profile.after(step, metrics)

            is_stopping = preemption.announced(step)
            if step in checkpoint_steps or is_stopping:
                watch.flush()
                score = None
                if step in eval_steps:
                    evaluation = evaluator(state["params"], state["stats"])
                    score = evaluation.metrics["bbox"]["AP"]
                    score = None if math.isnan(score) else score
                    if parallel.is_main():
                        writer.write(step, _flat(evaluation.metrics))
                        progress.note(f"step {step}: {_summary(evaluation.metrics)}")
                checkpoints.save(state, step, _record(experiment, step), score)
            if is_stopping and step < total_steps:
                checkpoints.wait()
                raise PreemptedError(
                    f"asked to stop; saved step {step} of {total_steps} in "
                    f"{experiment.checkpoint_folder}, and the same command resumes from there"
                )
        evaluation = evaluation or evaluator(state["params"], state["stats"])
    record = _record(experiment, total_steps)
    subject = trained_subject(experiment, record, state["params"], state["stats"])
    if parallel.is_main():
        report(experiment, subject, evaluation)
    return evaluation.metrics


def _record(experiment: Experiment, step: int) -> dict[str, Any]:
    """What is stored beside the arrays of a checkpoint, as JSON values.

    Randomness and data follow from the config's seed and the position; the schedule from the
    config, the position and the number of images.
    """
    return {
        **experiment.identity,
        "train_images": experiment.trained_images,
        "position": {"step": step, "images": step * experiment.config.batch_size},
        "versions": versions(),
    }


def _claim_workdir(experiment: Experiment, checkpoints: Checkpoints) -> None:
    """Refuses the checkpoints of another config; writes config.json."""
    workdir = experiment.workdir
    if checkpoints.latest is not None:
        stored, given = checkpoints.meta(checkpoints.latest), experiment.identity
        changed = (
            difference(stored["config"], given["config"], ignored=resumable_keys(experiment.config))
            or difference(stored["categories"], given["categories"], "categories")
            or difference(
                stored["train_images"], experiment.trained_images, "the number of training images"
            )
        )
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config ({changed}); "
                "use another --workdir, or the config of that run"
            )
    if parallel.is_main():
        write_json(workdir / "config.json", experiment.plain_config, indent=2)


def _marks(experiment: Experiment, every: float) -> set[int]:
    """The steps at which so many epochs have passed again, and the last one."""
    total = experiment.total_steps
    times = math.ceil(experiment.config.epochs / every)
    steps = {experiment.steps_at(every * i) for i in range(1, times + 1)}
    return {step for step in steps if step <= total} | {total}


def _start(experiment: Experiment, checkpoints: Checkpoints) -> tuple[State, int]:
    """The newest checkpoint's state, or a fresh one, and the number of steps it has seen."""
    config, stateless, optimizer = (
        experiment.config,
        experiment.stateless,
        experiment.optimizer,
    )
    shapes = abstract_state(stateless, optimizer)
    placement = parallel.state_sharding(experiment.mesh, shapes, config.sharding)
    step = checkpoints.latest
    if step is None:

        def init() -> State:
            return initial_state(stateless, optimizer, jax.random.key(config.seed))

        state = jax.jit(init, out_shardings=placement)()
        if config.few_shot.base_run is not None:
            loaded = start_from_base_run(experiment, state["params"])
            state["params"] = jax.device_put(loaded[0], placement["params"])
            state["stats"] = jax.device_put(loaded[1], placement["stats"])
        elif config.init is not None:
            params, stats, origin = initialise(config, state["params"], state["stats"])
            state["params"] = jax.device_put(params, placement["params"])
            state["stats"] = jax.device_put(stats, placement["stats"])
            if parallel.is_main():
                write_json(experiment.workdir / "init.json", origin, indent=2)
        return state, 0
    restored = checkpoints.restore(step, abstract(shapes, placement))
    return {**restored, "step": jax.device_put(np.int32(step), placement["step"])}, step


def _introduce(experiment: Experiment, start_step: int) -> None:
    """Says in a few lines what is about to run."""
    parameters = parameter_count(experiment.stateless.abstract[0])
    print(
        f"{parameters / 1e6:.1f} M parameters, {experiment.total_steps} steps of "
        f"{experiment.config.batch_size} images on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s)"
    )
    for summary in dict.fromkeys((experiment.train_set.summary(), experiment.val_set.summary())):
        print(summary)
    if start_step:
        print(f"resuming after step {start_step}")
    print("compiling the training step ...", flush=True)


def _training_batches(
    experiment: Experiment, start_step: int, watch: Monitor
) -> Iterator[tuple[np.ndarray, dict[str, jax.Array]]]:
    """Ids of this process's images, and batches on the devices.

    One ahead: a batch is sent while the step before it runs.
    """
    config = experiment.config
    batches = train_batches(
        experiment.train_set,
        augmentation_of(config),
        loader_settings(config.data, config.batch_size, jax.process_index(), jax.process_count()),
        max_instances=config.data.max_instances,
        mask_size=config.data.mask_size,
        seed=config.seed,
        start_step=start_step,
    )
    ahead = None
    while True:
        started = time.monotonic()
        host = next(batches)
        watch.waited(time.monotonic() - started)
        image_ids = host.pop("image_id")
        following = image_ids, parallel.place_batch(host, experiment.mesh)
        if ahead is not None:
            yield ahead
        ahead = following


class Profile(AbstractContextManager):
    """Records what the devices do in some steps, for TensorBoard or xprof.

    Args:
        folder: where the trace goes.
        steps: the first and the last step recorded; empty for none.
    """

    def __init__(self, folder: Path, steps: Sequence[int]):
        self._folder = folder
        self._first, self._last = steps or (None, None)
        self._is_recording = False

    def before(self, step: int) -> None:
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._is_recording = True

    def after(self, step: int, metrics: Metrics) -> None:
        if self._is_recording and step == self._last:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_recording = False

    def __exit__(self, *_: object) -> None:
        if self._is_recording:
            self._stop()


def _flat(metrics: dict[str, Any], prefix: str = "val") -> dict[str, float]:
    """Evaluation numbers under names such as "val/bbox/AP" and "val/tide/bbox/main/Loc".

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
    parts = [
        f"{name} AP {100 * metrics[kind]['AP']:.1f} (AP50 {100 * metrics[kind]['AP50']:.1f})"
        for kind, name in (("bbox", "box"), ("segm", "mask"))
        if kind in metrics
    ]
    if "few_shot" in metrics:
        parts.append(few_shot_summary(metrics["few_shot"], "bbox"))
    return ", ".join(parts)
