"""Runs are found in folders, each once."""

from __future__ import annotations

from pathlib import Path

from jaxdet.benchmark.reporting.gather import gather
from jaxdet.benchmark.reporting.result_file import read_run
from jaxdet.benchmark.reporting.run import SkippedRun


def test_what_nobody_thought_of_costs_one_run(write, tmp_path, monkeypatch):
    broken, sound = write("broken"), write("sound", optim__lr=0.1, seed=1)

    def read(folder):
        if folder == broken:
            raise MemoryError("too much\nof it")
        return read_run(folder)

    monkeypatch.setattr("jaxdet.benchmark.reporting.gather.read_run", read)
    runs, (skipped,) = gather([broken, sound])
    assert [run.folder for run in runs] == [sound]
    assert skipped.reason == "damaged: it cannot be read (MemoryError: too much)"


def test_a_reason_holds_a_folder_s_name_and_not_its_path():
    assert SkippedRun(Path("/x/a"), "see /x/a. So").reason_without_path == "see a. So"
    assert SkippedRun(Path("."), "see a.json. So").reason_without_path == "see a.json. So"


def test_a_copy_of_a_run_is_not_another_seed(write, tmp_path):
    write("a", seed=3)
    write("b", seed=3)
    runs, skipped = gather([tmp_path])
    assert len(runs) == 1
    assert "the same result as in a" in skipped[0].reason
