"""Names of the version before: accepted, each with one note, and found in what is stored."""

from __future__ import annotations

import json
import sys

import pytest

from jaxdet.config.mask_rcnn import benchmark
from jaxdet.config.old_names import OLD_MODULES, note, old_modules, renamed
from jaxdet.config.values import override

FILE = """
from jaxdet.config_imted import imted
from jaxdet.config_mae import mae
from jaxdet.config_mini import mini

def get_config():
    return imted("b", drop_path=0.2, masks=True)
"""


@pytest.fixture(autouse=True)
def _anew():
    note.cache_clear()


@pytest.fixture
def config():
    return benchmark("b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=10.0)


def test_a_config_file_may_use_old_keys(config, capsys):
    config.canvas = 64
    config.data.update(slots=8)
    config.data.slots = config.data.slots + 1
    config.model.vit.update({"taps": (0, 1, 2, 11)})
    config.batch_statistics = "part"
    assert (config.image_size, config.data.max_instances) == (64, 9)
    assert config.model.vit.out_indices == (0, 1, 2, 11)
    assert config.batch_statistics == "microbatch"
    assert "canvas" not in config
    assert capsys.readouterr().err.splitlines() == [
        "note: config.canvas is now config.image_size",
        "note: config.data.slots is now config.data.max_instances",
        "note: config.model.vit.taps is now config.model.vit.out_indices",
        "note: config.batch_statistics=part is now config.batch_statistics=microbatch",
    ]


@pytest.mark.parametrize(
    ("old", "text", "new"),
    [
        ("canvas", "64", "image_size"),
        ("data.slots", "8", "data.max_instances"),
        ("model.vit.taps", "(1,2,3,11)", "model.vit.out_indices"),
    ],
)
def test_the_command_line_may_use_old_keys(config, capsys, old, text, new):
    override(config, old, text)
    other = benchmark("b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=10.0)
    override(other, new, text)
    assert config == other
    assert capsys.readouterr().err == f"note: config.{old} is now config.{new}\n"


def test_the_command_line_may_use_old_values(config, capsys):
    override(config, "batch_statistics", "part")
    assert config.batch_statistics == "microbatch"
    assert "is now config.batch_statistics=microbatch" in capsys.readouterr().err


def test_other_sections_have_no_such_keys(config):
    for section, name in ((config, "slots"), (config.data, "taps"), (config.optim, "canvas")):
        with pytest.raises(AttributeError):
            setattr(section, name, 1)


def test_stored_configs_are_renamed_in_silence(config, capsys):
    plain = json.loads(config.to_json())
    old = json.loads(config.to_json())
    old["canvas"] = old.pop("image_size")
    old["data"]["slots"] = old["data"].pop("max_instances")
    old["model"]["vit"]["taps"] = old["model"]["vit"].pop("out_indices")
    old["batch_statistics"] = "part"
    plain["batch_statistics"] = "microbatch"
    assert renamed(old) == plain
    assert renamed(plain) == plain
    assert renamed(old["data"], "data.") == plain["data"]
    assert renamed({"model.vit.taps": [1]}) == {"model.vit.out_indices": [1]}
    assert capsys.readouterr().err == ""


def test_old_modules_are_found_within_the_loader_alone(capsys, monkeypatch):
    for name in OLD_MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError):
        exec(FILE, {})
    content = {}
    with old_modules():
        exec(FILE, content)
    assert content["get_config"]().model.pyramid.kind == "imted"
    assert capsys.readouterr().err.splitlines() == [
        "note: jaxdet.config_imted is now jaxdet.config.imted",
        "note: jaxdet.config_mae is now jaxdet.config.mae",
        "note: jaxdet.config_mini is now jaxdet.config.shapes",
    ]
    for name in OLD_MODULES:
        sys.modules.pop(name, None)
