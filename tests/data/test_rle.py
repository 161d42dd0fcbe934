"""Run-length codes from files: the same masks as pycocotools', and nothing that would hang it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxdet.data.rle import compressed_rle
from jaxdet.data.rles import compressed_rles

HEIGHT, WIDTH = 48, 64
SIZE = [HEIGHT, WIDTH]


def runs_of(mask: np.ndarray) -> list[int]:
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


@pytest.mark.parametrize("density", [0, 0.001, 0.1, 0.5, 0.99, 1])
def test_every_layout_of_a_mask_gives_the_code_of_pycocotools(density):
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.asfortranarray(rng.random(SIZE) < density, dtype=np.uint8)
        code = mask_api.encode(mask)
        text = code["counts"].decode()
        assert compressed_rle(code, HEIGHT, WIDTH) == code
        assert compressed_rle({"size": SIZE, "counts": text}, HEIGHT, WIDTH) == code
        assert compressed_rle({"size": SIZE, "counts": runs_of(mask)}, HEIGHT, WIDTH) == code


def test_a_long_run_takes_several_digits():
    mask = np.zeros((3000, 2000), np.uint8, order="F")
    mask[1234, 567] = 1
    code = mask_api.encode(mask)
    assert compressed_rle(code, 3000, 2000) == code
    assert compressed_rle(code, 3000, 2001) is None


def test_polygons_are_rasterised_and_unusable_ones_left_out():
    square = [2, 3, 12, 3, 12, 23, 2, 23]
    expected = mask_api.merge(mask_api.frPyObjects([square], HEIGHT, WIDTH))
    assert mask_api.area(expected) == 200
    assert compressed_rle([square], HEIGHT, WIDTH) == expected
    assert compressed_rle([square, [1, 2, 30, 40], []], HEIGHT, WIDTH) == expected


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        "mask",
        [],
        [[]],
        [[1, 2, 30, 40]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, math.nan, 5, 6]],
        [[1, 2, 3, math.inf, 5, 6]],
        [[1, 2, 3, 1e9, 5, 6]],
        [[1, 2, 3, "4", 5, 6]],
        [1, 2, 3, 4, 5, 6],
        {},
        {"size": SIZE},
        {"size": None, "counts": "1"},
        {"size": SIZE, "counts": ""},
        {"size": SIZE, "counts": "zzzz"},
        {"size": SIZE, "counts": "11"},
        {"size": SIZE, "counts": "Pé"},
        {"size": SIZE, "counts": b"\xff\x00"},
        {"size": SIZE, "counts": []},
        {"size": SIZE, "counts": [HEIGHT * WIDTH + 1]},
        {"size": SIZE, "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": SIZE, "counts": ["a"]},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
    ],
)
def test_what_is_no_mask_of_the_image_is_rejected(segmentation):
    assert compressed_rle(segmentation, HEIGHT, WIDTH) is None


def test_damaged_codes_that_pass_decode_to_whole_masks():
    """pycocotools runs for hours on most of these; those let through cover the image exactly."""
    rng = np.random.default_rng(0)
    mask = np.asfortranarray(rng.random(SIZE) < 0.1, dtype=np.uint8)
    whole = mask_api.encode(mask)["counts"]
    passed = 0
    for code in damaged(whole, rng, 5000):
        code = compressed_rle(code, HEIGHT, WIDTH)
        if code is not None:
            passed += 1
            assert mask_api.decode(code).sum() == mask_api.area(code)
    assert 0 < passed < 250


def damaged(whole: bytes, rng: np.random.Generator, count: int) -> Iterator[dict]:
    """Codes of which one character is another."""
    for _ in range(count):
        counts = bytearray(whole)
        counts[rng.integers(len(counts))] = rng.integers(256)
        yield {"size": SIZE, "counts": bytes(counts)}


def test_many_masks_are_coded_as_each_is():
    rng = np.random.default_rng(1)
    masks = [[[2, 3, 12, 3, 12, 23, 2, 23]], None, {"size": SIZE, "counts": ""}]
    for density in (0, 0.01, 0.5, 1):
        mask = np.asfortranarray(rng.random(SIZE) < density, dtype=np.uint8)
        code = mask_api.encode(mask)
        masks += [code, {"size": SIZE, "counts": code["counts"].decode()}]
        masks += [{"size": SIZE, "counts": runs_of(mask)}, {**code, "size": [WIDTH, HEIGHT]}]
        masks += damaged(code["counts"], rng, 500)
        masks += [{"size": SIZE, "counts": code["counts"][:-1]} for _ in range(2)]
        masks += [{"size": SIZE, "counts": code["counts"] + b"o" * number} for number in range(9)]
    found = compressed_rles((mask, HEIGHT, WIDTH) for mask in masks)
    assert found == [compressed_rle(mask, HEIGHT, WIDTH) for mask in masks]
    assert 20 < sum(code is not None for code in found) < len(masks) / 2
    assert compressed_rles([]) == []
