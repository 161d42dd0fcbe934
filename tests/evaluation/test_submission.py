"""Scoring a file of detections that any detector may have made."""

from __future__ import annotations

import hashlib
import json

import pytest

from jaxdet.main import main
from jaxdet.training.experiment import Experiment
from tests.tiny import get_config


@pytest.fixture(scope="module")
def perfect(tmp_path_factory):
    """The validation set's objects as detections."""
    ground_truth = Experiment(get_config(), tmp_path_factory.mktemp("none")).val_set.ground_truth()
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "score": 0.9 - 1e-3 * number,
            "segmentation": annotation["segmentation"],
        }
        for number, annotation in enumerate(ground_truth["annotations"])
    ]


def score(path, workdir, *more) -> int:
    flags = ["--config=tests/tiny.py", "--mode=eval"]
    return main([*flags, f"--detections={path}", f"--workdir={workdir}", *more])


@pytest.mark.parametrize("kinds", [("bbox",), ("segm",), ("bbox", "segm")])
def test_a_file_is_scored_by_what_its_entries_have(perfect, kinds, tmp_path, capsys):
    left_out = {"bbox": "segmentation", "segm": "bbox"}[kinds[0]] if len(kinds) == 1 else None
    content = json.dumps([{k: v for k, v in d.items() if k != left_out} for d in perfect])
    path, workdir = tmp_path / "theirs.json", tmp_path / "work"
    path.write_text(content)
    assert score(path, workdir) == 0
    result = json.loads((workdir / "result.json").read_text())
    assert set(result["metrics"]) == {*kinds, "tide"}
    for kind in kinds:
        assert result["metrics"][kind]["AP"] == pytest.approx(1)
        assert result["metrics"]["tide"][kind]["main"]["Miss"] == 0
    assert result["evaluated"] == "file of detections"
    assert result["checkpoint"] == str(path)
    assert result["checkpoint_sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert result["config"]["image_size"] == 64
    for unknown in ("epochs", "init", "parameters", "device"):
        assert result[unknown] is None
    assert result["images"] == {"train": None, "val": 9}
    assert (workdir / "detections.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "star" in out
    assert out.count("AP50 lost to Cls 0.0") == len(kinds)


def test_no_detections_are_scored_too(tmp_path):
    path = tmp_path / "nothing.json"
    path.write_text("[]")
    assert score(path, tmp_path / "work") == 0
    result = json.loads((tmp_path / "work" / "result.json").read_text())
    assert result["metrics"]["bbox"]["AP"] == 0


def changed(**fields):
    """Makes a file's content of detections whose third entry has other fields."""

    def change(perfect) -> str:
        return json.dumps([*perfect[:2], {**perfect[2], **fields}, *perfect[3:]])

    return change


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\x00\xff", "is not JSON"),
        ('{"annotations": []}', "holds no list"),
        ("[1]", "entry 0 has neither bbox nor segmentation"),
        (changed(segmentation=None), "entry 2 has other fields than entry 0"),
        (changed(bbox=None, segmentation=None), "entry 2 has neither bbox nor segmentation"),
        (changed(image_id=999), "detections[2]: image_id 999 is not among the images"),
        (changed(category_id="cat"), "detections[2]: category_id 'cat' is not among"),
        (changed(score=float("nan")), "detections[2]: score nan must be a finite number"),
        (changed(score=10**400), "must be a finite number"),
        (changed(bbox=[0, 0, 1e308, 1e308]), "detections[2]: bbox"),
        (
            changed(segmentation={"size": [64, 64], "counts": "oo"}),
            "must be a run-length code or polygons of its image",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(
    perfect, content, expected, tmp_path, capsys
):
    path = tmp_path / "theirs.json"
    if content is not None:
        text = content if isinstance(content, str) else content(perfect)
        path.write_text(text, encoding="latin-1")
    assert score(path, tmp_path / "work") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}")
    assert error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "work").exists()


def test_a_run_s_result_is_not_written_over(perfect, tmp_path, capsys):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(perfect))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert score(path, tmp_path / "run") == 2
    assert "give another --workdir" in capsys.readouterr().err


def test_numbers_are_printed_before_they_cannot_be_written(perfect, tmp_path, capsys):
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(perfect))
    (tmp_path / "taken").touch()
    assert score(path, tmp_path / "taken") == 2
    said = capsys.readouterr()
    assert " AP " in said.out
    assert "taken/result.json cannot be written" in said.err
    assert "evaluate again with --out=FOLDER" in said.err
    assert said.err.count("\n") == 1

    assert score(path, tmp_path / "taken", f"--out={tmp_path / 'out'}") == 0
    assert json.loads((tmp_path / "out" / "result.json").read_bytes())["metrics"]


def test_a_file_to_score_needs_the_mode(capsys):
    assert main(["--detections=theirs.json"]) == 2
    assert "add --mode=eval" in capsys.readouterr().err
