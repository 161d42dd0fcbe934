"""The folder of a detector on the hub: written, read back, and held to its digests."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.weights.pushed import local_folder, read_pushed, weights_at, write_pushed
from tests.weights import converted

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def folder(tmp_path):
    """A folder, beside the arrays that are in it."""
    arrays = {name: np.float32(array) for name, array in converted.detector().items()}
    write_pushed(tmp_path / "pushed", arrays, {"report": converted.report()})
    return tmp_path / "pushed", arrays


def test_what_is_written_is_read(folder):
    path, arrays = folder
    weights = weights_at(str(path))
    assert weights.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(weights.arrays[name], array)
        assert weights.arrays[name].dtype == array.dtype
    assert weights.report == converted.report()
    assert weights.is_detector


def test_a_transposed_array_is_written_as_it_is_seen(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_pushed(tmp_path, {"rpn.kernel": array}, {"report": converted.report()})
    np.testing.assert_array_equal(read_pushed(tmp_path).arrays["rpn.kernel"], array)


def test_an_address_is_downloaded(folder, monkeypatch):
    asked = []
    fake = SimpleNamespace(
        snapshot_download=lambda name, *, revision, **_: (
            asked.append((name, revision)) or str(folder[0])
        )
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert weights_at("hf://owner/name@v1").arrays.keys() == folder[1].keys()
    assert asked == [("owner/name", "v1")]


def test_a_converted_file_is_no_folder(tmp_path):
    converted.save(tmp_path / "mae.npz", converted.backbone())
    assert local_folder(tmp_path / "mae.npz") is None
    assert not weights_at(tmp_path / "mae.npz").is_detector


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda arrays: {**arrays, "rpn.bias": arrays["rpn.bias"] + 1}, "rpn.bias"),
        (lambda arrays: {**arrays, "rpn.bias": arrays["rpn.bias"].astype("f8")}, "rpn.bias"),
        (lambda arrays: {**arrays, "rpn.more": arrays["rpn.bias"]}, "rpn.more"),
        (lambda arrays: {k: v for k, v in arrays.items() if k != "rpn.mean"}, "rpn.mean"),
    ],
)
def test_other_arrays_than_those_written_are_an_error(folder, change, named):
    path, arrays = folder
    safetensors.save_file(change(arrays), path / "model.safetensors")
    message = rf"{named} \(of 1 arrays\) has not the SHA-256 that config.json says"
    with pytest.raises(UserError, match=message):
        read_pushed(path)


def test_a_cut_file_is_an_error(folder):
    path = folder[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read \("):
        read_pushed(folder[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written(tmp_path, value):
    arrays = {"rpn.bias": np.float32([0, value])}
    with pytest.raises(UserError, match=r"rpn\.bias has values that are not finite"):
        write_pushed(tmp_path / "pushed", arrays, {"report": converted.report()})
    assert not (tmp_path / "pushed").exists()


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"model_type": "dinov2"}, "convert weights of others first"),
        ({"library_name": "jaxdet", "report": {}, "sha256": {}}, "convert weights of others first"),
        ([], "convert weights of others first"),
        (None, r"config\.json cannot be read"),
    ],
)
def test_a_repository_of_others_is_an_error(folder, description, message):
    text = "{" if description is None else json.dumps(description)
    (folder[0] / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        weights_at(folder[0])
