"""Converted weights into a detector's parameters, and files that are not what they should be."""

from __future__ import annotations

import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.config import benchmark
from jaxdet.errors import UserError
from jaxdet.weights.load import check_fit, initialise, load_detector, read_weights


@pytest.fixture
def params():
    """A small stand-in for a detector's parameters, lists as they come: keyed by number."""
    return {
        "backbone": {
            "blocks": {0: {"kernel": jnp.zeros((2, 3))}, 1: {"kernel": jnp.ones((2, 3))}},
            "pos_embed": jnp.zeros((1, 1, 4)),
            "rel_pos_window": {"table": jnp.zeros((9, 2))},
        },
        "rpn": {"bias": jnp.full(2, 5.0)},
    }


@pytest.fixture
def stats():
    return {"rpn": {"mean": jnp.zeros(2)}}


@pytest.fixture
def config(tmp_path):
    config = benchmark("b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=10.0)
    config.init = str(tmp_path / "weights.npz")
    return config


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.npz"


def backbone(**changes):
    arrays = {
        "backbone.blocks.0.kernel": -np.arange(6.0).reshape(2, 3),
        "backbone.blocks.1.kernel": np.arange(6.0).reshape(2, 3),
        "backbone.pos_embed": np.arange(4, dtype=np.float16).reshape(1, 1, 4),
    } | changes
    return {name: value for name, value in arrays.items() if value is not None}


def detector(**changes):
    parts = {
        "backbone.rel_pos_window.table": np.ones((9, 2)),
        "rpn.bias": np.ones(2),
        "rpn.mean": np.full(2, 3.0),
    }
    return backbone(**(parts | changes))


def save(path, arrays, report=None):
    np.savez(path, **arrays)
    if report is not None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("report.json", json.dumps(report))


def report(**changes):
    return {
        "layout": "MAE",
        "source": {"file": "mae.pth", "bytes": 1, "sha256": "abc123"},
        "config": {"model.vit.width": 768, "model.vit.layer_scale": False},
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
    } | changes


def test_a_backbone_s_parameters_are_replaced_and_no_others(config, params, stats, path, capsys):
    arrays = backbone()
    save(path, arrays)
    loaded, loaded_stats, origin = initialise(config, params, stats)
    assert "3 of 6 arrays taken" in capsys.readouterr().out
    assert origin is None

    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for i in (0, 1):
        expected = arrays[f"backbone.blocks.{i}.kernel"]
        np.testing.assert_array_equal(loaded["backbone"]["blocks"][i]["kernel"], expected)
    np.testing.assert_array_equal(loaded["backbone"]["pos_embed"], arrays["backbone.pos_embed"])
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("float32")}
    np.testing.assert_array_equal(loaded["rpn"]["bias"], [5.0, 5.0])
    np.testing.assert_array_equal(loaded_stats["rpn"]["mean"], [0.0, 0.0])
    np.testing.assert_array_equal(params["backbone"]["blocks"][1]["kernel"], np.ones((2, 3)))


def test_a_backbone_must_be_whole(config, params, stats, path):
    save(path, backbone(**{"backbone.blocks.0.kernel": None}))
    with pytest.raises(UserError, match=r"lacks 1 arrays .* backbone\.blocks\.0\.kernel among"):
        initialise(config, params, stats)


def test_position_information_comes_from_where_the_config_says(config, params, stats, path, capsys):
    table = np.ones((9, 2))
    save(path, backbone(**{"backbone.rel_pos_window.table": table}))
    taken = initialise(config, params, stats)[0]["backbone"]
    assert taken["pos_embed"].any()
    assert not taken["rel_pos_window"]["table"].any()
    assert "backbone.rel_pos_window.table not taken" in capsys.readouterr().out

    config.model.vit.update(absolute_position="random", relative_start="pretrained")
    taken = initialise(config, params, stats)[0]["backbone"]
    assert not taken["pos_embed"].any()
    np.testing.assert_array_equal(taken["rel_pos_window"]["table"], table)


def test_a_start_that_the_file_lacks_is_an_error(config, params, stats, path):
    save(path, backbone())
    config.model.vit.relative_start = "pretrained"
    with pytest.raises(UserError, match=r"give --config\.model\.vit\.relative_start=zero"):
        initialise(config, params, stats)
    config.model.vit.relative_start = "zero"
    save(path, backbone(**{"backbone.pos_embed": None}))
    with pytest.raises(UserError, match=r"give --config\.model\.vit\.absolute_position=random"):
        initialise(config, params, stats)
    config.model.vit.absolute_position = "zero"
    initialise(config, params, stats)


def test_a_model_without_relative_positions_takes_none(config, params, stats, path):
    del params["backbone"]["rel_pos_window"]
    save(path, backbone(**{"backbone.rel_pos_window.table": np.ones((9, 2))}))
    config.model.vit.update(relative_position="none", relative_start="pretrained")
    initialise(config, params, stats)


def test_a_whole_detector_is_taken_whole(config, params, stats, path):
    save(path, detector())
    for load in (initialise, load_detector):
        loaded, loaded_stats, _ = load(config, params, stats)
        np.testing.assert_array_equal(loaded["rpn"]["bias"], [1.0, 1.0])
        np.testing.assert_array_equal(loaded_stats["rpn"]["mean"], [3.0, 3.0])
        # Its relative positions are part of it, wherever a fresh run would start them.
        assert loaded["backbone"]["rel_pos_window"]["table"].all()


@pytest.mark.parametrize("name", ["rpn.mean", "backbone.pos_embed", "rpn.bias"])
def test_a_detector_must_be_whole(config, params, stats, path, name):
    save(path, detector(**{name: None}))
    for load in (initialise, load_detector):
        with pytest.raises(UserError, match=rf"lacks 1 arrays of the detector, {name} among them"):
            load(config, params, stats)


def test_a_backbone_is_no_detector(config, params, stats, path):
    save(path, backbone())
    with pytest.raises(UserError, match="holds a backbone and no detector"):
        load_detector(config, params, stats)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"rpn.bias": np.zeros(3)}, r"rpn\.bias is \(3,\) .* detector has \(2,\); use the config"),
        ({"rpn.bias": np.array([1.0, np.nan])}, r"rpn\.bias has values that are not finite"),
        ({"rpn.bias": np.array([1.0, np.inf])}, r"rpn\.bias has values that are not finite"),
        ({"rpn.bias": np.array(["a", "b"])}, r"rpn\.bias holds <U1, not floats"),
        ({"rpn.bias": np.zeros(2, jnp.bfloat16)}, r"rpn\.bias holds \|V2, not floats"),
        (
            {"rpn.bias": np.zeros(2), "rpn.scale": np.zeros(2), "rpn.gain": np.zeros(2)},
            r"2 arrays .* no place for, rpn\.gain among them",
        ),
        ({"backbone.blocks": np.zeros(2)}, r"1 arrays .* no place for, backbone\.blocks among"),
        ({}, "holds no weights"),
        ({"rpn.bias": np.array([{}, {}], dtype=object)}, "is not a file of converted weights"),
        (
            {"backbone.pos_embed": np.zeros((3, 3, 4))},
            r"give --config\.model\.vit\.pretrain_grid=3",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(config, params, stats, path, arrays, reason):
    save(path, arrays)
    with pytest.raises(UserError, match=reason) as raised:
        initialise(config, params, stats)
    assert str(path) in str(raised.value)


def test_a_table_of_another_window_names_the_converter_s_option(config, params, stats, path):
    config.model.vit.relative_start = "pretrained"
    save(path, backbone(**{"backbone.rel_pos_window.table": np.ones((25, 2))}))
    with pytest.raises(UserError, match=r"convert the original with --window=2"):
        initialise(config, params, stats)


def fit(experiment_config, path, **changes):
    save(path, backbone(), report(**changes))
    check_fit(read_weights(path), experiment_config)


def test_weights_of_another_size_name_both(config, path):
    fit(config, path)
    words = {"model.vit.width": 1024, "model.vit.depth": 24, "model.vit.qkv_bias": "qkv"}
    reason = (
        r"\(MAE, mae\.pth\) is made for model\.vit\.width 1024, model\.vit\.depth 24; "
        r"the config says 768, 12: use the config of these weights"
    )
    with pytest.raises(UserError, match=reason):
        fit(config, path, config=words)


def test_a_word_of_another_version_is_named(config, path):
    with pytest.raises(UserError, match=r"config\.model\.vit has no key 'sizes'.* this version"):
        fit(config, path, config={"model.vit.sizes": 3})


@pytest.mark.parametrize(
    "changes",
    [{"pixel_mean": [1, 2]}, {"pixel_std": "abc"}, {"config": 3}, {"source": {}}, {"layout": 1}],
)
def test_a_report_that_is_none_is_refused(config, path, changes):
    with pytest.raises(UserError, match="its report is not the converter's"):
        fit(config, path, **changes)


def test_layer_scale_must_be_there_where_the_weights_have_it(config, path):
    words = {"model.vit.layer_scale": True}
    with pytest.raises(UserError, match=r"made for model\.vit\.layer_scale True; .* says None"):
        fit(config, path, config=words)
    config.model.vit.layer_scale = 0.1
    fit(config, path, config=words)
    with pytest.raises(UserError, match=r"layer_scale False; the config says 0\.1"):
        fit(config, path)


def test_pixels_normalised_in_another_way_are_refused(config, path):
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


def save_as_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(2))


def save_damaged(position):
    def save(path):
        np.savez_compressed(path, **{"rpn.bias": np.random.default_rng(0).normal(size=4096)})
        content = bytearray(path.read_bytes())
        content[position : position + 4] = b"\xff" * 4
        path.write_bytes(content)

    return save


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("not weights"),
        lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        save_as_array,
        save_damaged(170),
        save_damaged(2000),
        lambda path: np.savez_compressed(path, a=np.zeros(10_000_000)),
    ],
    ids=["absent", "folder", "empty", "text", "cut off", "npy", "zlib", "checksum", "bomb"],
)
def test_a_file_that_is_no_archive_is_refused(path, write):
    write(path)
    with pytest.raises(UserError, match="is not a file of converted weights") as raised:
        read_weights(path)
    assert str(path) in str(raised.value)
