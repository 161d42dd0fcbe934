"""The training loop, of detectors and of pre-training: from the start or the last checkpoint on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdet import parallel
from jaxdet.config.roles import difference, resumable_keys
from jaxdet.config.values import config_digest
from jaxdet.errors import PreemptedError, UserError
from jaxdet.files import write_json
from jaxdet.models.build import Tree, parameter_count
from jaxdet.training.checkpoint import Checkpoints, DamagedCheckpointError, abstract
from jaxdet.training.compile_times import CompileTimes
from jaxdet.training.compiling import compiling
from jaxdet.training.metric_writer import MetricWriter, Progress
from jaxdet.training.monitor import Monitor
from jaxdet.training.profile import Profile
from jaxdet.training.run import Run
from jaxdet.training.step import Metrics, State, abstract_state, initial_state, make_train_step
from jaxdet.training.trackers.tracking import Trackers
from jaxdet.training.workdir_lock import lone_run

HostBatch = dict[str, np.ndarray]


class Evaluated(NamedTuple):
    """What the loop needs of an evaluation.

    Attributes:
        score: what checkpoints are ranked by, the higher the better; None where there is none.
        scalars: what is written to the run's curves.
        summary: a line for the log.
    """

    score: float | None
    scalars: dict[str, float]
    summary: str


@dataclass(frozen=True)
class Task:
    """What one kind of training brings to the loop.

    Attributes:
        run: the config, and what follows from it.
        batches: given a number of steps, the endless batches that follow them: this process's rows,
            on the host. Their "image_id", if any, is named in errors and not given to the model.
        load_weights: the parameters and batch statistics that a fresh run starts from, given random
            ones; None to start from these.
        eval_steps: the steps after which `evaluate` is called.
        evaluate: called with the state in every process.
        trackers: started in the main process; closing them is left to the task, which may have
            more for them at its end.
    """

    run: Run
    batches: Callable[[int], Iterator[HostBatch]]
    load_weights: Callable[[Tree, Tree], tuple[Tree, Tree]] | None = None
    eval_steps: Collection[int] = ()
    evaluate: Callable[[State], Evaluated] | None = None
    trackers: Trackers = field(default_factory=Trackers)


def fit(task: Task) -> State:
    """Trains to the config's last epoch, or resumes from the newest checkpoint of the workdir.

    Returns:
        The state after the last step, or that at which config.early_stop ended the training.

    Raises:
        UserError: the workdir holds a run of another config, a checkpoint cannot be written, or the
            loss is no longer finite; and what the task raises.
        PreemptedError: the process was asked to stop by SIGTERM, and has saved its state.
    """
    run, config, total_steps = task.run, task.run.config, task.run.total_steps
    checkpoint_steps = run.steps_every(config.checkpoint_every).union(task.eval_steps)
    train_step = _announced_step(run)
    run_key = jax.jit(
        lambda: jax.random.key(config.seed), out_shardings=parallel.replicated(run.mesh)
    )()
    with ExitStack() as stack:
        _enter_lone_run(run, stack)
        checkpoints = stack.enter_context(Checkpoints(run.checkpoint_folder))
        preemption = stack.enter_context(parallel.Preemption())
        state, start_step = _start(task, checkpoints)
        monitor = _monitor(task, checkpoints, start_step, stack)
        if start_step in task.eval_steps and not checkpoints.is_evaluated(start_step):
            _evaluate(task, state, start_step, checkpoints, monitor)
        profile = stack.enter_context(Profile(run.workdir / "profile", config.profile_steps))
        host_batches = stack.enter_context(closing(task.batches(start_step)))
        batches = _on_devices(host_batches, run.mesh, monitor)
        for step in range(start_step + 1, total_steps + 1):
            if _has_stalled(task, checkpoints, step - 1):
                monitor.note(
                    f"stopping at step {step - 1} of {total_steps}: no better score since step "
                    f"{checkpoints.best}, whose checkpoint is kept (config.early_stop)"
                )
                break
            image_ids, batch = next(batches)
            profile.before(step)
            state, metrics = train_step(state, batch, run_key)
            monitor.add(step, image_ids, metrics)
            profile.after(step, metrics)

            is_stopping = preemption.announced(step)
            if step in checkpoint_steps or is_stopping:
                monitor.flush()
                checkpoints.save(state, step, run.record(step))
            if is_stopping:
                checkpoints.wait()
                raise PreemptedError(
                    f"asked to stop; saved step {step} of {total_steps} in "
                    f"{run.checkpoint_folder}, and the same command resumes from there"
                )
            if step in task.eval_steps:
                _evaluate(task, state, step, checkpoints, monitor)
    return state


def _announced_step(run: Run) -> Callable[..., tuple[State, Metrics]]:
    """The training step, which says in the main process that its first call compiles."""
    config = run.config
    step = make_train_step(
        run.stateless,
        run.optimizer,
        run.mesh,
        accumulate=config.accumulate,
        batch_statistics=run.batch_statistics,
        frozen=run.frozen,
        sharding=config.sharding,
        reduce_dtype=config.reduce_dtype,
    )
    is_compiled = False

    def called(*arguments: Any) -> tuple[State, Metrics]:
        nonlocal is_compiled
        if is_compiled:
            return step(*arguments)
        is_compiled = True
        with compiling("the training step", _say(), _compile_times(run)):
            return step(*arguments)

    return called


def _compile_times(run: Run) -> CompileTimes:
    """Of starts on devices such as these that compile a step such as this."""
    config = run.config
    step = {
        "model": run.plain_config["model"],
        "frozen": [*run.frozen],
        "accumulate": config.accumulate,
        "batch_statistics": run.batch_statistics,
        "sharding": config.sharding,
        "reduce_dtype": config.reduce_dtype,
    }
    about = {
        "device": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "parameters": parameter_count(run.stateless.abstract[0]),
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "step_sha256": config_digest(step),
    }
    return CompileTimes(run.workdir, about)


def _say() -> Callable[[str], None] | None:
    """What lines for the user go to; None in all processes but the main one."""
    return partial(print, flush=True) if parallel.is_main() else None


def _enter_lone_run(run: Run, stack: ExitStack) -> None:
    """Locks the workdir in the main process; all raise UserError where it is in use."""
    problem = None
    if parallel.is_main():
        try:
            stack.enter_context(lone_run(run.workdir))
        except UserError as error:
            problem = str(error)
    problem = parallel.gather([problem])[0]
    if problem is not None:
        raise UserError(problem)


def _evaluate(
    task: Task, state: State, step: int, checkpoints: Checkpoints, monitor: Monitor
) -> None:
    """Evaluates a state that was saved: an evaluation may take longer than a job may."""
    score, scalars, summary = task.evaluate(state)
    monitor.report(step, scalars, summary)
    checkpoints.record_score(step, score)


def _has_stalled(task: Task, checkpoints: Checkpoints, step: int) -> bool:
    """Whether a step's evaluation is the last that config.early_stop waits for."""
    patience, best = task.run.config.get("early_stop", 0), checkpoints.best
    if not patience or best is None or step not in task.eval_steps:
        return False
    return sum(best < each <= step for each in task.eval_steps) >= patience


def _start(task: Task, checkpoints: Checkpoints) -> tuple[State, int]:
    """The newest sound checkpoint's state, or a fresh one, and the number of steps it has seen.

    Writes config.json.
    """
    run = task.run
    shapes = abstract_state(run.stateless, run.optimizer)
    shardings = parallel.state_sharding(run.mesh, shapes, run.config.sharding)
    while (step := checkpoints.latest) is not None:
        try:
            _check_same_run(run, checkpoints.meta(step))
            restored = checkpoints.restore(step, abstract(shapes, shardings))
        except DamagedCheckpointError as damage:
            _fall_back(checkpoints, step, damage)
            continue
        _write_config(run)
        return {**restored, "step": jax.device_put(np.int32(step), shardings["step"])}, step

    _write_config(run)
    with compiling("the initial parameters", _say(), _compile_times(run)):
        state = random_state(run, shardings)
    if task.load_weights is not None:
        params, stats = task.load_weights(state["params"], state["stats"])
        state["params"] = jax.device_put(params, shardings["params"])
        state["stats"] = jax.device_put(stats, shardings["stats"])
    return state, 0


def random_state(run: Run, shardings: Tree) -> State:
    """A fresh run's state on its devices, under the run's seed."""

    def init(seed: jax.Array) -> State:
        return initial_state(run.stateless, run.optimizer, jax.random.key(seed))

    # The seed is an argument, so that runs of several seeds share a compiled program.
    return jax.jit(init, out_shardings=shardings)(np.uint32(run.config.seed))


def _check_same_run(run: Run, stored: dict[str, Any]) -> None:
    """Raises UserError for what was stored with the checkpoint of another run."""
    given = run.record(0)
    changed = difference(stored["config"], given["config"], ignored=resumable_keys(run.config))
    fix = "use another --workdir, or the config of that run"
    if changed is None and stored.get("categories") not in (None, given.get("categories")):
        fix = f"to fine-tune from it, give --init-from={run.workdir} and another --workdir"
    for key, name in run.compared.items():
        if stored.get(key) is not None and given[key] is not None:
            changed = changed or difference(stored[key], given[key], name)
    if changed:
        raise UserError(f"{run.workdir} holds a run of another config ({changed}); {fix}")


def _fall_back(checkpoints: Checkpoints, step: int, damage: DamagedCheckpointError) -> None:
    """Leaves a damaged checkpoint for an older one, and says so; raises the damage without one."""
    older = [each for each in checkpoints.steps if each < step]
    if not older:
        raise damage
    checkpoints.set_aside(step)
    if parallel.is_main():
        print(
            f"note: {damage.reason}; resuming from step {max(older)} instead, and the damaged "
            f"one lies beside it as {step}.damaged",
            file=sys.stderr,
        )


def _write_config(run: Run) -> None:
    if parallel.is_main():
        write_json(run.workdir / "config.json", run.plain_config, indent=2)


def _monitor(task: Task, checkpoints: Checkpoints, start_step: int, stack: ExitStack) -> Monitor:
    """Follows the steps; in the main process it writes and prints, after an introduction."""
    run, writer, progress = task.run, None, None
    config = run.config
    if parallel.is_main():
        _introduce(run, start_step)
        task.trackers.start(run.workdir, start_step, run.plain_config)
        writer = stack.enter_context(MetricWriter(run.workdir, start_step, task.trackers))
        progress = stack.enter_context(
            Progress(
                run.total_steps,
                start_step,
                images_per_step=config.batch_size,
                log_every_seconds=config.log_every_seconds,
            )
        )
    return Monitor(
        checkpoints,
        writer,
        progress,
        total_steps=run.total_steps,
        log_every_steps=config.log_every_steps,
        on_nonfinite=config.on_nonfinite,
        scalars=run.scalars,
    )


def _introduce(run: Run, start_step: int) -> None:
    """Says in a few lines what is about to run."""
    parameters = parameter_count(run.stateless.abstract[0])
    print(
        f"{parameters / 1e6:.1f} M parameters, {run.total_steps} steps of "
        f"{run.config.batch_size} images on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s)"
    )
    print(*run.summary, sep="\n")
    if start_step:
        print(f"resuming after step {start_step}")


def _on_devices(
    batches: Iterator[HostBatch], mesh: jax.sharding.Mesh, monitor: Monitor
) -> Iterator[tuple[np.ndarray | None, dict[str, jax.Array]]]:
    """Ids of this process's images, and batches on the devices.

    One ahead: a batch is sent while the step before it runs.
    """
    ahead = None
    while True:
        started = time.monotonic()
        host = next(batches)
        monitor.waited(time.monotonic() - started)
        following = host.pop("image_id", None), parallel.shard_batch(host, mesh)
        if ahead is not None:
            yield ahead
        ahead = following
