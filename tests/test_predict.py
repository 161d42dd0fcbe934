"""The command: images in, drawings and detections out, without the data set."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image
from pycocotools.coco import COCO

from jaxdet import predict
from jaxdet.inference.detector import Detector
from jaxdet.predict import main
from tests.tiny import without


@pytest.fixture
def compiled(detector, monkeypatch):
    """Commands about the tiny run take the detector that is compiled already."""
    monkeypatch.setattr(predict, "load", lambda workdir, batch, keys: detector)


def test_the_command_finds_what_the_evaluation_found(finished, evaluated, files, capsys):
    """On files, from the checkpoint alone; written so that pycocotools reads it."""
    out = files.parent / "seen"
    assert main([f"--workdir={finished[0].workdir}", f"--out={out}", str(files)]) == 0
    written = json.loads((out / "detections.json").read_text())
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [str(p) for p in sorted(files.iterdir())]
    for image, expected in zip(images, evaluated[1], strict=True):
        own = [result for result in written if result["image_id"] == image["id"]]
        assert all(result["file_name"] == image["file_name"] for result in own)
        assert without(own, "image_id", "file_name", "category_name") == without(
            expected, "image_id"
        )
        with Image.open(out / image["drawing"]) as drawing:
            assert min(drawing.size) >= 480
    names = {result["category_id"]: result["category_name"] for result in written}
    assert names.items() <= {1: "disc", 2: "box", 3: "triangle", 4: "star"}.items()
    assert len(COCO(out / "images.json").loadRes(str(out / "detections.json")).anns) == len(written)
    drawn = sum(result["score"] >= 0.5 for result in written)
    assert (
        f"{len(written)} detections on 9 of 9 images, {drawn} of them drawn (score at least 0.5)"
        in capsys.readouterr().out
    )


def test_damaged_images_are_named_and_left_out(finished, compiled, files, capsys):
    whole = (files / "0.png").read_bytes()
    (files / "cut.png").write_bytes(whole[: len(whole) // 2])
    (files / "text.jpg").write_text("no image")
    (files / "notes.txt").write_text("not even by its name")
    out = files.parent / "seen"
    assert main([f"--workdir={finished[0].workdir}", f"--out={out}", str(files)]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 2
    assert str(files / "cut.png") in lines[0]
    assert str(files / "text.jpg") in lines[1]
    assert "9 of 11 images" in captured.out
    assert len(json.loads((out / "images.json").read_text())["images"]) == 9


def test_drawings_of_images_of_one_name_do_not_replace_each_other(
    finished, compiled, photo, tmp_path
):
    for name in ("a/1.png", "b/1.png", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        photo.save(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()
    (out / "1_2.PNG").write_text("somebody else's")
    workdir = f"--workdir={finished[0].workdir}"
    arguments = [*(str(tmp_path / name / "1.*") for name in "ab"), str(tmp_path / "a")]
    for _ in range(2):  # the second time in place of the first one's
        assert main([workdir, f"--out={out}", *arguments]) == 0
        images = json.loads((out / "images.json").read_text())["images"]
        assert [image["drawing"] for image in images] == ["1.png", "1_3.png", "1_4.png"]
        assert {path.name for path in out.glob("*.png")} == {image["drawing"] for image in images}
    assert (out / "1_2.PNG").read_text() == "somebody else's"


def test_drawings_do_not_go_through_links_into_the_images(finished, compiled, photo, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "links").mkdir()
    photo.save(tmp_path / "photos" / "1.png")
    (tmp_path / "links" / "1.png").symlink_to(tmp_path / "photos" / "1.png")
    before = (tmp_path / "photos" / "1.png").read_bytes()
    links = str(tmp_path / "links")
    assert main([f"--workdir={finished[0].workdir}", f"--out={links}", links]) == 2
    assert (tmp_path / "photos" / "1.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--workdir=/nowhere", "{files}"], "/nowhere/checkpoints does not exist; train first"),
        (["--workdir={run}", "/nowhere.jpg"], "/nowhere.jpg must be an image or a folder"),
        (["--workdir={run}", "--out={files}", "{files}"], "holds the images themselves"),
        (["--workdir={run}", "--out={run}", "{files}"], "holds files of another command"),
        (["--workdir={run}", "--batch=0", "{files}"], "batch=0 must be at least 1"),
        (["--workdir={run}", "{run}/result.json"], "none of 1 images can be read"),
        (["--workdir={run}", "--config=tests/tiny.py", "{files}"], "leave out --config"),
        (["--workdir={run}"], "no image is given"),
        (["--init=hf://a/b", "--categories=a.json", "{files}"], "leave out --categories"),
        (["{files}"], "give --workdir of a run, or --init and --config"),
        (["--init=/nowhere.npz", "{files}"], "give --workdir of a run, or --init and --config"),
    ],
)
def test_a_mistake_ends_in_one_sentence(arguments, expected, finished, files, capsys):
    given = [text.format(run=finished[0].workdir, files=files) for text in arguments]
    if not any(text.startswith("--out") for text in given):
        given.append(f"--out={files.parent / 'seen'}")
    assert main(given) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert expected in last


def test_inside_a_pushed_folder_one_says_what_to_take(files, tmp_path, monkeypatch, capsys):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert main([str(files)]) == 2
    assert "give --workdir of a run, or --init" in capsys.readouterr().err


def test_flags_are_answered_without_jax():
    command = (
        "import sys, jaxdet.predict as p; status = p.main(['--nope']); "
        "sys.exit(status != 2 or 'jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


def test_a_detector_is_loaded_by_one_import(finished):
    assert isinstance(predict.load(finished[0].workdir, batch=8), Detector)


def test_a_key_is_given_with_its_value(files, capsys):
    assert predict.main(["--workdir=runs/x", str(files), "--set", "nms"]) == 2
    assert "--set=nms must be KEY=VALUE" in capsys.readouterr().err
