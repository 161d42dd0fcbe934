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
from tests.models.test_vit import HEADS, WIDTH, array, compiled, randomise, rng

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
    part = {"prefix": PREFIX, "dtype": jnp.float32}
    block = nnx.eval_shape(
        lambda: Block(SETTINGS, depth_index=1, window=WINDOW, rngs=nnx.Rngs(0), **part)
    )
    randomise(block, rng)
    prefix, patches = array(rng, 1, PREFIX, WIDTH), array(rng, 1, *GRID, WIDTH)

    def compute(block, prefix, patches):
        windows = partition_windows(block.norm1(patches), WINDOW)
        attended = [
            block.attn(jnp.concatenate([block.norm1(prefix), window[None]], 1))
            for window in windows
        ]
        copies = jnp.stack([each[:, :PREFIX] for each in attended])
        expected = prefix + copies.mean(0)
        expected += block.mlp(block.norm2(expected))
        corner = patches[0, 3, 4] + attended[3][0, PREFIX + 1]  # first row, second column there
        corner += block.mlp(block.norm2(corner))
        found = block(join_prefix(prefix, patches), grid=GRID)
        return copies, expected, corner, *split_prefix(found, PREFIX, GRID)

    copies, expected, corner, found_prefix, found_patches = compiled(
        compute, block, prefix, patches
    )
    assert copies.std(0).max() > 1e-3
    np.testing.assert_allclose(found_prefix, expected, atol=1e-5)
    np.testing.assert_allclose(found_patches[0, 3, 4], corner, atol=1e-5)


def test_dropped_tokens_pass_by_the_windowed_block(rng):
    """They come into the global block as they were, and the patches as without them."""
    dropping = dataclasses.replace(SETTINGS, prefix_in_windows="drop")
    model = nnx.eval_shape(lambda: ViT(dropping, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    randomise(model, rng)

    def compute(model, image):
        windowed, everywhere = model.blocks
        prefix, patches = split_prefix(model.embed(image), PREFIX, (5, 5))
        patches = windowed(patches)
        _, expected = split_prefix(everywhere(join_prefix(prefix, patches)), PREFIX, (5, 5))
        return model(image), (patches, expected)

    found, expected = compiled(compute, model, array(rng, 1, 10, 10, 3))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


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

    def compute(position, q, k, v):
        alone = DecomposedRelativePosition((2, 3), 4)
        alone.height[...], alone.width[...] = position.height[...], position.width[...]
        attended = (
            attend_with_position_channels(q, k, v, position, "xla"),
            attend(q, k, v, None, position, "xla"),
        )
        return position(q), alone(q[:, PREFIX:]), attended

    q, k, v = (array(rng, 1, PREFIX + 6, HEADS, 4) for _ in range(3))
    bias, alone, attended = compiled(compute, position, q, k, v)
    assert not bias[:, :, :PREFIX].any()
    assert not bias[:, :, :, :PREFIX].any()
    np.testing.assert_array_equal(bias[:, :, PREFIX:, PREFIX:], alone)
    np.testing.assert_allclose(*attended, atol=1e-5)


def test_norms_behind_the_branches(rng):
    settings = dataclasses.replace(SETTINGS, post_norm=True, layer_scale=0.5)
    block = nnx.eval_shape(
        lambda: Block(settings, depth_index=1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    )
    randomise(block, rng)

    def compute(block, x):
        attended = block.attn(x.reshape(1, 6, WIDTH)).reshape(x.shape)
        expected = x + block.gamma1[...] * block.norm1(attended)
        return block(x), expected + block.gamma2[...] * block.norm2(block.mlp(expected))

    np.testing.assert_allclose(*compiled(compute, block, array(rng, 1, 2, 3, WIDTH)), atol=1e-5)
