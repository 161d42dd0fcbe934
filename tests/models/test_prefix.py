"""Class token and registers beside windows, and rotary positions in them."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdet.models.attention import attend, attend_with_position_channels
from jaxdet.models.block import Block
from jaxdet.models.position import DecomposedRelativePosition, RelativePositionBias
from jaxdet.models.prefix import join_prefix, split_prefix
from jaxdet.models.rope import rotation
from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT
from jaxdet.models.windows import partition_windows
from tests.models.test_vit import HEADS, WIDTH, array, randomise, rng

__all__ = ["rng"]

GRID, WINDOW, PREFIX = (4, 5), 3, 2

SETTINGS = VitSettings(
    width=WIDTH,
    heads=HEADS,
    depth=2,
    mlp_ratio=2.0,
    patch=2,
    image_size=10,
    pretrain_grid=5,
    window=WINDOW,
    global_blocks=(1,),
    out_indices=(0, 1),
    relative_position="none",
    class_token=True,
    registers=1,
)


def test_every_window_has_a_copy_and_the_copies_mean_goes_on(rng):
    block = Block(
        SETTINGS, depth_index=1, window=WINDOW, prefix=PREFIX, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    block = randomise(block, rng)
    prefix, patches = array(rng, 1, PREFIX, WIDTH), array(rng, 1, *GRID, WIDTH)
    windows = partition_windows(block.norm1(patches), WINDOW)
    attended = [
        block.attn(jnp.concatenate([block.norm1(prefix), window[None]], 1)) for window in windows
    ]
    copies = jnp.stack([each[:, :PREFIX] for each in attended])
    assert copies.std(0).max() > 1e-3
    expected = prefix + copies.mean(0)
    expected += block.mlp(block.norm2(expected))
    found = block(join_prefix(prefix, patches), grid=GRID)
    found_prefix, found_patches = split_prefix(found, PREFIX, GRID)
    np.testing.assert_allclose(found_prefix, expected, atol=1e-5)

    corner = patches[0, 3, 4] + attended[3][0, PREFIX + 1]  # first row, second column there
    corner += block.mlp(block.norm2(corner))
    np.testing.assert_allclose(found_patches[0, 3, 4], corner, atol=1e-5)


def test_dropped_tokens_pass_by_the_windowed_block(rng):
    """They come into the global block as they were, and the patches as without them."""
    dropping = dataclasses.replace(SETTINGS, prefix_in_windows="drop")
    model = randomise(ViT(dropping, dtype=jnp.float32, rngs=nnx.Rngs(0)), rng)
    windowed, everywhere = model.blocks
    image = array(rng, 1, 10, 10, 3)
    x = model.embed(image)
    prefix, patches = split_prefix(x, PREFIX, (5, 5))
    patches = windowed(patches)
    found = model(image)
    np.testing.assert_allclose(found[0], patches, atol=1e-6)
    _, expected = split_prefix(everywhere(join_prefix(prefix, patches)), PREFIX, (5, 5))
    np.testing.assert_allclose(found[1], expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["dinov3", "eva02", "pe"])
def test_a_patch_turns_in_its_window_as_on_the_map(rule):
    settings = dataclasses.replace(SETTINGS, rope=rule)
    on_map = rotation(settings, GRID, None, 0)
    in_windows = rotation(settings, GRID, WINDOW, PREFIX)
    for whole, parts, still in zip(on_map, in_windows, (1.0, 0.0), strict=True):
        whole = np.asarray(whole).reshape(*GRID, -1)
        for window, (top, left) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3)]):
            expected = np.full((3, 3, whole.shape[-1]), still)
            part = whole[top : top + 3, left : left + 3]
            expected[: part.shape[0], : part.shape[1]] = part
            np.testing.assert_allclose(parts[window, PREFIX:], expected.reshape(9, -1), atol=1e-6)
            np.testing.assert_array_equal(parts[window, :PREFIX], still)


def test_a_larger_map_stretches_the_positions():
    """Two grids: patch centres at the same place turn alike by DINOv3's rule, and patches of the
    same share of the side by EVA-02's."""
    dinov3 = dataclasses.replace(SETTINGS, rope="dinov3")
    small, large = (rotation(dinov3, (side, side), None, 0) for side in (3, 9))
    np.testing.assert_allclose(small.cos[0, 4], large.cos[0, 40], atol=1e-6)
    np.testing.assert_allclose(small.sin[0, 0], large.sin[0, 10], atol=1e-6)
    eva02 = dataclasses.replace(SETTINGS, rope="eva02")
    small, large = (rotation(eva02, (side, side), None, 0) for side in (3, 9))
    np.testing.assert_allclose(small.sin[0, 8], large.sin[0, 60], atol=1e-5)


def test_relative_positions_leave_the_other_tokens_out(rng):
    bias = randomise(RelativePositionBias((2, 3), HEADS, PREFIX), rng)()
    assert bias.shape == (HEADS, PREFIX + 6, PREFIX + 6)
    assert not bias[:, :PREFIX].any()
    assert not bias[:, :, :PREFIX].any()
    position = randomise(DecomposedRelativePosition((2, 3), 4, PREFIX), rng)
    q, k, v = (array(rng, 1, PREFIX + 6, HEADS, 4) for _ in range(3))
    bias = position(q)
    assert not bias[:, :, :PREFIX].any()
    assert not bias[:, :, :, :PREFIX].any()
    alone = DecomposedRelativePosition((2, 3), 4)
    alone.height[...], alone.width[...] = position.height[...], position.width[...]
    np.testing.assert_array_equal(bias[:, :, PREFIX:, PREFIX:], alone(q[:, PREFIX:]))
    np.testing.assert_allclose(
        attend_with_position_channels(q, k, v, position, "xla"),
        attend(q, k, v, None, position, "xla"),
        atol=1e-5,
    )


def test_norms_behind_the_branches(rng):
    settings = dataclasses.replace(SETTINGS, post_norm=True, layer_scale=0.5)
    block = Block(settings, depth_index=1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    block, x = randomise(block, rng), array(rng, 1, 2, 3, WIDTH)
    attended = block.attn(x.reshape(1, 6, WIDTH)).reshape(x.shape)
    expected = x + block.gamma1[...] * block.norm1(attended)
    expected += block.gamma2[...] * block.norm2(block.mlp(expected))
    np.testing.assert_allclose(block(x), expected, atol=1e-5)
