"""Runs that the version before began are resumed, evaluated, loaded and reported.

tests/reference/old_runs.tar.xz holds them, with the losses and the AP to which they come.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import cv2
import pytest
from PIL import Image

from jaxdet import __version__, main, pretrain
from jaxdet.benchmark.reporting.result_file import read_run
from jaxdet.inference.detector import load
from jaxdet.training.run import versions

pytestmark = pytest.mark.usefixtures("shared_programs")

DETECTOR = """
from tests.tiny import get_config as tiny, with_fpn

def get_config():
    return with_fpn(tiny())
"""

PRETRAINING = """
import json
from jaxdet.config import pretraining

def get_config():
    config = pretraining()
    config.update(json.loads({config!r}))
    return config
"""


@pytest.fixture(scope="module")
def old_runs(reference_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(reference_file("old_runs.tar.xz")) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    """The flag that gives the detector's config under today's names."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(DETECTOR)
    return f"--config={path}"


@pytest.fixture(scope="module")
def expected(old_runs):
    return json.loads((old_runs / "expected.json").read_text())


def losses(workdir: Path) -> dict[str, float]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {str(line["step"]): line["loss"] for line in lines if "loss" in line}


@pytest.fixture(scope="module")
def near(old_runs):
    """Equality with a stored number; other versions of the libraries round otherwise than those
    that the old runs were made with."""
    made_with = json.loads((old_runs / "result.json").read_text())["versions"]
    are_those = made_with | versions() == made_with | {"jaxdet": __version__}
    exact = are_those and cv2.__version__.startswith("5.")
    allowed = {"rel": 1e-5} if exact else {"rel": 1e-3, "abs": 1e-3}
    return lambda value: pytest.approx(value, **allowed)


@pytest.fixture(scope="module")
def resumed(old_runs, config, tmp_path_factory) -> Path:
    """The detector's run, resumed by its command."""
    workdir = tmp_path_factory.mktemp("resumed") / "detector"
    shutil.copytree(old_runs / "detector", workdir)
    assert "canvas" in json.loads((workdir / "config.json").read_text())
    assert main.main([config, f"--workdir={workdir}"]) == 0
    return workdir


def test_a_detector_s_run_comes_to_the_same_end(resumed, expected, near):
    assert losses(resumed) == {
        step: near(loss) for step, loss in expected["detector"]["losses"].items()
    }
    result = json.loads((resumed / "result.json").read_text())
    for kind in ("bbox", "segm"):
        assert result["metrics"][kind]["AP"] == near(expected["detector"][f"{kind}_AP"])
    assert result["config"]["image_size"] == 64
    assert "canvas" not in result["config"]


def test_an_unfinished_run_is_evaluated(old_runs, config, tmp_path, near):
    workdir = tmp_path / "detector"
    shutil.copytree(old_runs / "detector", workdir)
    assert main.main([config, f"--workdir={workdir}", "--mode=eval"]) == 0
    result = json.loads((workdir / "result.json").read_text())
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    (then,) = (line["val/bbox/AP"] for line in lines if "val/bbox/AP" in line)
    assert result["metrics"]["bbox"]["AP"] == near(then)
    assert result["config"]["data"]["max_instances"] == 6


def test_a_checkpoint_is_loaded(old_runs):
    detector = load(old_runs / "detector")
    assert detector.config.image_size == 64
    assert detector.config.model.vit.out_indices == (0, 1, 2, 3)
    detector.predict(Image.new("RGB", (64, 48)))


def test_a_result_is_reported(old_runs, expected, tmp_path):
    shutil.copy(old_runs / "result.json", tmp_path)
    run = read_run(tmp_path)
    assert run.scores["bbox"].coco["AP"] == expected["detector"]["bbox_AP"]
    assert run.config["model"]["vit"]["out_indices"] == [0, 1, 2, 3]
    assert run.config["image_size"] == 64


def test_a_pre_training_comes_to_the_same_end(old_runs, expected, tmp_path, near):
    workdir, config = tmp_path / "pretraining", tmp_path / "pretrain.py"
    shutil.copytree(old_runs / "pretraining", workdir)
    config.write_text(PRETRAINING.format(config=(workdir / "config.json").read_text()))
    assert pretrain.main([f"--config={config}", f"--workdir={workdir}"]) == 0
    found = losses(workdir)
    assert found == {step: near(loss) for step, loss in expected["pretraining"]["losses"].items()}
    assert (workdir / "weights.npz").is_file()
