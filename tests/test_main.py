"""The command line: what it accepts, and what it says of what it does not."""

from __future__ import annotations

import pytest

from jaxdet.config.command_line import config_of
from jaxdet.main import main


def errors_of(capsys, *arguments: str) -> str:
    """What the command prints for a mistake; it must be one line, with exit status 2."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config.optim.lrr=1"], "config.optim has no key 'lrr'; did you mean config.optim.lr?"),
        (["--config.optimm.lr=1"], "config has no key 'optimm'; did you mean config.optim?"),
        (["--config.optim.lr.x=1"], "config.optim.lr is a single value"),
        (["--config.optim.lr=fast"], "config.optim.lr=fast must be a number above 0"),
        (["--config.optim=1"], "config.optim is a section"),
        (["--config.batch_size=2.5"], "config.batch_size=2.5 must be an integer"),
        (["--config.data.flip=maybe"], "config.data.flip=maybe must be true or false"),
        (["--config.data.scale_range=1"], "config.data.scale_range=(1.0,) must be 2 numbers"),
        (["--config=configs/nothing.py"], "config file configs/nothing.py does not exist"),
        (["--config=vitb_mea"], "there is no config 'vitb_mea'; did you mean vitb_mae?"),
        (["--config=own:xxl"], "there is no size 'xxl' of ViT"),
        (["--config.image_size=100"], "config.image_size=100 must be a multiple of 16"),
        (["--mode=fly"], "argument --mode: invalid choice: 'fly'"),
        (["--fly"], "'--fly' is not a flag"),
        (["train"], "'train' is not a flag"),
        (["--detections=x.json"], "--detections names a file to score; add --mode=eval"),
        (["--mode=eval", "--workdir=/nowhere/run"], "/nowhere/run/checkpoints does not exist"),
        (
            ["--config=configs/coco_small.py", "--config.data.root=/nowhere"],
            "/nowhere: no such folder; set config.data.root",
        ),
        (["--config=configs/coco_small.py"], "data; set config.data.root"),
        (
            ["--mode=plan", "--config.model.vit.attention=cudnn", "--config.eval_batch_size=8"],
            "'cudnn' needs an NVIDIA GPU",
        ),
        (["--mode=plan", "--utilisation=2"], "argument --utilisation: 2 must be above 0"),
        (["--config.init=/nowhere.npz"], "config.init='/nowhere.npz' is not a file"),
    ],
)
def test_a_mistake_ends_in_one_sentence(arguments, expected, capsys, tmp_path):
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments = [*arguments, f"--workdir={tmp_path / 'work'}"]
    assert expected in errors_of(capsys, *arguments)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("def get_config(:\n", "SyntaxError"),
        ("x = 1\n", "get_config"),
        ("import nothing_of_that_name\n", "nothing_of_that_name"),
        ("def get_config():\n    raise ValueError('why')\n", "why"),
    ],
)
def test_a_config_file_that_does_not_run_is_named(content, expected, capsys, tmp_path):
    path = tmp_path / "broken.py"
    path.write_text(content)
    message = errors_of(capsys, f"--config={path}")
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize(
    ("arguments", "key", "expected"),
    [
        (["--config.optim.lr=1"], "lr", 1.0),
        (["--config.optim.lr", "1e-3"], "lr", 1e-3),
        (["--config.data.scale_range=(0.5,1.5)"], "scale_range", (0.5, 1.5)),
        (["--config.data.scale_range=0.5,1.5"], "scale_range", (0.5, 1.5)),
        (["--noconfig.data.flip"], "flip", False),
        (["--config.data.flip"], "flip", True),
        (["--config.data.flip=false"], "flip", False),
        (["--config.data.root=/data"], "root", "/data"),
        (["--config.data.root=/data", "--config.data.root=none"], "root", None),
        (["--config.data.slots=7"], "max_instances", 7),
    ],
)
def test_keys_are_set_on_the_command_line(arguments, key, expected):
    config = config_of(["--config=vitb_mae", *arguments])
    value = config.optim[key] if key in config.optim else config.data[key]
    assert (tuple(value) if isinstance(value, list) else value) == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("name", ["vitb_mae", "configs/vitb_mae.py"])
def test_a_config_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_of([f"--config={name}"]).model.vit.width == 768


def test_a_config_of_the_current_folder_goes_first(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    text = "from jaxdet.config.shapes import shapes_detector\n"
    text += "def get_config():\n    return shapes_detector('random', epochs=3.0)\n"
    (tmp_path / "configs" / "vitb_mae.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert config_of(["--config=vitb_mae"]).epochs == 3.0


def test_an_earlier_name_of_a_config_is_read_with_a_note(capsys):
    assert config_of(["--config=configs/imted_mask_b.py"]).model.heads.mask
    assert "--config=imted_mask:b" in capsys.readouterr().err


def test_today_s_name_of_a_config_is_read_without_a_note(capsys):
    assert config_of(["--config=imted_mask:b"]).model.heads.mask
    assert capsys.readouterr().err == ""


def test_the_default_config_is_the_tiny_one_on_shapes():
    assert config_of([]).data.name == "shapes"


@pytest.mark.parametrize("mode", [None, "train", "eval", "plan"])
def test_help_lists_flags_and_keys(mode, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--config=vitb_mae", "--help"], mode)
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "--workdir" in printed
    assert ("--detections FILE" in printed) == (mode in (None, "eval"))
    assert ("--peak-tflops PEAK" in printed) == (mode in (None, "plan"))
    assert "config.model.vit: " in printed
    assert "  width=768 " in printed
