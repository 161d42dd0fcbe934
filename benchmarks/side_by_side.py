"""Commands run side by side as processes that share one accelerator, each once and to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

COMPILED = "compiled the training step"
"""What a training says when its step is in the cache."""


@dataclass(frozen=True)
class Job:
    """A command, and when it can be started.

    Attributes:
        name: for lines on the terminal.
        command: makes its arguments; called when all that is needed is there.
        result: the file that it leaves at its end, and that says that it need not run again.
        needs: files without which it is not started.
        program: jobs of one program compile the same; the first does, and the others wait for it.
            None: it compiles nothing.
    """

    name: str
    command: Callable[[], Sequence[str]]
    result: Path
    log: Path
    needs: tuple[Path, ...] = ()
    program: str | None = None

    @property
    def is_done(self) -> bool:
        return self.result.is_file()

    @property
    def has_compiled(self) -> bool:
        return self.is_done or COMPILED in self.log.read_text(errors="replace")


def run_jobs(
    jobs: Iterable[Job], *, side_by_side: int, seconds: float, environment: dict[str, str]
) -> list[Job]:
    """Runs what is not done yet, in the order given where there is a choice.

    Args:
        side_by_side: processes at a time.
        seconds: after which what still runs is asked to stop (SIGTERM), and waited for.
        environment: of the processes, besides this one's.

    Returns:
        The jobs that failed. Those that need what these would have left are not run.
    """
    waiting = [job for job in jobs if not job.is_done]
    running: dict[Job, subprocess.Popen[bytes]] = {}
    failed: list[Job] = []
    start = time.monotonic()
    environment = {**os.environ, **environment}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while waiting or running:
            passed = time.monotonic() - start
            for job in [job for job, process in running.items() if process.poll() is not None]:
                running.pop(job)
                failed += [] if job.is_done else [job]
                print(f"{passed:4.0f} s  {job.name}: {_outcome(job)}", flush=True)
            if passed > seconds:
                print(f"{passed:4.0f} s  time is up; {len(waiting)} not started", flush=True)
                break
            for job in [job for job in waiting if _can_start(job, running)]:
                if len(running) < side_by_side and _can_start(job, running):
                    waiting.remove(job)
                    running[job] = _started(job, environment)
            if not running:
                if not waiting:
                    break
                names = ", ".join(job.name for job in waiting)
                print(f"{passed:4.0f} s  not started, for want of the results of others: {names}")
                break
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _can_start(job: Job, running: Iterable[Job]) -> bool:
    if not all(path.exists() for path in job.needs):
        return False
    alike = [other for other in running if job.program and other.program == job.program]
    return all(other.has_compiled for other in alike)


def _started(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("w") as log:
        return subprocess.Popen(
            job.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )


def _outcome(job: Job) -> str:
    if job.is_done:
        return "done"
    lines = job.log.read_text(errors="replace").strip().splitlines()
    return f"FAILED ({lines[-1][:300] if lines else 'it printed nothing'}); its log is {job.log}"
