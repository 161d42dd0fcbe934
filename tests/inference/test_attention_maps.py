"""Attention and pyramid as arrays and drawings: each weight at its place on the map."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdet import parallel
from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.inference.attention_maps import (
    attention_map,
    attention_of,
    attention_weights,
    draw_attention,
    draw_features,
    feature_pyramid,
)
from jaxdet.inference.detector import Detector, build_stateless
from jaxdet.inference.explorer import Explorer
from jaxdet.models.windows import partition_windows
from tests.tiny import get_config, with_pyramid


def test_the_pyramid_of_an_image(finished):
    """Of five levels, from a detector that is as it started."""
    config = with_pyramid(get_config(), "simple")
    check(config)
    mesh = parallel.data_mesh(8, 8)
    stateless = build_stateless(config, 4, mesh)
    rng = np.random.default_rng(0)
    params, stats = jax.tree.map(
        lambda leaf: rng.uniform(size=leaf.shape).astype(leaf.dtype), stateless.abstract
    )
    categories = finished[0].val_set.categories
    detector = Detector(config, categories, params, stats, stateless, mesh, 8)
    levels = feature_pyramid(detector, finished[0].val_set[0].image)
    assert [level.shape for level in levels] == [(side, side, 8) for side in (16, 8, 4, 2, 1)]
    np.testing.assert_array_equal(levels[4], levels[3][::2, ::2])
    assert all(np.isfinite(level).all() for level in levels)


def test_the_weights_of_an_image(detector, finished):
    """An input of 64 pixels in patches of 16; block 0 has windows of two tokens, block 1 none."""
    image = finished[0].val_set[0].image
    windowed = attention_weights(detector, image, 0)
    assert windowed.shape == (4, 2, 4, 4)
    everywhere = attention_weights(detector, image, 1)
    assert everywhere.shape == (1, 2, 16, 16)
    for weights in (windowed, everywhere):
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(
        attention_map(everywhere, (4, 4), None, (2, 3))[1].ravel(), everywhere[0, 1, 11]
    )


def test_attention_on_a_rectangle_in_shifted_windows(finished):
    """An input of 64 x 32 pixels, a grid of 4 x 2: all blocks' maps are each block's weights, and
    a token of a shifted window attends to nothing outside it."""
    config = get_config()
    config.model.vit.update(relative_position="decomposed", shifted_blocks=(0,))
    config.model.detector.pad_multiple = 32
    check(config)
    mesh = parallel.data_mesh(8, 8)
    stateless = build_stateless(config, 4, mesh)
    rng = np.random.default_rng(0)
    params, stats = jax.tree.map(
        lambda leaf: rng.uniform(size=leaf.shape).astype(leaf.dtype), stateless.abstract
    )
    categories = finished[0].val_set.categories
    detector = Detector(config, categories, params, stats, stateless, mesh, 8)
    image = rng.integers(0, 256, (64, 30, 3), dtype=np.uint8)
    assert detector.prepare(image)["image"].shape == (1, 64, 32, 3)
    windowed, everywhere = attention_of(detector, image, (2, 1))
    assert windowed.shape == everywhere.shape == (2, 4, 2)
    for block, found, window, shift in ((0, windowed, 2, 1), (1, everywhere, None, 0)):
        weights = attention_weights(detector, image, block)
        expected = attention_map(weights, (4, 2), window, (2, 1), shift)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    seen = np.zeros((4, 2), bool)
    seen[1:3, 1] = True  # rows 1 and 2; columns 1 and, beyond the map, 2
    np.testing.assert_array_equal(windowed > 0, np.broadcast_to(seen, (2, 4, 2)))
    np.testing.assert_allclose(everywhere.sum((1, 2)), 1, atol=1e-5)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    explorer = Explorer(detector, "tiny")
    picture = Image.open(io.BytesIO(explorer.attention(file.getvalue(), 0, 1, 2, 1)))
    pixels = detector.prepare(image)["image"][0]
    drawn = draw_attention(pixels, windowed[1], 2, (2, 1), shift=1)
    np.testing.assert_array_equal(picture, drawn)
    with pytest.raises(UserError, match="column=2 must be from 0 to 1"):
        explorer.attention(file.getvalue(), 0, 1, 2, 2)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("query", [(0, 0), (2, 3), (4, 2), (4, 3)])
def test_a_windowed_token_s_map_shows_the_window_it_is_in(query, shift):
    """With weights that name their keys: a map of five by four tokens in windows of three."""
    numbers = np.arange(1, 21, dtype=np.float32).reshape(1, 5, 4, 1)
    keys = np.asarray(partition_windows(jnp.asarray(numbers), 3, shift))[..., 0]
    weights = np.zeros((4, 1, 9, 9), np.float32)
    row, column = query[0] + shift, query[1] + shift
    window = row // 3 * 2 + column // 3
    weights[window, 0, row % 3 * 3 + column % 3] = keys[window]
    found = attention_map(weights, (5, 4), 3, query, shift)
    rows, columns = np.arange(5)[:, None] + shift, np.arange(4) + shift
    is_seen = (rows // 3 == row // 3) & (columns // 3 == column // 3)
    np.testing.assert_array_equal(found, np.where(is_seen, numbers[0, ..., 0], 0)[None])


def test_a_rectangle_is_drawn_as_one_between_the_lines_of_its_windows():
    pixels = np.full((40, 20, 3), 100, np.uint8)
    attention = np.zeros((4, 2), np.float32)
    attention[3, 1] = 1
    drawn = draw_attention(pixels, attention, 2, (0, 0), side=80, shift=1)
    assert drawn.shape == (80, 40, 3)
    white = (drawn == 255).all(-1)
    assert white[[20, 30, 40, 50, 60], 30].tolist() == [True, False, False, False, True]
    assert white[30, [10, 20, 30]].tolist() == [False, True, False]
    assert (drawn[70, 30] > [200, 150, 30]).all()


def test_a_class_token_is_not_on_the_map():
    weights = np.arange(49, dtype=np.float32).reshape(1, 1, 7, 7)
    found = attention_map(weights, (2, 3), None, (1, 0))
    np.testing.assert_array_equal(found, weights[0, :, 4, 1:].reshape(1, 2, 3))


def test_attention_glows_where_it_is():
    pixels = np.full((40, 40, 3), 100, np.uint8)
    attention = np.zeros((4, 4), np.float32)
    attention[3, 3] = 0.2
    drawn = draw_attention(pixels, attention, 2, (0, 0), side=80)
    assert drawn.shape == (80, 80, 3)
    np.testing.assert_array_equal(drawn[10, 30], [60, 60, 60])
    assert (drawn[70, 70] > [200, 150, 30]).all()
    np.testing.assert_array_equal(drawn[40, 70], [255, 255, 255])
    assert (draw_attention(pixels, attention, None, (0, 0), side=80)[40, 50] == 60).all()
    assert drawn[0, 10, 0] > 200


def test_features_of_two_kinds_get_two_colours():
    features = np.zeros((4, 6, 5))
    features[:, 3:] = [1, -2, 0, 0.5, 0]
    drawn = draw_features(features, side=60)
    assert drawn.shape == (40, 60, 3)
    left, right = drawn[:, :30], drawn[:, 30:]
    assert (left == left[0, 0]).all()
    assert (right == right[0, 0]).all()
    assert abs(int(left[0, 0, 0]) - int(right[0, 0, 0])) == 255
    assert draw_features(np.ones((1, 1, 8))).shape == (240, 240, 3)
    assert draw_features(np.ones((3, 2, 2))).shape == (240, 160, 3)
