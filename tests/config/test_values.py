"""Keys set from text, and stored configs completed."""

from __future__ import annotations

import json

import pytest

from jaxdet.config.keys import DetectorConfig
from jaxdet.config.shapes import pretraining
from jaxdet.config.values import build, completed, override, value_of
from jaxdet.errors import UserError


@pytest.fixture
def config():
    return build(DetectorConfig)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.vit.width", "32", 32),
        ("optim.lr", "1", 1.0),
        ("optim.lr", "1e-4", 1e-4),
        ("data.flip", "false", False),
        ("data.flip", "True", True),
        ("data.root", "/data/coco", "/data/coco"),
        ("data.root", "none", None),
        ("model.vit.layer_scale", "None", None),
        ("model.vit.layer_scale", "0.1", 0.1),
        ("data.scale_range", "(0.9,1.1)", (0.9, 1.1)),
        ("data.scale_range", "0.9,1.1", (0.9, 1.1)),
        ("data.scale_range", "[1, 2]", (1.0, 2.0)),
        ("data.short_sides", "480", (480,)),
        ("profile_steps", "()", ()),
        ("optim.frozen", "backbone\\.blocks", ("backbone\\.blocks",)),
        ("optim.frozen", "('norm', 'bias')", ("norm", "bias")),
        ("optim.frozen", "", ()),
        ("few_shot.novel", "potted plant", ("potted plant",)),
        ("few_shot.novel", "7", ("7",)),
    ],
)
def test_a_key_is_set_from_text(config, name, text, value):
    override(config, name, text)
    found = value_of(config, name)
    assert found == value
    assert type(found) is type(value)
    if isinstance(value, tuple):
        assert [type(each) for each in found] == [type(each) for each in value]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("batch_size", "2.5", r"config\.batch_size=2\.5 must be an integer of at least 1"),
        ("batch_size", "none", r"config\.batch_size=none must be an integer of at least 1"),
        ("optim.lr", "fast", r"config\.optim\.lr=fast must be a number above 0"),
        ("data.flip", "no", r"config\.data\.flip=no must be true or false"),
        ("data.scale_range", "a", r"scale_range=a must be 2 numbers, each above 0"),
        ("data.scale_range", "(1", r"scale_range=\(1 must be 2 numbers"),
        ("data.short_sides", "480.5", r"short_sides=480\.5 must be integers, each"),
        ("optim.lrr", "1", r"config\.optim has no key 'lrr'; did you mean config\.optim\.lr\?"),
        ("optim", "1", r"config\.optim is a section; set one of its keys, betas, "),
        ("optim.lr.x", "1", r"config\.optim\.lr is a single value"),
        ("seed", "9" * 5000, r"config\.seed=9+ must be an integer"),
        ("data.scale_range", f"(1,{'9' * 400})", r"scale_range=\(1,9+ must be 2 numbers"),
        ("data.scale_range", "[" * 100_000, r"scale_range=\[+ must be 2 numbers"),
        ("data.root", "gs://bucket/coco", r"config\.data\.root: gs://bucket/coco is an address"),
        ("init", "a" * 5000, r"config\.init: 'a+' can be no path"),
    ],
)
def test_what_cannot_be_set_is_named(config, name, text, message):
    with pytest.raises(UserError, match=message):
        override(config, name, text)


def test_a_path_may_begin_at_home(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    override(config, "data.root", "~/coco")
    assert config.data.root == "/home/someone/coco"
    override(config, "data.root", "./coco/")
    assert config.data.root == "./coco/"


def test_keys_of_a_pre_training_are_set_too():
    config = pretraining()
    override(config, "data.crop_area", "0.5,1")
    assert config.data.crop_area == (0.5, 1.0)


def test_a_stored_config_gets_the_keys_that_are_newer(config):
    config.optim.lr = 0.5
    whole = json.loads(config.to_json())
    older = json.loads(config.to_json())
    del older["few_shot"], older["model"]["heads"]["roi_chunks"]
    assert completed(older) == whole
    whole["model"]["unknown"] = 1
    assert completed(whole) == whole
