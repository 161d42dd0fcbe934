"""The command that prints what every config costs."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.complexity import complexity, main
from jaxdet.config.files import load_config


def test_the_command_prints_every_part_and_what_is_published(capsys):
    assert main(["vitb_mae", "shapes_tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| vitb_mae | 115.68 | 116 | 852.7 | 853 |" in lines
    rows = [line for line in lines if line.startswith("| shapes_tiny |")]
    assert len(rows) == 3
    for row in rows:
        *parts, whole = map(float, row.split("|")[2:-1])
        assert len(parts) == 6
        assert sum(parts) == pytest.approx(whole, abs=0.04)


def test_lvis_has_its_own_classes():
    """A box head's linear layer has a logit a class, and here one box for all of them."""
    config = load_config("cascade_lvis_b")
    heads = {}
    for metric in ("lvis", "coco"):
        config.data.metric = metric
        heads[metric] = complexity(config, 26).parameters["box_head"]
    assert heads["lvis"] - heads["coco"] == 3 * (1203 - 80) * 1025


def test_the_command_names_a_config_that_is_none(capsys):
    assert main(["configs/nothing.py"]) == 2
    assert capsys.readouterr().err.startswith("error: config file configs/nothing.py")
