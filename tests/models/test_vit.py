"""The transformer's pieces against explicit computations, and who may look at whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdet import config
from jaxdet.models import vit
from jaxdet.models.build import Functional
from jaxdet.models.position import RelativePositionBias, resize_embedding
from jaxdet.models.vit import Attention, Block, ViT, merge_windows, partition_windows

WIDTH, HEADS = 8, 2


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def array(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def randomise(module: nnx.Module, rng: np.random.Generator) -> nnx.Module:
    """Gives every parameter other values than its initialiser's, zeros and ones among them."""
    for _, parameter in nnx.iter_graph(module):
        if isinstance(parameter, nnx.Param):
            parameter[...] = 0.3 * array(rng, *parameter[...].shape)
    return module


@pytest.mark.parametrize(
    ("height", "width", "window"), [(6, 6, 3), (7, 5, 3), (2, 9, 4), (3, 3, 3)]
)
def test_windows_hold_their_square_and_merge_back(rng, height, width, window):
    x = array(rng, 2, height, width, 3)
    windows = np.asarray(partition_windows(x, window))
    rows, columns = -(-height // window), -(-width // window)
    assert windows.shape == (2 * rows * columns, window**2, 3)
    for i in range(2):
        for row in range(rows):
            for column in range(columns):
                y, x0 = row * window, column * window
                square = np.zeros((window, window, 3), np.float32)
                part = np.asarray(x[i, y : y + window, x0 : x0 + window])
                square[: part.shape[0], : part.shape[1]] = part
                found = windows[(i * rows + row) * columns + column]
                np.testing.assert_array_equal(found, square.reshape(-1, 3))
    np.testing.assert_array_equal(merge_windows(jnp.asarray(windows), window, (height, width)), x)


def test_relative_position_bias_equals_a_loop_over_pairs(rng):
    height, width = 3, 4
    bias = randomise(RelativePositionBias((height, width), HEADS), rng)
    table = np.asarray(bias.table[...])
    assert table.shape == ((2 * height - 1) * (2 * width - 1), HEADS)
    found = np.asarray(bias())
    assert found.shape == (HEADS, height * width, height * width)
    for query in range(height * width):
        for key in range(height * width):
            dy = query // width - key // width
            dx = query % width - key % width
            row = (dy + height - 1) * (2 * width - 1) + dx + width - 1
            np.testing.assert_array_equal(found[:, query, key], table[row])


@pytest.mark.parametrize("grid", [(64, 64), (6, 10), (7, 7), (20, 5), (14, 14)])
def test_resize_embedding_equals_pytorch(rng, grid):
    torch = pytest.importorskip("torch")
    embedding = np.asarray(array(rng, 14, 14, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(embedding.transpose(2, 0, 1)[None].copy()),
        size=grid,
        mode="bicubic",
        align_corners=False,
    )
    expected = expected[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(
        resize_embedding(jnp.asarray(embedding), grid), expected, atol=1e-5, rtol=1e-5
    )


def softmax_attention(x, kernel, qkv_bias, proj_kernel, proj_bias, bias):
    """Attention of arXiv 1706.03762 written out for one sequence, in float64."""
    tokens = len(x)
    qkv = (x @ kernel + qkv_bias).reshape(tokens, 3, HEADS, -1)
    heads = []
    for head in range(HEADS):
        q, k, v = qkv[:, 0, head], qkv[:, 1, head], qkv[:, 2, head]
        scores = np.exp(q @ k.T / np.sqrt(q.shape[-1]) + bias[head])
        heads.append(scores / scores.sum(-1, keepdims=True) @ v)
    return np.concatenate(heads, -1) @ proj_kernel + proj_bias


@pytest.mark.parametrize("qkv_bias", ["qkv", "qv", "none"])
def test_attention_equals_the_formula(rng, qkv_bias):
    attention = randomise(
        Attention(WIDTH, HEADS, qkv_bias, proj_std=0.02, dtype=jnp.float32, rngs=nnx.Rngs(0)), rng
    )
    if qkv_bias == "qkv":
        expected_bias = np.asarray(attention.qkv.bias[...])
    else:
        assert attention.qkv.bias is None
        expected_bias = np.zeros(3 * WIDTH)
    if qkv_bias == "qv":
        expected_bias[:WIDTH] = attention.q_bias[...]
        expected_bias[2 * WIDTH :] = attention.v_bias[...]
    x, bias = array(rng, 2, 5, WIDTH), array(rng, HEADS, 5, 5)
    found = attention(x, bias)
    for i in range(2):
        expected = softmax_attention(
            np.asarray(x[i], np.float64),
            np.asarray(attention.qkv.kernel[...]),
            expected_bias,
            np.asarray(attention.proj.kernel[...]),
            np.asarray(attention.proj.bias[...]),
            np.asarray(bias),
        )
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(attention(x), attention(x, jnp.zeros_like(bias)), atol=1e-6)
    assert abs(attention(x) - found).max() > 1e-3


@pytest.mark.parametrize("quarter_ends", [vit.quarter_ends, config.quarter_ends])
def test_quarter_ends(quarter_ends):
    assert quarter_ends(12) == (2, 5, 8, 11)
    assert quarter_ends(24) == (5, 11, 17, 23)
    assert quarter_ends(4) == (0, 1, 2, 3)


def a_block(rng, window: int | None, *, drop_path: float = 0.0, layer_scale: float | None = None):
    block = Block(
        WIDTH,
        HEADS,
        depth_index=1,
        window=window,
        mlp_ratio=2.0,
        qkv_bias="qkv",
        drop_path=drop_path,
        layer_scale=layer_scale,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    return randomise(block, rng)


def test_a_windowed_block_sees_its_window_and_a_global_one_everything(rng):
    x = array(rng, 1, 7, 7, WIDTH)
    moved = x.at[0, 4, 1].add(1.0)  # in the second row of windows, first column
    for window in (3, None):
        block = a_block(rng, window)
        change = np.asarray(abs(block(moved, None, None) - block(x, None, None)).max(-1)[0])
        seen = np.ones((7, 7), bool)
        if window:
            seen[:] = False
            seen[3:6, 0:3] = True
        assert (change[seen] > 0).all()
        assert (change[~seen] == 0).all()


def test_padding_of_a_window_takes_part_in_attention(rng):
    """As in ViTDet: zeros put in after the norm, whose keys are not masked."""
    block = a_block(rng, 3)
    x = array(rng, 1, 4, 4, WIDTH)
    corner = x[0, 3, 3]  # alone in its window with eight tokens of padding
    window = jnp.zeros((1, 9, WIDTH)).at[0, 0].set(block.norm1(corner))
    attended = corner + block.attn(window)[0, 0]
    expected = attended + block.mlp(block.norm2(attended))
    np.testing.assert_allclose(block(x, None, None)[0, 3, 3], expected, atol=1e-5)


def test_layer_scale_scales_each_branch(rng):
    block = a_block(rng, None, layer_scale=0.1)
    x = array(rng, 1, 2, 3, WIDTH)
    block.gamma2[...] = jnp.zeros(WIDTH)
    gamma = np.linspace(-1.0, 2.0, WIDTH, dtype=np.float32)
    block.gamma1[...] = jnp.ones(WIDTH)
    attended = block(x, None, None) - x
    block.gamma1[...] = jnp.asarray(gamma)
    np.testing.assert_allclose(block(x, None, None) - x, attended * gamma, atol=1e-5)

    block.gamma1[...] = jnp.zeros(WIDTH)
    np.testing.assert_array_equal(block(x, None, None), x)
    block.gamma2[...] = jnp.asarray(gamma)
    np.testing.assert_allclose(
        block(x, None, None) - x, block.mlp(block.norm2(x)) * gamma, atol=1e-5
    )


def test_layer_scale_starts_at_the_value_asked_for():
    block = Block(
        WIDTH,
        HEADS,
        depth_index=1,
        window=None,
        mlp_ratio=2.0,
        qkv_bias="qkv",
        drop_path=0.0,
        layer_scale=1e-5,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    for gamma in (block.gamma1, block.gamma2):
        np.testing.assert_array_equal(gamma[...], np.full(WIDTH, 1e-5, np.float32))


def a_vit(**changes) -> Functional:
    options = {
        "width": WIDTH,
        "depth": 8,
        "heads": HEADS,
        "mlp_ratio": 2.0,
        "patch": 4,
        "canvas": 20,
        "pretrain_grid": 3,
        "window": 3,
        "global_blocks": (1, 3, 5, 7),
        "qkv_bias": "qkv",
        "drop_path": 0.0,
        "layer_scale": None,
        "relative_position": True,
        "dtype": jnp.float32,
        **changes,
    }
    return Functional(lambda rngs: ViT(**options, rngs=rngs))


@pytest.fixture(scope="module")
def dropping():
    """(vit at a drop path of .5, its parameters, images)."""
    functional = a_vit(drop_path=0.5)
    params, _ = jax.jit(functional.init)(jax.random.key(0))
    return functional, params, array(np.random.default_rng(1), 4, 20, 20, 3)


def test_drop_path_is_random_in_training_alone(dropping):
    functional, params, images = dropping
    plain = a_vit()

    def maps(functional, key):
        return np.asarray(jnp.stack(functional.bind(params, {})(images, key)))

    np.testing.assert_array_equal(maps(functional, None), maps(plain, None))
    one, two = maps(functional, jax.random.key(0)), maps(functional, jax.random.key(1))
    np.testing.assert_array_equal(one, maps(functional, jax.random.key(0)))
    assert (one != maps(functional, None)).any()
    assert (one != two).any()


def test_drop_path_rises_from_zero(dropping):
    functional, params, _ = dropping
    rates = [block.drop_path for block in functional.bind(params, {}).blocks]
    np.testing.assert_allclose(rates, 0.5 * np.arange(8) / 7)


def test_taps_follow_the_last_block_of_each_quarter(rng):
    functional = a_vit(layer_scale=0.1)
    params, _ = functional.init(jax.random.key(0))
    images = array(rng, 1, 20, 20, 3)

    def maps(active: set[int]):
        changed = jax.tree.map(lambda leaf: leaf, params)
        for i, block in changed["blocks"].items():
            for name in ("gamma1", "gamma2"):
                block[name] = block[name] * (i in active)
        return functional.bind(changed, {})(images)

    for block in range(8):
        found = maps({block})
        assert len(found) == 4
        changes = [bool((x != y).any()) for x, y in zip(found, maps(set()), strict=True)]
        assert changes == [block <= tap for tap in (1, 3, 5, 7)]


def test_patches_are_a_strided_convolution(rng):
    functional = a_vit(pretrain_grid=5)
    params, _ = functional.init(jax.random.key(0))
    images = array(rng, 2, 20, 20, 3)
    kernel = params["patch_embed"]["kernel"].reshape(4, 4, 3, WIDTH)
    expected = jax.lax.conv_general_dilated(
        images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected += params["patch_embed"]["bias"] + params["pos_embed"]
    found = functional.bind(params, {})._embed(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_row_of_the_bias_tables_learns(rng):
    functional = a_vit()
    params, _ = functional.init(jax.random.key(0))
    images, weights = array(rng, 1, 20, 20, 3), array(rng, 4, 1, 5, 5, WIDTH)
    assert not params["rel_pos_window"]["table"].any()

    @jax.jit
    @jax.grad
    def gradient(params):
        return (jnp.stack(functional.bind(params, {})(images)) * weights).sum()

    gradients = gradient(params)
    for name, side in (("rel_pos_window", 3), ("rel_pos_global", 5)):
        table = np.asarray(gradients[name]["table"])
        assert table.shape == ((2 * side - 1) ** 2, HEADS)
        assert table.all()


def test_bias_tables_exist_where_blocks_use_them():
    def tables(**changes):
        params, _ = jax.eval_shape(a_vit(**changes).init, jax.random.key(0))
        return {name for name in params if name.startswith("rel_pos")}

    assert tables() == {"rel_pos_window", "rel_pos_global"}
    assert tables(global_blocks=()) == {"rel_pos_window"}
    assert tables(global_blocks=range(8)) == {"rel_pos_global"}
    assert tables(relative_position=False) == set()


def test_residual_outputs_start_smaller_with_depth():
    params, _ = a_vit(width=64).init(jax.random.key(0))
    for i, block in params["blocks"].items():
        for kernel in (block["attn"]["proj"]["kernel"], block["mlp"]["fc2"]["kernel"]):
            np.testing.assert_allclose(kernel.std(), 0.02 / np.sqrt(2 * (i + 1)), rtol=0.06)
        np.testing.assert_allclose(block["attn"]["qkv"]["kernel"].std(), 0.02, rtol=0.06)
