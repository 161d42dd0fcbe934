"""What a detector's run is told from another by."""

from __future__ import annotations

import json

import pytest

from jaxdet.errors import UserError
from jaxdet.training.experiment import Experiment
from jaxdet.training.loop import _check_same_run
from tests.tiny import get_config
from tests.weights.converted import backbone, report, save


def test_a_run_resumes_on_the_weights_it_started_from_alone(tmp_path):
    def run(name: str) -> Experiment:
        config = get_config()
        config.init = str(tmp_path / f"{name}.npz")
        return Experiment(config, tmp_path / "run")

    for name in "ab":
        source = {"file": "mae.pth", "bytes": 1, "sha256": name * 64}
        save(tmp_path / f"{name}.npz", backbone(), report(source=source))
    save(tmp_path / "by_hand.npz", backbone())
    stored = run("a").record(2)
    for name in ("a", "by_hand", "gone"):
        _check_same_run(run(name), stored)
    with pytest.raises(UserError, match=r"weights that config\.init was converted from.*another"):
        _check_same_run(run("b"), stored)
    assert run("gone").record(2)["init_sha256"] is None


def test_a_pushed_folder_says_its_weights_and_an_address_is_not_downloaded(tmp_path):
    description = {"library_name": "jaxdet", "report": report(), "sha256": {}}
    (tmp_path / "config.json").write_text(json.dumps(description))
    config = get_config()
    for init, expected in (
        (str(tmp_path), report()["source"]["sha256"]),
        ("hf://owner/name", None),
    ):
        config.init = init
        assert Experiment(config, tmp_path / "run").record(2)["init_sha256"] == expected
