"""A trial: its command, the config that this stands for, and what is rejected beforehand."""

from __future__ import annotations

import sys
from operator import attrgetter

import pytest

from jaxdet.benchmark.trials.trial import check_trial
from jaxdet.config.command_line import config_of
from jaxdet.errors import UserError


def test_a_trial_is_a_command_of_main_with_its_whole_config(trial, tmp_path):
    assert trial.command == [
        sys.executable,
        "-m",
        "jaxdet.main",
        "--config=tests/tiny.py:random",
        "--config.optim.lr=0.001",
        "--config.epochs=2.0",
        f"--workdir={tmp_path / 'one'}",
    ]
    assert trial.config.optim.lr == 1e-3
    assert trial.config.image_size == 64


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", 1.23456789e-4),
        ("epochs", 5.0),
        ("model.vit.global_blocks", ()),
        ("model.vit.out_indices", (0, 3)),
        ("model.vit.remat", "block"),
        ("image_size", 32),
        ("init", "/weights/a.npz"),
    ],
)
def test_the_command_stands_for_the_config(tiny_trial, key, value):
    trial = tiny_trial("one", {key: value})
    assert trial.config.to_json() == config_of(trial.arguments).to_json()
    assert attrgetter(key)(trial.config) == value


def test_a_key_that_the_trials_set_cannot_be_given(tiny_trial):
    with pytest.raises(UserError, match=r"differ in config.epochs; leave out --config.epochs=3"):
        tiny_trial("one", {"epochs": 2.0}, "--config.epochs=3")


def test_a_key_that_the_config_lacks_is_named(tiny_trial):
    with pytest.raises(UserError, match=r"did you mean config.optim\?"):
        tiny_trial("one", {"optm.lr": 1e-3})
    with pytest.raises(UserError, match=r"config.seed=text: "):
        tiny_trial("one", {"seed": "text"})


def test_missing_weights_are_named_before_anything_starts(tiny_trial):
    trial = tiny_trial("one", kind="mae")
    check_trial(trial, needs_weights=False)
    with pytest.raises(UserError, match=r"weights to start mae from are not given: .*--weights"):
        check_trial(trial, needs_weights=True)
    trial = tiny_trial("one", {"init": "/no.npz"}, kind="mae")
    check_trial(trial, needs_weights=False)
    with pytest.raises(UserError, match=r"config.init='/no.npz' is not a file"):
        check_trial(trial, needs_weights=True)


def test_a_base_run_stands_for_weights(tiny_trial):
    trial = tiny_trial("one", {"few_shot.base_run": "/runs/base"}, kind="mae")
    check_trial(trial, needs_weights=True)
