"""One training step, and the loop around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdet import parallel
from jaxdet.checkpoint import Checkpoints, abstract
from jaxdet.data.loader import train_batches
from jaxdet.data.source import multiscale_of
from jaxdet.errors import UserError
from jaxdet.evaluate import Evaluator, few_shot_summary, report, write_json
from jaxdet.experiment import Experiment, difference, frozen_parameters
from jaxdet.few_shot import start_from_base_run
from jaxdet.initialise import initialise
from jaxdet.metric_writer import MetricWriter, Progress
from jaxdet.models.batching import split_parts
from jaxdet.models.build import Functional, Tree, batch_stats, parameter_count
from jaxdet.official_weights import how_to_get
from jaxdet.optim import is_frozen, path_name

State = dict[str, Any]
"""What a step changes: {"params", "stats", "opt_state", "step"}, nested plain dictionaries."""

NEUTRAL_WORDS = tuple(
    f"config.{word}"
    for word in (
        "init",
        "weights",
        "few_shot.base_run",
        "data.root",
        "data.train_annotations",
        "data.train_images",
        "data.val_annotations",
        "data.val_images",
        "data.threads",
        "data.workers",
        "accumulate",
        "eval_batch_size",
        "log_every_steps",
        "log_every_seconds",
    )
)
"""Words a resumed run may change: where its files lie, and what its result does not depend on."""

Metrics = dict[str, jax.Array]
TrainStep = Callable[[State, dict[str, jax.Array], jax.Array], tuple[State, Metrics]]


def initial_state(
    functional: Functional, optimizer: optax.GradientTransformation, key: jax.Array
) -> State:
    """A fresh run's state with random parameters; call it under `jax.jit`."""
    params, stats = functional.init(key)
    return {
        "params": params,
        "stats": stats,
        "opt_state": optimizer.init(params),
        "step": jnp.int32(0),
    }


def gradient_function(
    functional: Functional,
    *,
    accumulate: int = 1,
    batch_statistics: str = "batch",
    frozen: Sequence[str] = (),
) -> Callable[[Tree, Tree, dict[str, jax.Array], jax.Array], tuple[Tree, Metrics, Tree]]:
    """(params, batch statistics, batch, keys of its images) -> (gradients, metrics, statistics).

    Args:
        accumulate: the batch is computed in so many parts, one after the other, to need less
            memory; loss and gradient are those of the whole batch.
        batch_statistics: what batch norm takes its statistics of then. "batch": of the whole batch,
            so that the number of parts changes nothing but rounding; what lies between two batch
            norms is computed again for the gradient, and their inputs are kept for the whole batch.
            "part": of each part alone, in less time and memory; the running statistics go from part
            to part. A model without batch norm needs neither, and is exact in the second way.
        frozen: patterns of parameters whose gradient is zero, and is not computed, see
            `jaxdet.optim.is_frozen`.
    """
    has_statistics = bool(jax.tree.leaves(functional.abstract[1]))
    inner = accumulate if has_statistics and batch_statistics == "batch" else 1
    outer = accumulate // inner

    def hold(path, leaf):
        return jax.lax.stop_gradient(leaf) if is_frozen(path_name(path), frozen) else leaf

    def differentiate(params, stats, batch, keys):
        def total_loss(params):
            model = functional.bind(jax.tree_util.tree_map_with_path(hold, params), stats)
            losses, counts = model.losses(batch, keys, parts=inner)
            loss = sum(losses.values())
            return loss, ({"loss": loss, **losses, **counts}, batch_stats(model))

        gradients, (metrics, new_stats) = jax.grad(total_loss, has_aux=True)(params)
        return gradients, metrics, new_stats

    def differentiate_in_parts(params, stats, batch, keys):
        def visit(carry, part):
            total, stats = carry
            gradients, metrics, stats = differentiate(params, stats, *part)
            return (jax.tree.map(jnp.add, total, gradients), stats), metrics

        start = (jax.tree.map(jnp.zeros_like, params), stats)
        (total, stats), metrics = jax.lax.scan(visit, start, split_parts((batch, keys), outer))
        gradients = jax.tree.map(lambda leaf: leaf / outer, total)
        return gradients, jax.tree.map(lambda leaf: leaf.mean(0), metrics), stats

    return differentiate if outer == 1 else differentiate_in_parts


def make_train_step(
    functional: Functional,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    batch_statistics: str = "batch",
    frozen: Sequence[str] = (),
) -> TrainStep:
    """The compiled step: (state, batch, run key) -> (new state, metrics).

    The old state's memory is reused. All randomness derives from the run key and the step number.

    Args:
        accumulate, batch_statistics, frozen: see `gradient_function`.
    """
    differentiate = gradient_function(
        functional, accumulate=accumulate, batch_statistics=batch_statistics, frozen=frozen
    )

    def step(state: State, batch: dict[str, jax.Array], key: jax.Array) -> tuple[State, Metrics]:
        keys = jax.random.split(jax.random.fold_in(key, state["step"]), len(batch["image"]))
        gradients, metrics, stats = differentiate(state["params"], state["stats"], batch, keys)
        updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
        new_state = {
            "params": optax.apply_updates(state["params"], updates),
            "stats": stats,
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return new_state, {**metrics, "grad_norm": optax.tree.norm(gradients)}

    replicated = parallel.replicated(mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(replicated, replicated))


def train(experiment: Experiment) -> dict[str, Any]:
    """Trains to the config's last epoch, or goes on from the newest checkpoint of the workdir.

    Returns:
        The final evaluation's numbers, as `evaluate_coco` returns them.

    Raises:
        UserError: the workdir holds a run of another config, the initial weights are missing or do
            not fit, or the loss is no longer finite.
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
    replicated = parallel.replicated(experiment.mesh)
    run_key = jax.device_put(jax.random.key(config.seed), replicated)
    train_step = make_train_step(
        experiment.functional,
        experiment.optimizer,
        experiment.mesh,
        accumulate=config.accumulate,
        batch_statistics=config.batch_statistics,
        frozen=frozen_parameters(config),
    )
    evaluator = Evaluator(experiment)
    with Checkpoints(experiment.checkpoint_folder) as checkpoints:
        _claim_workdir(experiment, checkpoints)
        state, start_step = _start(experiment, checkpoints, run_key)
        _introduce(experiment, start_step)
        evaluation = None
        with (
            MetricWriter(workdir, start_step) as writer,
            Progress(
                total_steps,
                start_step,
                images_per_step=config.batch_size,
                log_every_seconds=config.log_every_seconds,
            ) as progress,
        ):
            batches = _training_batches(experiment, start_step)
            for step in range(start_step + 1, total_steps + 1):
                state, scalars = train_step(state, next(batches), run_key)
                is_logged = step % config.log_every_steps == 0 or step == total_steps
                if is_logged or step in checkpoint_steps:
                    scalars = jax.device_get(scalars)
                    _check_finite(scalars, step, experiment, checkpoints)
                if is_logged:
                    rate = float(experiment.schedule(step - 1))
                    epoch = step / experiment.steps_per_epoch
                    writer.write(step, {**scalars, "learning_rate": rate, "epoch": epoch})
                progress.update(step, _shown(scalars))

                score = None
                if step in eval_steps:
                    evaluation = evaluator(state["params"], state["stats"])
                    score = evaluation[0]["bbox"]["AP"]
                    writer.write(step, _flat(evaluation[0]))
                    progress.note(f"step {step}: {_summary(evaluation[0])}")
                if step in checkpoint_steps:
                    score = None if score is None or math.isnan(score) else score
                    checkpoints.save(state, step, experiment.identity, score)
        metrics, results = evaluation or evaluator(state["params"], state["stats"])
    report(experiment, total_steps, metrics, results, experiment.plain_config)
    return metrics


def _claim_workdir(experiment: Experiment, checkpoints: Checkpoints) -> None:
    """Refuses the checkpoints of another config; writes config.json."""
    workdir = experiment.workdir
    if checkpoints.latest is not None:
        stored, given = checkpoints.meta(checkpoints.latest), experiment.identity
        changed = difference(stored["config"], given["config"], ignored=NEUTRAL_WORDS)
        changed = changed or difference(stored["categories"], given["categories"], "categories")
        if changed:
            raise UserError(
                f"{workdir} holds a run of another config ({changed}); "
                "use another --workdir, or the config of that run"
            )
    write_json(workdir / "config.json", experiment.plain_config, indent=2)


def _marks(experiment: Experiment, every: float) -> set[int]:
    """The steps at which so many epochs have passed again, and the last one."""
    total = experiment.total_steps
    times = math.ceil(experiment.config.epochs / every)
    steps = {experiment.steps_at(every * i) for i in range(1, times + 1)}
    return {step for step in steps if step <= total} | {total}


def _start(experiment: Experiment, checkpoints: Checkpoints, key: jax.Array) -> tuple[State, int]:
    """The newest checkpoint's state, or a fresh one, and the number of steps it has seen."""

    def init(key: jax.Array) -> State:
        return initial_state(experiment.functional, experiment.optimizer, key)

    replicated = parallel.replicated(experiment.mesh)
    step = checkpoints.latest
    if step is None:
        state = jax.jit(init, out_shardings=replicated)(key)
        if experiment.config.few_shot.base_run is not None:
            loaded = start_from_base_run(experiment, state["params"], state["stats"])
            state["params"], state["stats"] = jax.device_put(loaded, replicated)
        elif experiment.config.init is not None:
            loaded = initialise(experiment.config, state["params"], state["stats"])
            state["params"], state["stats"] = jax.device_put(loaded[:2], replicated)
            write_json(experiment.workdir / "init.json", loaded[2], indent=2)
        return state, 0
    target = abstract(jax.eval_shape(init, key), replicated)
    restored = checkpoints.restore(step, target)
    return {**restored, "step": jax.device_put(jnp.int32(step), replicated)}, step


def _introduce(experiment: Experiment, start_step: int) -> None:
    """Says in a few lines what is about to run."""
    parameters = parameter_count(experiment.functional.abstract[0])
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


def _training_batches(experiment: Experiment, start_step: int) -> Iterator[dict[str, jax.Array]]:
    """Batches on the devices, one ahead: a batch is sent while the step before it runs."""
    config = experiment.config
    batches = train_batches(
        experiment.train_set,
        batch_size=config.batch_size,
        canvas=config.canvas,
        slots=config.data.slots,
        mask_size=config.data.mask_size,
        scale_range=tuple(config.data.scale_range),
        flip=config.data.flip,
        multiscale=multiscale_of(config.data),
        seed=config.seed,
        start_step=start_step,
        threads=config.data.threads,
        workers=config.data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    ahead = None
    for host in batches:
        host.pop("image_id")
        following = parallel.place_batch(host, experiment.mesh)
        if ahead is not None:
            yield ahead
        ahead = following


def _check_finite(
    scalars: Metrics, step: int, experiment: Experiment, checkpoints: Checkpoints
) -> None:
    broken = [name for name, value in scalars.items() if not math.isfinite(float(value))]
    if broken:
        last = checkpoints.latest
        kept = f"the last checkpoint is of step {last}" if last else "no checkpoint was saved yet"
        raise UserError(
            f"training diverged: {', '.join(broken)} not finite at step {step}; lower "
            f"config.optim.lr and use a new --workdir ({kept}, in {experiment.checkpoint_folder})"
        )


def _shown(scalars: Metrics) -> Metrics:
    """The scalars worth a place in the progress line, under short names."""
    return {
        name.removeprefix("loss_"): value
        for name, value in scalars.items()
        if name.startswith("loss")
    }


def _flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Evaluation numbers under names such as "val/bbox/AP"; those without ground truth left out."""
    return {
        f"val/{kind}/{name}": value
        for kind, numbers in metrics.items()
        for name, value in numbers.items()
        if isinstance(value, float) and math.isfinite(value)
    }


def _summary(metrics: dict[str, Any]) -> str:
    parts = [
        f"{name} AP {100 * metrics[kind]['AP']:.1f} (AP50 {100 * metrics[kind]['AP50']:.1f})"
        for kind, name in (("bbox", "box"), ("segm", "mask"))
        if kind in metrics
    ]
    if "few_shot" in metrics:
        parts.append(few_shot_summary(metrics["few_shot"], "bbox"))
    return ", ".join(parts)
