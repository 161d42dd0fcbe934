"""Runs that are interrupted, and runs of several processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np

from jaxdet.training import loop
from jaxdet.training.monitor import Monitor

REPOSITORY = Path(__file__).resolve().parent.parent


def logged(workdir: Path) -> list[dict]:
    """What metrics.jsonl says of the steps."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def stop_after(monkeypatch, step: int) -> None:
    """The next run in this process gets a SIGTERM while the given step is under way."""
    add = Monitor.add

    def add_and_signal(self, current, *rest):
        add(self, current, *rest)
        if current == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Monitor, "add", add_and_signal)


def break_step(monkeypatch, number: int, path: Sequence[str]) -> None:
    """One step of the next runs sees a parameter, whose keys are given, that is not a number."""
    make = loop.make_train_step

    def make_broken(*arguments, **options):
        train_step = make(*arguments, **options)

        def step(state, batch, key):
            if int(state["step"]) + 1 != number:
                return train_step(state, batch, key)
            *modules, name = path
            module = reduce(getitem, modules, state["params"])
            value = module[name]
            module[name] = value * np.nan
            state, metrics = train_step(state, batch, key)
            reduce(getitem, modules, state["params"])[name] = value
            return state, metrics

        return step

    monkeypatch.setattr(loop, "make_train_step", make_broken)


def start(command: Sequence[str], processes: int) -> list[subprocess.Popen]:
    """A command on two devices: in one process, or in two of one each.

    Args:
        command: a module and its flags.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", *command]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(2 // processes),
        "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": str(processes),
    }
    return [
        subprocess.Popen(
            command if processes == 1 else [*command, "--distributed"],
            env={**environment, "JAX_PROCESS_ID": str(rank)},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]


def finish(processes: Sequence[subprocess.Popen]) -> None:
    """Waits for processes, all of which must succeed; if one fails none is left."""
    try:
        for process in processes:
            output = process.communicate(timeout=600)[0]
            assert process.returncode == 0, output
    finally:
        kill(processes)


def kill(processes: Sequence[subprocess.Popen]) -> None:
    """Ends those processes that still run."""
    for process in processes:
        process.kill()
        process.communicate()
