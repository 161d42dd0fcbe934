"""Trials side by side on a SLURM cluster, through submitit (the extra `cluster`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdet.benchmark.trials.runner import run_command
from jaxdet.benchmark.trials.trial import Trial
from jaxdet.errors import UserError

POLL_SECONDS = 10.0


@dataclass(frozen=True)
class SlurmExecutor:
    """Runs each trial as a job of its own on one node.

    A job that meets its time limit fails; its run has saved its state and resumes when submitted
    again.

    Attributes:
        folder: where submitit keeps its files; all nodes see it, and the trials' folders.
        partition: of the cluster; None for its default.
        gpus_per_node: that a job asks for; a trial uses them all.
        cpus: that a job asks for, which prepare the images.
        hours: time limit of a job.
        max_parallel: jobs at a time.
        cluster: as submitit calls it.
    """

    folder: Path
    partition: str | None
    gpus_per_node: int
    cpus: int
    hours: float
    max_parallel: int
    cluster: str = "slurm"

    def __call__(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
        """Submits trials and yields each as its job ends; cancels, at the end, those still going.

        Raises:
            UserError: submitit is not installed, or there is no such cluster here.
        """
        if not trials:
            return
        submitit = _submitit()
        jobs = self._submit(submitit, trials)
        trial_of = {job.job_id: trial for job, trial in zip(jobs, trials, strict=True)}
        for job_id, trial in trial_of.items():
            print(f"{trial.name}: job {job_id}, see {trial.log}", flush=True)
        try:
            for job in submitit.helpers.as_completed(jobs, poll_frequency=POLL_SECONDS):
                yield trial_of[job.job_id], _ending(job)
        finally:
            for job in jobs:
                if not job.done():
                    job.cancel(check=False)

    def _submit(self, submitit: Any, trials: Sequence[Trial]) -> list[Any]:
        try:
            executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
            executor.update_parameters(
                name="jaxdet",
                nodes=1,
                tasks_per_node=1,
                cpus_per_task=self.cpus,
                gpus_per_node=self.gpus_per_node,
                timeout_min=max(1, round(60 * self.hours)),
                slurm_array_parallelism=self.max_parallel,
                **({"slurm_partition": self.partition} if self.partition else {}),
            )
            with executor.batch():
                return [executor.submit(run_command, trial.command, trial.log) for trial in trials]
        except Exception as error:  # submitit and sbatch raise of all kinds
            raise UserError(
                f"no jobs could be submitted ({_lines(error)[0]}); start this where sbatch works, "
                "or give --executor=local"
            ) from error


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            f"--executor=slurm needs submitit ({error}); install it with "
            "pip install -c constraints.txt -e '.[cluster]'"
        ) from error
    return submitit


def _ending(job: Any) -> str:
    try:
        return f"job {job.job_id}, exit status {job.result()}"
    except Exception as error:  # what the job raised, or submitit's account of a job that vanished
        return f"job {job.job_id} in state {job.state}, {_lines(error)[-1]}"


def _lines(error: Exception) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
