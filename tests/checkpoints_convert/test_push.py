"""A run's detector as it goes to the hub, and back into a detector."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from checkpoints_convert import push
from checkpoints_convert.model_card import Published, dataset_name, model_card
from jaxdet.inference.detector import load
from jaxdet.weights.classes import COCO_CLASSES
from tests.checkpoints_convert.hub_server import Repository, hub
from tests.tiny import get_config

yaml = pytest.importorskip("yaml")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def pushed(finished, tmp_path_factory):
    """The finished run's detector in a folder."""
    folder = tmp_path_factory.mktemp("pushed") / "folder"
    arguments = [str(finished[0].workdir), "owner/tiny", f"--out={folder}", "--license=mit"]
    assert push.main([*arguments, "--dataset=owner/shapes"]) == 0
    return folder


def test_the_card_has_what_the_evaluation_found(pushed, finished):
    _, head, text = (pushed / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert (metadata["license"], metadata["library_name"]) == ("mit", "jaxdet")
    assert metadata["datasets"] == ["owner/shapes"]
    found = {
        metric["name"]: metric["value"]
        for result in metadata["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        assert found[f"{name} AP50"] == pytest.approx(100 * finished[1][kind]["AP50"], abs=0.006)
    assert "hf://owner/tiny" in text
    assert "disc, box, triangle, star" in text
    assert "9 images of jaxdet's built-in shapes after 2 epochs" in text


def test_the_hub_s_own_package_reads_the_card(pushed):
    hub_package = pytest.importorskip("huggingface_hub")
    data = hub_package.ModelCard.load(pushed / "README.md").data
    assert data.eval_results[0].metric_name == "box AP"
    assert data.eval_results[0].dataset_name == "jaxdet's built-in shapes"


def test_a_detector_comes_back(pushed, detector):
    """Its arrays, classes and config."""
    found = load(pushed)
    for own, other in zip(
        jax.tree.leaves((found.params, found.stats)),
        jax.tree.leaves((detector.params, detector.stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(own, other)
    assert found.categories == detector.categories
    assert found.config.to_json() == detector.config.to_json()


def test_no_folder_of_this_machine_is_told():
    told = push.without_folders(
        {"root": "/data/cats/", "list": ["/a/b.json", 3, "~/c/d", "~me"], "none": None}
    )
    assert told == {"root": "cats", "list": ["b.json", 3, "d", "me"], "none": None}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("it started from /data/me/mae.npz (MAE)", "it started from mae.npz (MAE)"),
        ("'~me/a b', file=~/x.pth, see /tmp/y/: it", "'a b', file=x.pth, see y: it"),
        ("a/b of hf://owner/name, https://a.b/c, 1 / 2, m/s", None),
    ],
)
def test_no_folder_is_told_in_a_sentence(text, told):
    assert push.without_folders([text]) == [text if told is None else told]


def test_the_files_tell_no_folder_of_this_machine(pushed, finished):
    for file in pushed.iterdir():
        assert str(finished[0].workdir.parent).encode() not in file.read_bytes()


def copied(finished, tmp_path):
    """A run that may be written to."""
    run = tmp_path / "run"
    shutil.copytree(finished[0].workdir, run)
    return run


def test_a_run_without_a_result_of_its_weights_is_an_error(finished, tmp_path, capsys):
    run = copied(finished, tmp_path)
    result = json.loads((run / "result.json").read_text())
    stale = {**result, "checkpoint_sha256": "0" * 64}
    other = {**result, "evaluated": "converted detector"}
    for content, message in (
        (stale, "is not of the newest checkpoint, step 4; evaluate it"),
        (other, "must be what jaxdet wrote of a checkpoint (it is of a converted detector)"),
        ({**result, "images": {}}, "of a checkpoint (it has no images.val)"),
        ({**result, "versions": {"jaxdet": "1"}}, "of a checkpoint (it has no versions.jax)"),
        ({**result, "metrics": {"bbox": None}}, "of a checkpoint (its metrics.bbox is None)"),
        (["a"], "of a checkpoint (it has no evaluated)"),
        (None, "result.json does not exist: the run has not ended"),
    ):
        (run / "result.json").unlink()
        if content is not None:
            (run / "result.json").write_text(json.dumps(content))
        assert push.main([str(run), "owner/name", f"--out={tmp_path / 'out'}"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        (run / "result.json").touch()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "name"], "name must be owner/name"),
        (["{run}", "owner/name@v1"], "must be owner/name"),
        (["{run}", "o/n", "--license=a b"], "can be no name of the hub's"),
        (["/nowhere", "o/n"], "/nowhere is not a folder"),
        (["{run}", "o/n", "--out={run}"], "holds other files (checkpoints); give an empty --out"),
    ],
)
def test_a_mistake_is_one_sentence(finished, arguments, message, capsys):
    given = [text.format(run=finished[0].workdir) for text in arguments]
    assert push.main(given) == 2
    assert message in capsys.readouterr().err


def test_what_is_not_known_is_left_out(finished):
    """A detector of boxes alone, of a size that nothing was measured of."""
    result = json.loads((finished[0].workdir / "result.json").read_text())
    result["metrics"].pop("segm")
    result["metrics"]["bbox"].update(AP=float("nan"), APl=None)
    report = {
        "classes": ["a|b"],
        "vit": {"width": 1, "depth": 2, "patch": 3},
        "notes": ["it started from <b>"],
        "source": {"sha256": "ab"},
    }
    text = model_card(Published("o/n", None, None), result, report)
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert not {"license", "datasets"} & metadata.keys()
    assert "instance-segmentation" not in metadata["tags"]
    (measured,) = metadata["model-index"][0]["results"]
    assert not {"mAP", "mAPl"} & {metric["type"] for metric in measured["metrics"]}
    assert "Faster R-CNN" in text
    assert r"a\|b" in text
    assert r"It started from \<b\>" in text


@pytest.mark.parametrize(
    ("data", "classes", "name"),
    [
        ({"root": "/data/x"}, COCO_CLASSES, "COCO"),
        ({"root": "/data/cats"}, ["cat"], "cats"),
        ({"root": None}, ["cat"], "a data set in COCO's format"),
        ({"metric": "lvis", "root": "/data/x"}, ["cat"], "LVIS"),
        ({"name": "shapes"}, ["disc"], "jaxdet's built-in shapes"),
    ],
)
def test_a_data_set_is_called_what_it_is(data, classes, name):
    data = json.loads(get_config().data.to_json()) | {"name": "coco"} | data
    assert dataset_name({"evaluated_on": data}, classes) == name


UPLOAD = """
import sys
from pathlib import Path
from jaxdet.errors import UserError
from jaxdet.weights.hub import download, upload
folder = Path(sys.argv[1])
for name, update in (("o/a", False), ("o/a", False), ("o/a", True)):
    try:
        print(upload(folder, name, private=False, update=update))
    except UserError as error:
        print(error)
if "--no-download" not in sys.argv:
    print(sorted(file.name for file in download("hf://o/a").iterdir()))
"""


@pytest.fixture
def talk(pushed, tmp_path):
    """What the real package says of uploads to a server of its protocol."""
    if importlib.util.find_spec("huggingface_hub") is None:
        pytest.skip("huggingface_hub is not installed")

    def run(endpoint, token, *arguments):
        environment = {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(["", *sys.path]),
        }
        command = [sys.executable, "-c", UPLOAD, str(pushed), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_the_files_go_to_the_hub_and_come_back(talk, pushed):
    repositories: dict[str, Repository] = {}
    with hub(repositories, token="secret") as endpoint:
        first, second, third, names = talk(endpoint, "secret")
    assert (first, third) == (f"{endpoint}/o/a", f"{endpoint}/o/a")
    assert second.startswith("the hub has o/a already; give --update")
    written = {file.name: file.read_bytes() for file in pushed.iterdir()}
    assert repositories["o/a"].files == written
    assert names == "['config.json', 'model.safetensors']"


def test_without_rights_it_is_one_sentence(talk):
    with hub({}, token="secret") as endpoint:
        lines = talk(endpoint, "wrong", "--no-download")
    lines += talk(endpoint, "secret", "--no-download")  # the server is gone
    assert all("o/a cannot be uploaded (" in line and len(line) < 490 for line in lines)
    assert "nobody is logged in, or with a token that is not valid" in lines[0]
