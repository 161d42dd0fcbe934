"""The command line: what it accepts, and what it says of what it does not."""

from __future__ import annotations

import pytest

from jaxdet.flags import parse
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
        (["--config.optim.lr=fast"], "could not convert string to float: 'fast'"),
        (["--config.batch_size=2.5"], "config.batch_size=2.5"),
        (["--config=configs/nothing.py"], "config file configs/nothing.py does not exist"),
        (
            ["--config.image_size=100"],
            "config.image_size=100 must be a multiple of 32",
        ),
        (["--mode=fly"], "flag --mode=fly"),
        (["--fly"], "Unknown command line flag 'fly'"),
        (["train"], "'train' is not a flag"),
        (["--mode=eval", "--workdir=/nowhere/run"], "/nowhere/run/checkpoints does not exist"),
        (
            ["--config=configs/coco_small.py", "--config.data.root=/nowhere"],
            "/nowhere: no such folder; set config.data.root",
        ),
        (["--config=configs/coco_small.py"], "no folder is given for the train data"),
        (
            ["--mode=plan", "--config.model.vit.attention=cudnn", "--config.eval_batch_size=8"],
            "'cudnn' needs an NVIDIA GPU",
        ),
        (["--mode=plan", "--utilisation=2"], "--utilisation=2"),
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


def test_words_are_set_on_the_command_line():
    values = parse(
        [
            "--config=configs/vitb_mae.py",
            "--config.optim.lr=1",
            "--config.data.scale_range=(0.5,1.5)",
            "--noconfig.data.flip",
            "--config.data.root=/data",
        ]
    )
    assert values.config.optim.lr == 1.0
    assert tuple(values.config.data.scale_range) == (0.5, 1.5)
    assert values.config.data.flip is False
    assert values.config.data.root == "/data"


def test_the_default_config_is_the_tiny_one_on_shapes():
    assert parse([]).config.data.name == "shapes"


def test_help_tells_the_flags(capsys):
    assert main(["--help"]) == 0
    assert "--workdir" in capsys.readouterr().out
