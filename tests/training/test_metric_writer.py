"""Scalars on disk survive a restart without doubles; progress is right and stays cheap."""

from __future__ import annotations

import io
import json
import math
import os
import resource

import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.training.metric_writer import MetricWriter, Progress


def read_lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


class Points:
    """In place of trackers."""

    def __init__(self):
        self.added = []

    def scalars(self, step, values):
        self.added.append((step, values))


def test_scalars_reach_the_file_and_the_trackers(tmp_path):
    points = Points()
    with MetricWriter(tmp_path / "new" / "run", trackers=points) as writer:
        writer.write(1, {"loss": np.float32(0.5), "lr": 1e-4})
        assert read_lines(tmp_path / "new" / "run")[0]["loss"] == 0.5
        writer.write(20, {"loss": 0.25})
    lines = read_lines(tmp_path / "new" / "run")
    assert [line["step"] for line in lines] == [1, 20]
    assert lines[0]["lr"] == 1e-4
    assert lines[0]["time"] <= lines[1]["time"]
    assert points.added == [(1, {"loss": 0.5, "lr": 1e-4}), (20, {"loss": 0.25})]


def test_what_is_not_finite_is_null(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.write(1, {"loss": math.nan, "grad_norm": math.inf, "lr": 1.0})
    (line,) = read_lines(tmp_path)
    assert (line["loss"], line["grad_norm"], line["lr"]) == (None, None, 1.0)


def write_run(workdir, steps, start_step=0):
    with MetricWriter(workdir, start_step) as writer:
        for step in steps:
            writer.write(step, {"loss": step + 0.5 * bool(start_step)})


def test_a_resumed_run_takes_back_later_steps(tmp_path):
    write_run(tmp_path, range(1, 8))
    write_run(tmp_path, range(6, 10), start_step=5)
    lines = read_lines(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["loss"] for line in lines] == [1, 2, 3, 4, 5, 6.5, 7.5, 8.5, 9.5]
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_a_run_from_the_start_begins_a_new_file(tmp_path):
    write_run(tmp_path, [0, 1, 2])
    write_run(tmp_path, [0, 1])
    assert [line["step"] for line in read_lines(tmp_path)] == [0, 1]


@pytest.mark.parametrize(
    "line",
    [
        *(b"[1]", b"3", b"null", b'{"loss": 1}', b'{"step": "4"}', b'{"step": true}', b"\xff\xfe"),
        *(b"[" * 100_000, b'{"step": NaN}', b'{"step": 2'),
    ],
    ids=range(10),
)
def test_lines_that_are_no_metrics_are_left_out_with_a_note(tmp_path, capsys, line):
    write_run(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    write_run(tmp_path, [4], start_step=3)
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2, 4]
    assert capsys.readouterr().out.count("line(s) of") == (line != b'{"step": NaN}')


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written \(it is a named pipe"):
        MetricWriter(tmp_path, 3)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written \(File exists\)"):
        MetricWriter(tmp_path / "file")


def fill_up(tmp_path, then=None):
    """Writes when no file may grow any more, which the system reports like a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with MetricWriter(tmp_path) as writer:
            writer.write(1, {"loss": 1.0})
            size = (tmp_path / "metrics.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, limits[1]))
            if then is not None:
                raise then
            writer.write(2, {"loss": 2.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_sentence_and_hides_no_other(tmp_path):
    with pytest.raises(UserError, match=r"cannot be written \(File too large\); free space"):
        fill_up(tmp_path)
    with pytest.raises(UserError, match=r"^diverged$"):
        fill_up(tmp_path, UserError("diverged"))
    write_run(tmp_path, [2], start_step=1)
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    write_run(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    write_run(tmp_path, [4], start_step=3)
    assert [line["step"] for line in read_lines(tmp_path)] == [1, 2, 4]


class Clock:
    """Seconds that pass only when set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


class DeviceScalar:
    """Counts how often it is read, as reading waits for the device."""

    reads = 0

    def __float__(self):
        DeviceScalar.reads += 1
        return 1.5


def run_steps(progress, clock, steps, seconds_per_step, scalar):
    for step in steps:
        clock.now += seconds_per_step
        progress.update(step, {"loss": scalar})


def test_a_log_gets_a_line_every_few_seconds():
    clock, log = Clock(), io.StringIO()
    DeviceScalar.reads = 0
    with Progress(
        1000, images_per_step=8, log_every_seconds=10, stream=log, clock=clock
    ) as progress:
        clock.now += 60  # compilation
        run_steps(progress, clock, range(1, 51), 0.5, DeviceScalar())
    assert log.getvalue().splitlines() == [
        "step 1/1000 | loss 1.5",
        "about 8 min for the 979 steps to go, at 0.5 s a step over the first 20; evaluations come "
        "on top",
        "step 21/1000 | loss 1.5 | 16.0 images/s, 8:10 to go",
        "step 41/1000 | loss 1.5 | 16.0 images/s, 8:00 to go",
    ]
    assert DeviceScalar.reads == 3


def test_the_time_to_go_is_not_that_of_the_last_interval_alone():
    """Two slow intervals among twenty: the speed shows them, the time to go hardly does."""
    clock, log = Clock(), io.StringIO()
    with Progress(1000, images_per_step=1, stream=log, clock=clock) as progress:
        run_steps(progress, clock, range(1, 202), 1.0, 2.0)
        run_steps(progress, clock, range(202, 204), 10.0, 2.0)
    lines = [line for line in log.getvalue().splitlines() if line.startswith("step")]
    left = [line.partition("images/s, ")[2] for line in lines]
    assert left[20] == "13:19 to go"  # step 201: 799 steps of a second
    assert "| 0.1 images/s, " in log.getvalue().splitlines()[-1]
    minutes, seconds = map(int, left[-1].split()[0].split(":"))
    per_step = (60 * minutes + seconds) / 797
    assert 1.08 < per_step < 1.15  # of the last interval alone it would be 10


@pytest.mark.parametrize(
    ("total", "seconds_per_step", "expected"),
    [
        (1200, 0.7, "about 14 min for the 1,179 steps to go, at 0.7 s a step over the first 20;"),
        (9_003, 20.0, "about 2.1 days for the 9,000 steps to go, at 20 s a step over the first 2;"),
        (2_000, 5.0, "about 2.8 h for the 1,993 steps to go, at 5 s a step over the first 6;"),
        (100, 0.5, ""),
    ],
)
def test_the_length_is_told_once_the_first_steps_are_timed(total, seconds_per_step, expected):
    clock, log = Clock(), io.StringIO()
    with Progress(total, images_per_step=1, stream=log, clock=clock) as progress:
        clock.now += 300  # compilation
        run_steps(progress, clock, range(1, 60), seconds_per_step, 2.0)
    told = [line for line in log.getvalue().splitlines() if line.startswith("about")]
    assert [line[: len(expected)] for line in told] == [expected] * bool(expected)


def test_the_last_step_is_always_reported():
    clock, log = Clock(), io.StringIO()
    with Progress(5, images_per_step=1, stream=log, clock=clock) as progress:
        run_steps(progress, clock, range(1, 6), 0.1, 2.0)
    assert log.getvalue().splitlines()[-1] == "step 5/5 | loss 2 | 10.0 images/s, 0:00 to go"


def test_a_resumed_run_counts_only_its_own_steps():
    clock, log = Clock(), io.StringIO()
    with Progress(10000, 9000, images_per_step=2, stream=log, clock=clock) as progress:
        run_steps(progress, clock, range(9001, 9013), 1.0, 2.0)
    assert "step 9011/10000 | loss 2 | 2.0 images/s, 16:29 to go" in log.getvalue()


def test_a_terminal_gets_a_bar():
    clock, terminal = Clock(), Terminal()
    with Progress(20, 10, images_per_step=4, stream=terminal, clock=clock) as progress:
        run_steps(progress, clock, range(11, 21), 1.0, 0.75)
    shown = terminal.getvalue()
    assert " 50%|" in shown
    assert "20/20, loss 0.75 | 4.0 images/s, 0:00 to go" in shown
    assert shown.count("\n") == 1
