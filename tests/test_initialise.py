"""Converted weights into a detector's parameters, and files that are not what they should be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.initialise import load_weights


@pytest.fixture
def params():
    """A small stand-in for a detector's parameters, lists as they come: keyed by number."""
    return {
        "backbone": {
            "blocks": {0: {"kernel": jnp.zeros((2, 3))}, 1: {"kernel": jnp.ones((2, 3))}},
            "pos_embed": jnp.zeros(4),
        },
        "rpn": {"bias": jnp.full(2, 5.0)},
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.npz"


def test_named_parameters_are_replaced_and_no_others(params, path, capsys):
    kernel, position = np.arange(6.0).reshape(2, 3), np.arange(4, dtype=np.float16)
    first = -kernel
    np.savez(
        path,
        **{
            "backbone.blocks.0.kernel": first,
            "backbone.blocks.1.kernel": kernel,
            "backbone.pos_embed": position,
        },
    )
    loaded = load_weights(path, params)
    assert "3 of 4 arrays taken" in capsys.readouterr().out

    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    np.testing.assert_array_equal(loaded["backbone"]["blocks"][1]["kernel"], kernel)
    np.testing.assert_array_equal(loaded["backbone"]["pos_embed"], position)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("float32")}
    np.testing.assert_array_equal(loaded["backbone"]["blocks"][0]["kernel"], first)
    np.testing.assert_array_equal(loaded["rpn"]["bias"], [5.0, 5.0])
    np.testing.assert_array_equal(params["backbone"]["blocks"][1]["kernel"], np.ones((2, 3)))


def test_a_backbone_must_be_whole_but_for_its_position_information(params, path):
    blocks = {f"backbone.blocks.{i}.kernel": np.ones((2, 3)) for i in (0, 1)}
    np.savez(path, **blocks)
    assert not load_weights(path, params)["backbone"]["pos_embed"].any()
    del blocks["backbone.blocks.0.kernel"]
    np.savez(path, **blocks)
    with pytest.raises(UserError, match=r"lacks 1 arrays .* backbone\.blocks\.0\.kernel among"):
        load_weights(path, params)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"rpn.bias": np.zeros(3)}, r"rpn\.bias is \(3,\) .* detector has \(2,\)"),
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
    ],
)
def test_weights_that_do_not_fit_are_refused(params, path, arrays, reason):
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=reason) as raised:
        load_weights(path, params)
    assert str(path) in str(raised.value)


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
    ],
    ids=["absent", "folder", "empty", "text", "cut off", "npy", "zlib", "checksum"],
)
def test_a_file_that_is_no_archive_is_refused(params, path, write):
    write(path)
    with pytest.raises(UserError, match="is not a file of converted weights") as raised:
        load_weights(path, params)
    assert str(path) in str(raised.value)
