"""Trials side by side on a SLURM cluster, through submitit (the extra `cluster`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxdet.benchmark.trials.trials import Trial, run_command
from jaxdet.errors import UserError

POLL_SECONDS = 10.0


def run_on_slurm(
    trials: Sequence[Trial],
    folder: Path,
    *,
    partition: str | None,
    gpus_per_node: int,
    cpus: int,
    hours: float,
    max_parallel: int,
    cluster: str = "slurm",
) -> Iterator[tuple[Trial, str]]:
    """Runs each trial as a job of its own on one node; jobs still going are cancelled at the end.

    A job that meets its time limit fails; its run has saved its state and goes on when submitted
    again.

    Args:
        folder: where submitit keeps its files; all nodes see it, and the trials' folders.
        gpus_per_node: that a job asks for; a trial uses them all.
        cpus: that a job asks for, which prepare the images.
        max_parallel: jobs at a time.
        cluster: as submitit calls it.

    Raises:
        UserError: submitit is not installed, or there is no such cluster here.
    """
    if not trials:
        return
    submitit = _submitit()
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(
            name="jaxdet",
            nodes=1,
            tasks_per_node=1,
            cpus_per_task=cpus,
            gpus_per_node=gpus_per_node,
            timeout_min=max(1, round(60 * hours)),
            slurm_array_parallelism=max_parallel,
            **({"slurm_partition": partition} if partition else {}),
        )
        with executor.batch():
            jobs = [executor.submit(run_command, trial.command, trial.log) for trial in trials]
    except Exception as error:  # submitit and sbatch raise of all kinds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"no jobs could be submitted ({line}); start this where sbatch works, or give "
            "--executor=local"
        ) from error
    for job, trial in zip(jobs, trials, strict=True):
        print(f"{trial.name}: job {job.job_id}, see {trial.log}", flush=True)
    trial_of = {job.job_id: trial for job, trial in zip(jobs, trials, strict=True)}
    try:
        for job in submitit.helpers.as_completed(jobs, poll_frequency=POLL_SECONDS):
            yield trial_of[job.job_id], _end(job)
    finally:
        for job in jobs:
            if not job.done():
                job.cancel(check=False)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            f"--executor=slurm needs submitit ({error}); install it with "
            "pip install -c constraints.txt -e '.[cluster]'"
        ) from error
    return submitit


def _end(job: Any) -> str:
    try:
        return f"job {job.job_id}, exit status {job.result()}"
    except Exception as error:  # what the job raised, or submitit's account of a job that vanished
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return f"job {job.job_id} in state {job.state}, {line}"
