"""What a file's report says of the original, held against a config."""

from __future__ import annotations

import pytest

from jaxdet.config import benchmark
from jaxdet.config.values import unknown_key
from jaxdet.errors import UserError
from jaxdet.weights.file import read_weights
from jaxdet.weights.fit import check_fit
from tests.weights.converted import backbone, report, save

REPORTED = (
    *(f"model.vit.{key}" for key in ("width", "depth", "heads", "mlp_ratio", "patch", "qkv_bias")),
    *(f"model.vit.{key}" for key in ("layer_scale", "activation", "pre_norm", "class_token")),
    *(f"model.decoder.{key}" for key in ("width", "depth", "heads", "pretrain_grid")),
    *("model.pyramid.kind", "model.pyramid.channels"),
    *("model.heads.box", "model.heads.box_features", "model.heads.mask"),
)
"""Every key that files written until now name in their report."""


def fit(experiment_config, path, **changes):
    save(path, backbone(), report(**changes))
    check_fit(read_weights(path), experiment_config)


def test_weights_of_another_size_name_both(config, path):
    fit(config, path)
    keys = {"model.vit.width": 1024, "model.vit.depth": 24, "model.vit.qkv_bias": "qkv"}
    reason = (
        r"\(MAE, mae\.pth\) is made for model\.vit\.width 1024, model\.vit\.depth 24; "
        r"the config says 768, 12: use the config of these weights"
    )
    with pytest.raises(UserError, match=reason):
        fit(config, path, config=keys)


def test_a_key_of_another_version_is_named(config, path):
    with pytest.raises(UserError, match=r"config\.model\.vit has no .*'sizes'.* this version"):
        fit(config, path, config={"model.vit.sizes": 3})


def test_layer_scale_must_be_there_where_the_weights_have_it(config, path):
    keys = {"model.vit.layer_scale": True}
    with pytest.raises(UserError, match=r"made for model\.vit\.layer_scale True; .* says None"):
        fit(config, path, config=keys)
    config.model.vit.layer_scale = 0.1
    fit(config, path, config=keys)
    with pytest.raises(UserError, match=r"layer_scale False; the config says 0\.1"):
        fit(config, path)


def test_pixels_normalised_in_another_way_are_rejected(config, path):
    half = {"pixel_mean": [127.5] * 3, "pixel_std": [127.5] * 3}
    reason = (
        r"config\.model\.detector\.pixel_mean is \[123\.675, 116\.28, 103\.53\]; give "
        r"--config\.model\.detector\.pixel_mean='\(127\.5,127\.5,127\.5\)'"
    )
    with pytest.raises(UserError, match=reason):
        fit(config, path, **half)
    config.model.detector.update(pixel_mean=(127.5,) * 3, pixel_std=(127.5,) * 3)
    fit(config, path, **half)


def test_beits_pixels_arrive_by_themselves(path):
    config = benchmark("b", "beit", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=10.0)
    fit(config, path, pixel_mean=[127.5] * 3, pixel_std=[127.5] * 3)


def test_another_file_than_the_recipe_s_is_said(config, path, capsys):
    fit(config, path)
    assert capsys.readouterr().out == ""
    config.weights.sha256 = "abc"
    fit(config, path)
    assert capsys.readouterr().out == ""
    config.weights.sha256 = "ffff"
    fit(config, path)
    assert "mae.pth of sha256 abc123, and config.weights.sha256 is ffff" in capsys.readouterr().out


def test_every_key_that_a_file_may_name_is_still_one(config):
    assert [key for key in REPORTED if unknown_key(config, key)] == []
