"""What the files of a trial's folder say of it."""

from __future__ import annotations

import json

import pytest

from jaxdet.benchmark.trials.outcome import read_outcome
from jaxdet.errors import UserError


def plain(trial) -> dict:
    return json.loads(trial.config.to_json())


def test_a_folder_without_a_result_has_no_outcome(trial):
    assert read_outcome(trial) is None
    trial.folder.mkdir()
    (trial.folder / "config.json").write_text(json.dumps(plain(trial)))
    trial.log.write_text("$ python\nerror: no space is left\n")
    assert read_outcome(trial) is None


def test_a_result_of_the_same_config_is_the_read_outcome(trial, write_result):
    write_result(trial.folder, plain(trial), 0.25)
    assert read_outcome(trial) == (0.25, 0.125, None)
    assert str(read_outcome(trial)) == "box AP 25.0, mask AP 12.5"


@pytest.mark.parametrize("name", ["result.json", "config.json"])
def test_a_folder_of_another_config_is_rejected(trial, name):
    other = plain(trial)
    other["optim"]["lr"] = 0.1
    trial.folder.mkdir()
    content = {"config": other} if name == "result.json" else other
    (trial.folder / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"config.optim.lr was 0.1 and is now 0.001.*--workdir"):
        read_outcome(trial)


def test_where_data_lies_may_change_and_the_initial_weights_may_not(tiny_trial, write_result):
    first = tiny_trial("one", {"data.root": "/a", "init": "/a.npz"})
    write_result(first.folder, plain(first), 0.25)
    assert read_outcome(tiny_trial("one", {"data.root": "/b", "init": "/a.npz"}))
    with pytest.raises(UserError, match=r"config.init was '/a.npz' and is now '/b.npz'"):
        read_outcome(tiny_trial("one", {"init": "/b.npz"}))


def test_an_evaluation_on_the_way_is_not_the_end(trial, write_result):
    for step, is_end in ((1, False), (3, False), (4, True)):
        write_result(trial.folder, plain(trial), 0.25, step=step, epochs=step / 2)
        assert (read_outcome(trial) is not None) == is_end
    # Steps an epoch need not be whole: 2 epochs of 17/8 steps are 4 steps.
    write_result(trial.folder, plain(trial), 0.25, step=4, epochs=4 / (17 / 8))
    assert read_outcome(trial)


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_damaged_result_is_named(trial, content):
    trial.folder.mkdir()
    (trial.folder / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"one/result.json cannot be read .*delete it"):
        read_outcome(trial)


def test_a_result_without_ap_is_named(trial, write_result):
    write_result(trial.folder, plain(trial), None)
    with pytest.raises(UserError, match=r"one/result.json has no box AP"):
        read_outcome(trial)


def test_an_old_divergence_is_not_that_of_the_last_run(trial):
    trial.folder.mkdir()
    (trial.folder / "config.json").write_text(json.dumps(plain(trial)))
    trial.log.write_text("$ python\nerror: training diverged: at step 3\nmore\n")
    assert read_outcome(trial).diverged == "training diverged: at step 3"
    with trial.log.open("a") as stream:
        stream.write("$ python again\nwent on\rand on\r")
    assert read_outcome(trial) is None
