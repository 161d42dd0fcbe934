"""Converted weights into a detector's parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.weights.load import initialise, load_detector
from tests.weights.converted import backbone, detector, save


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
def test_weights_that_do_not_fit_are_rejected(config, params, stats, path, arrays, reason):
    save(path, arrays)
    with pytest.raises(UserError, match=reason) as raised:
        initialise(config, params, stats)
    assert str(path) in str(raised.value)


def test_a_table_of_another_window_names_the_converter_s_option(config, params, stats, path):
    config.model.vit.relative_start = "pretrained"
    save(path, backbone(**{"backbone.rel_pos_window.table": np.ones((25, 2))}))
    with pytest.raises(UserError, match=r"convert the original with --window=2"):
        initialise(config, params, stats)
