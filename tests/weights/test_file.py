"""Files of converted weights that are not what they should be."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.weights.file import open_archive, read_weights, write_weights
from tests.weights.converted import backbone, report, save


def test_what_is_written_is_read_back(path):
    arrays = {name: value.astype(np.float32) for name, value in backbone().items()}
    write_weights(path, arrays.items(), report())
    weights = read_weights(path)
    assert weights.report == report()
    assert weights.arrays.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(weights.arrays[name], value)


def test_an_archive_is_opened_by_its_headers(path):
    save(path, backbone(), report())
    arrays, found = open_archive(path)
    assert found == report()
    assert arrays["backbone.pos_embed"].shape == (1, 1, 4)
    assert arrays["backbone.pos_embed"].dtype == np.float16


@pytest.mark.parametrize(
    "changes",
    [{"pixel_mean": [1, 2]}, {"pixel_std": "abc"}, {"config": 3}, {"source": {}}, {"layout": 1}],
)
def test_a_report_that_is_none_is_rejected(path, changes):
    save(path, backbone(), report(**changes))
    with pytest.raises(UserError, match="its report is not the converter's"):
        read_weights(path)


@pytest.mark.parametrize("content", [None, [1], "text"])
def test_a_report_that_is_no_dictionary_is_rejected(path, content):
    save(path, backbone())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("report.json", json.dumps(content))
    with pytest.raises(UserError, match="its report is not the converter's"):
        read_weights(path)


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
def test_a_file_that_is_no_archive_is_rejected(path, write):
    write(path)
    with pytest.raises(UserError, match="is not a file of converted weights") as raised:
        read_weights(path)
    assert str(path) in str(raised.value)
