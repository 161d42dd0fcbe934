"""The `jaxdet config` command, and the reference of all keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxdet.config.keys import DetectorConfig, PretrainingConfig
from jaxdet.config.schema import keys
from jaxdet.config.show import main, markdown

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_config_is_shown_with_meanings(capsys):
    assert main(["vitb_mae", "--print", "--config.epochs=25", "--config.data.root=/data"]) == 0
    shown = capsys.readouterr().out
    for name, key in keys(DetectorConfig).items():
        assert f"\n  {name.rpartition('.')[2]}=" in shown
        assert key.meaning.split()[0] in shown
    for line in ("epochs=25 ", "root=/data ", "betas=(0.9, 0.999) ", "layer_scale=none "):
        assert f"  {line}" in shown
    assert "\n\nconfig.model.vit: The ViT that is the backbone.\n  width=768 " in shown


def test_a_pre_training_s_config_is_shown(capsys):
    assert main(["mini/pretrain"]) == 0
    assert "mask_ratio=0.75 " in capsys.readouterr().out


def test_the_difference_of_two_configs(capsys):
    assert main(["vitb_mae", "--diff", "vitb_random", "--config.optim.lr=1.6e-4"]) == 0
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["config.epochs", "100", "200"] in found
    assert ["config.model.vit.absolute_position", "pretrained", "random"] in found
    assert "config.optim.lr" not in [line[0] for line in found]
    assert main(["vitb_mae", "--diff=vitb_mae"]) == 0
    assert capsys.readouterr().out == "the configs are equal\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the name of a config"),
        (["vitb_maee"], "did you mean vitb_mae?"),
        (["vitb_mae", "--config.optim.lrr=1"], "did you mean config.optim.lr?"),
        (["vitb_mae", "--diff", "mini/pretrain"], "the other a pre-training's"),
    ],
)
def test_mistakes_are_named(capsys, arguments, message):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_reference_is_up_to_date():
    written = (REPOSITORY / "docs" / "config.md").read_text(encoding="utf-8")
    assert written == markdown(), "write it anew: jaxdet config --markdown > docs/config.md"
    for schema in (DetectorConfig, PretrainingConfig):
        for key in keys(schema).values():
            assert f"| `{key.leaf}` |" in written
