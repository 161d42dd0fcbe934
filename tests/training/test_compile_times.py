"""What earlier starts compiled is known to later ones that compile alike, and to no others."""

from __future__ import annotations

import os

import pytest

from jaxdet.training.compile_times import FILE, CompileTimes
from jaxdet.training.compiling import compiling

ABOUT = {"device": "1 cpu", "parameters": 10, "image_size": 64}


def test_a_time_is_known_to_the_next_start_and_to_runs_beside(tmp_path):
    for name in ("old", "new", "other"):
        (tmp_path / name).mkdir()
    assert CompileTimes(tmp_path / "new", ABOUT).expectation("the step") is None
    CompileTimes(tmp_path / "old", ABOUT).keep("the step", 125.0)
    CompileTimes(tmp_path / "other", {**ABOUT, "parameters": 11}).keep("the step", 5.0)
    os.utime(tmp_path / "old" / FILE, (1, 1))  # older than the other, which is of another model
    expected = f"2:05 the last time, in {tmp_path / 'old'}"
    assert CompileTimes(tmp_path / "new", ABOUT).expectation("the step") == expected
    assert CompileTimes(tmp_path / "new", ABOUT).expectation("the parameters") is None
    said = []
    with compiling("the step", said.append, CompileTimes(tmp_path / "new", ABOUT)):
        pass
    assert said[0] == f"compiling the step ... ({expected})"
    assert CompileTimes(tmp_path / "new", ABOUT).expectation("the step") == "0:00 the last time"


@pytest.mark.parametrize("content", ["", "[]", '{"about": 1}', '{"seconds": 3, "about": {}}'])
def test_a_damaged_file_is_no_file(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    times = CompileTimes(tmp_path, {"damage": content})
    assert times.expectation("the step") is None
    times.keep("the step", 61.0)
    assert times.expectation("the step") == "1:01 the last time"


def test_where_nothing_can_be_written_a_time_is_forgotten(tmp_path):
    (tmp_path / "file").touch()
    times = CompileTimes(tmp_path / "file" / "run", ABOUT)
    times.keep("the step", 1.0)
    assert times.expectation("the step") is None
