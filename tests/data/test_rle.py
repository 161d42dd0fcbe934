"""Run-length codes from files: the same masks as pycocotools', and nothing that would hang it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pycocotools import mask as mask_api

from jaxdet.data import rle
from jaxdet.data.rle import compressed_rle, compressed_rles

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
    damaged = []
    for _ in range(5000):
        counts = bytearray(whole)
        counts[rng.integers(len(counts))] = rng.integers(256)
        damaged.append({"size": SIZE, "counts": bytes(counts)})
    codes = compressed_rles(damaged, [(HEIGHT, WIDTH)] * len(damaged))
    passed = [code for code in codes if code is not None]
    assert 0 < len(passed) < 250
    for code in passed:
        assert mask_api.decode(code).sum() == mask_api.area(code)


def test_many_masks_together_are_as_each_alone(monkeypatch):
    """Also where a damaged one lies between others, and where they are looked at in parts."""
    rng = np.random.default_rng(0)
    masks, sizes = [], []
    for number in range(600):
        size = (HEIGHT, WIDTH) if number % 3 else (30, 20)
        mask = np.asfortranarray(rng.random(size) < rng.choice([0, 0.02, 0.5]), dtype=np.uint8)
        counts = bytearray(mask_api.encode(mask)["counts"])
        if number % 2:
            counts[rng.integers(len(counts))] = rng.integers(256)
        masks.append({"size": list(size), "counts": bytes(counts)})
        sizes.append(size)
    square = [[2, 3, 12, 3, 12, 23, 2, 23]]
    masks += [None, square, {"size": SIZE, "counts": [HEIGHT * WIDTH]}, {"size": SIZE}, [[1, 2]]]
    sizes += [(HEIGHT, WIDTH)] * 5
    alone = [compressed_rle(mask, *size) for mask, size in zip(masks, sizes, strict=True)]
    assert 300 < sum(code is not None for code in alone) < 400
    assert compressed_rles(masks, sizes) == alone
    monkeypatch.setattr(rle, "_CHARACTERS_AT_ONCE", 500)
    assert compressed_rles(masks, sizes) == alone
    assert compressed_rles([], []) == []
