"""The transformer's pieces against explicit computations, and who may look at whom."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdet.models import attention
from jaxdet.models.block import Attention, Block, Mlp
from jaxdet.models.build import StatelessModel
from jaxdet.models.position import (
    DecomposedRelativePosition,
    RelativePositionBias,
    resize_embedding,
    sincos_embedding,
)
from jaxdet.models.settings import BlockSettings, VitSettings
from jaxdet.models.vit import ViT
from jaxdet.models.windows import merge_windows, partition_windows
from jaxdet.ops.fused_attention import fused_attention
from tests.models.residuals import residual_bytes

WIDTH, HEADS = 8, 2


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def array(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def randomise(module: nnx.Module, rng: np.random.Generator) -> nnx.Module:
    """Gives every parameter other values than its initialiser's, zeros and ones among them.

    Args:
        module: may be one of `nnx.eval_shape`, whose initialisers are not compiled.
    """
    for _, parameter in nnx.iter_graph(module):
        if isinstance(parameter, nnx.Param):
            values = 0.3 * rng.normal(size=parameter.get_value().shape)
            parameter.set_value(jnp.asarray(values, jnp.float32))
    return module


def compiled(function: Callable[..., Any], module: nnx.Module, *arrays: Any) -> Any:
    """function(module, *arrays) as one program; each operation by itself would be one too."""
    graph, state = nnx.split(module)

    @jax.jit
    def compute(state, *arrays):
        return function(nnx.merge(graph, state), *arrays)

    return compute(state, *arrays)


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
    bias = RelativePositionBias((height, width), HEADS)
    assert not bias().any()
    randomise(bias, rng)
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


resize = jax.jit(resize_embedding, static_argnums=(1, 2))


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
    np.testing.assert_allclose(resize(embedding, grid), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(84, 84), (6, 10), (7, 7)])
def test_resize_embedding_at_an_offset_equals_pytorch_s_scale_factor(rng, grid):
    """imTED's rule; PyTorch rounds the size down and samples at the scale it is given."""
    torch = pytest.importorskip("torch")
    embedding = np.asarray(array(rng, 14, 14, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(embedding.transpose(2, 0, 1)[None].copy()),
        scale_factor=tuple((side + 0.1) / 14 for side in grid),
        mode="bicubic",
        align_corners=False,
    )
    expected = expected[0].numpy().transpose(1, 2, 0)
    assert expected.shape == (*grid, 3)
    found = resize(embedding, grid, 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert np.abs(found - resize(embedding, grid)).max() > 1e-3


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
    attention = nnx.eval_shape(
        lambda: Attention(
            BlockSettings(width=WIDTH, heads=HEADS, qkv_bias=qkv_bias),
            decomposed_grid=None,
            out_std=0.02,
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )
    )
    randomise(attention, rng)
    if qkv_bias == "qkv":
        expected_bias = np.asarray(attention.qkv.bias[...])
    else:
        assert attention.qkv.bias is None
        expected_bias = np.zeros(3 * WIDTH)
    if qkv_bias == "qv":
        expected_bias[:WIDTH] = attention.q_bias[...]
        expected_bias[2 * WIDTH :] = attention.v_bias[...]
    x, bias = array(rng, 2, 5, WIDTH), array(rng, HEADS, 5, 5)
    found, without, with_zeros = compiled(
        lambda attention, *biases: tuple(attention(x, bias) for bias in biases),
        attention,
        bias,
        None,
        jnp.zeros_like(bias),
    )
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
    np.testing.assert_allclose(without, with_zeros, atol=1e-6)
    assert abs(without - found).max() > 1e-3


def new_block(window=None, decomposed_grid=None, depth_index=1, **changes) -> Block:
    settings = BlockSettings(**{"width": WIDTH, "heads": HEADS, "mlp_ratio": 2.0, **changes})
    return Block(
        settings,
        depth_index=depth_index,
        window=window,
        decomposed_grid=decomposed_grid,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )


def random_block(rng, **options) -> Block:
    return randomise(nnx.eval_shape(lambda: new_block(**options)), rng)


@nnx.jit
def run(block: Block, x: jax.Array) -> jax.Array:
    return block(x)


def recorded_weights(module: Block | ViT, attention: Attention, x, *inputs) -> jax.Array:
    """The attention weights that a module within another records in a call of that."""
    attention.record_weights = True
    _, recorded = nnx.capture(module, nnx.Intermediate)(x, *inputs)
    attention.record_weights = False
    ((weights,),) = jax.tree.leaves(recorded, is_leaf=lambda leaf: isinstance(leaf, tuple))
    return weights


def test_a_windowed_block_sees_its_window_and_a_global_one_everything(rng):
    x = array(rng, 1, 7, 7, WIDTH)
    moved = x.at[0, 4, 1].add(array(rng, WIDTH))  # second row of windows, first column
    for window in (3, None):
        block = random_block(rng, window=window)
        change = np.asarray(abs(run(block, moved) - run(block, x)).max(-1)[0])
        seen = np.ones((7, 7), bool)
        if window:
            seen[:] = False
            seen[3:6, 0:3] = True
        assert (change[seen] > 0).all()
        assert (change[~seen] == 0).all()


@pytest.mark.parametrize("window", [3, None])
@pytest.mark.parametrize("qkv_bias", ["qkv", "qv"])
@pytest.mark.parametrize("position", ["none", "shared", "decomposed"])
def test_attention_weights_are_those_that_the_values_are_weighed_with(
    rng, window, qkv_bias, position
):
    """Times the values and projected, they are what the block's attention gives."""
    side = window or 5
    grid = (side, side) if position == "decomposed" else None
    block = random_block(rng, window=window, qkv_bias=qkv_bias, decomposed_grid=grid)
    block.attn.qkv.kernel[...] *= 4  # else all weights would be nearly the same
    bias = array(rng, HEADS, side**2, side**2) if position == "shared" else None
    x = array(rng, 2, 5, 5, WIDTH)

    def compute(block, x, bias):
        tokens = block.norm1(x)
        tokens = (
            tokens.reshape(2, 25, WIDTH) if window is None else partition_windows(tokens, window)
        )
        weights = recorded_weights(block, block.attn, x, bias)
        attention = block.attn
        values = attention.qkv(tokens)[..., 2 * WIDTH :]
        if qkv_bias == "qv":
            values += attention.v_bias[...]
        values = values.reshape(*tokens.shape[:2], HEADS, -1)
        weighed = jnp.einsum("nhqk,nkhc->nqhc", weights, values).reshape(tokens.shape)
        return weights, attention.proj(weighed), attention(tokens, bias)

    weights, weighed, attended = compiled(compute, block, x, bias)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert weights.std() > 0.3 * weights.mean()
    np.testing.assert_allclose(weighed, attended, atol=1e-5)


def test_padding_of_a_window_takes_part_in_attention(rng):
    """As in ViTDet: zeros put in after the norm, whose keys are not masked."""
    block = random_block(rng, window=3)
    x = array(rng, 1, 4, 4, WIDTH)

    def alone(block, x):
        """The corner's token, by itself in its window with eight tokens of padding."""
        corner = x[0, 3, 3]
        window = jnp.zeros((1, 9, WIDTH)).at[0, 0].set(block.norm1(corner))
        attended = corner + block.attn(window)[0, 0]
        return attended + block.mlp(block.norm2(attended))

    np.testing.assert_allclose(run(block, x)[0, 3, 3], compiled(alone, block, x), atol=1e-5)


def test_layer_scale_scales_each_branch(rng):
    block = random_block(rng, layer_scale=0.1)
    x = array(rng, 1, 2, 3, WIDTH)
    block.gamma2[...] = jnp.zeros(WIDTH)
    gamma = np.linspace(-1.0, 2.0, WIDTH, dtype=np.float32)
    block.gamma1[...] = jnp.ones(WIDTH)
    attended = run(block, x) - x
    block.gamma1[...] = jnp.asarray(gamma)
    np.testing.assert_allclose(run(block, x) - x, attended * gamma, atol=1e-5)

    block.gamma1[...] = jnp.zeros(WIDTH)
    np.testing.assert_array_equal(run(block, x), x)
    block.gamma2[...] = jnp.asarray(gamma)
    np.testing.assert_allclose(
        run(block, x) - x,
        compiled(lambda block: block.mlp(block.norm2(x)), block) * gamma,
        atol=1e-5,
    )


def test_decomposed_relative_position_equals_the_loop(rng):
    rows, columns, channels = 2, 3, 4
    position = DecomposedRelativePosition((rows, columns), channels)
    position.height[...] = array(rng, 2 * rows - 1, channels)
    position.width[...] = array(rng, 2 * columns - 1, channels)
    q = array(rng, 1, rows * columns, 2, channels)
    bias = position(q)
    assert bias.shape == (1, 2, 6, 6)
    for head in range(2):
        for i in range(6):
            for j in range(6):
                dy, dx = i // columns - j // columns, i % columns - j % columns
                vector = position.height[dy + rows - 1] + position.width[dx + columns - 1]
                np.testing.assert_allclose(
                    bias[0, head, i, j], q[0, i, head] @ vector, rtol=1e-5, atol=1e-5
                )


def test_layer_scale_starts_at_the_value_asked_for():
    block = new_block(layer_scale=1e-5)
    for gamma in (block.gamma1, block.gamma2):
        np.testing.assert_array_equal(gamma[...], np.full(WIDTH, 1e-5, np.float32))


def a_vit(**changes) -> StatelessModel:
    options = {
        "width": WIDTH,
        "depth": 4,
        "heads": HEADS,
        "mlp_ratio": 2.0,
        "patch": 4,
        "image_size": 20,
        "pretrain_grid": 3,
        "window": 3,
        "global_blocks": (1, 3),
        "out_indices": (0, 1, 2, 3),
        **changes,
    }
    settings = VitSettings(**options)
    return StatelessModel(lambda rngs: ViT(settings, dtype=jnp.float32, rngs=rngs))


TODAYS_PARTS = {
    "class_token": True,
    "registers": 2,
    "rope": "dinov3",
    "qk_norm": True,
    "attention_norm": True,
    "mlp_norm": True,
    "activation": "swiglu",
    "norm": "rms",
    "patch_norm": True,
    "pre_norm": True,
    "final_norm": True,
}


def random_params(stateless: StatelessModel, rng: np.random.Generator):
    params, _ = jax.eval_shape(stateless.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: 0.3 * array(rng, *leaf.shape), params)


def test_drop_path_is_random_in_training_alone(rng):
    plain, dropping = a_vit(), a_vit(drop_path=0.5)
    params, images = random_params(plain, rng), array(rng, 4, 20, 20, 3)

    @partial(jax.jit, static_argnums=0)
    def maps(stateless, key):
        return jnp.stack(stateless.bind(params, {})(images, key))

    np.testing.assert_array_equal(maps(dropping, None), maps(plain, None))
    keys = [jax.random.split(jax.random.key(seed), len(images)) for seed in (0, 1)]
    one, two = (maps(dropping, k) for k in keys)
    np.testing.assert_array_equal(one, maps(dropping, keys[0]))
    assert (one != maps(dropping, None)).any()
    assert (one != two).any()


def test_drop_path_rises_from_zero(rng):
    stateless = a_vit(drop_path=0.5)
    model = stateless.bind(random_params(stateless, rng), {})
    rates = [block.drop_path for block in model.blocks]
    np.testing.assert_allclose(rates, [0.0, 1 / 6, 2 / 6, 0.5])


def test_maps_are_of_the_blocks_asked_for(rng):
    stateless = a_vit(depth=8, out_indices=(1, 3, 5, 7), layer_scale=0.1)
    params, images = random_params(stateless, rng), array(rng, 1, 20, 20, 3)

    @jax.jit
    def maps(active):
        blocks = {
            i: {
                **block,
                "gamma1": block["gamma1"] * active[i],
                "gamma2": block["gamma2"] * active[i],
            }
            for i, block in params["blocks"].items()
        }
        return stateless.bind({**params, "blocks": blocks}, {})(images)

    nothing = maps(jnp.zeros(8))
    assert len(nothing) == 4
    for block in range(8):
        found = maps(jnp.eye(8)[block])
        changes = [bool((x != y).any()) for x, y in zip(found, nothing, strict=True)]
        assert changes == [block <= index for index in (1, 3, 5, 7)]


@pytest.mark.parametrize("remat", ["none", "block"])
@pytest.mark.parametrize("relative_position", ["shared", "decomposed"])
def test_only_the_block_asked_for_records_its_weights(rng, relative_position, remat):
    """Those that it has by itself of what the blocks before it made."""
    stateless = a_vit(
        depth=3, out_indices=(0, 1, 2), relative_position=relative_position, remat=remat
    )
    vit = stateless.bind(random_params(stateless, rng), {})
    images = array(rng, 2, 20, 20, 3)
    maps = vit(images)
    for i in (1, 2):
        block = vit.blocks[i]
        table = vit.rel_pos_global if block.window is None else vit.rel_pos_window
        bias = None if table is None else table()
        expected = recorded_weights(block, block.attn, maps[i - 1], bias)
        found = recorded_weights(vit, block.attn, images)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_nothing_is_recorded_where_nobody_looks(rng):
    vit = (stateless := a_vit()).bind(random_params(stateless, rng), {})
    maps, recorded = nnx.capture(vit, nnx.Intermediate)(array(rng, 2, 20, 20, 3))
    assert len(maps) == 4
    assert not jax.tree.leaves(recorded)


def test_patches_are_a_strided_convolution(rng):
    stateless = a_vit(pretrain_grid=5)
    params, images = random_params(stateless, rng), array(rng, 2, 20, 20, 3)
    kernel = params["patch_embed"]["kernel"].reshape(4, 4, 3, WIDTH)
    expected = jax.lax.conv_general_dilated(
        images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected += params["patch_embed"]["bias"] + params["pos_embed"]
    found = stateless.bind(params, {}).embed(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_row_of_the_bias_tables_learns(rng):
    stateless = a_vit()
    params = random_params(stateless, rng)
    images, weights = array(rng, 1, 20, 20, 3), array(rng, 4, 1, 5, 5, WIDTH)

    @jax.jit
    @jax.grad
    def gradient(params):
        return (jnp.stack(stateless.bind(params, {})(images)) * weights).sum()

    gradients = gradient(params)
    for name, side in (("rel_pos_window", 3), ("rel_pos_global", 5)):
        table = np.asarray(gradients[name]["table"])
        assert table.shape == ((2 * side - 1) ** 2, HEADS)
        assert table.all()


@pytest.mark.parametrize("relative_position", ["shared", "decomposed"])
def test_rematerialisation_keeps_less_and_changes_no_gradient(rng, relative_position):
    options = {"drop_path": 0.3, "relative_position": relative_position, "layer_scale": 0.1}
    options |= {"depth": 2, "global_blocks": (1,), "out_indices": (0, 1)}
    if relative_position == "shared":
        options |= TODAYS_PARTS
    params = random_params(a_vit(**options), rng)
    images, weights = array(rng, 4, 20, 20, 3), array(rng, 2, 4, 5, 5, WIDTH)
    keys = jax.random.split(jax.random.key(0), 4)

    def gradient(remat):
        stateless = a_vit(**options, remat=remat)

        def loss(params):
            return (jnp.stack(stateless.bind(params, {})(images, keys)) * weights).sum()

        return jax.jit(jax.grad(loss))(params), residual_bytes(loss, params)

    expected, most = gradient("none")
    assert min(abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 0
    for remat in ("attention", "block"):
        found, kept = gradient(remat)
        assert kept < 0.9 * most
        most = kept
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


def test_todays_parts_are_the_same_by_the_fused_kernel_and_exported(rng, monkeypatch):
    """The kernel of TPUs, simulated; the exported program has one for each kind of device."""
    monkeypatch.setattr(attention, "FEWEST_TOKENS", 1)
    monkeypatch.setattr(attention, "fused_attention", partial(fused_attention, interpret=True))
    options = {"depth": 1, "global_blocks": (0,), "out_indices": (0,), **TODAYS_PARTS}
    options["relative_position"] = "none"
    params, images = random_params(a_vit(**options), rng), array(rng, 1, 20, 20, 3)

    def maps(kind: str):
        stateless = a_vit(**options, attention=kind)
        return jax.jit(lambda params, images: jnp.stack(stateless.bind(params, {})(images)))

    expected = maps("xla")(params, images)
    found = maps("pallas")(params, images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    exported = jax.export.export(maps("xla"), platforms=("cpu", "cuda", "tpu"))(params, images)
    np.testing.assert_allclose(exported.call(params, images), expected, atol=1e-4)


def test_bias_tables_exist_where_blocks_use_them():
    def tables(**changes):
        params, _ = jax.eval_shape(a_vit(**changes).init, jax.random.key(0))
        return {name for name in params if name.startswith("rel_pos")}

    assert tables() == {"rel_pos_window", "rel_pos_global"}
    assert tables(global_blocks=()) == {"rel_pos_window"}
    assert tables(global_blocks=(0, 1, 2, 3)) == {"rel_pos_global"}
    assert tables(relative_position="none") == set()


@pytest.mark.parametrize("depth_index", [1, 12])
def test_residual_outputs_start_smaller_with_depth(depth_index):
    block = new_block(width=64, depth_index=depth_index)
    for kernel in (block.attn.proj.kernel[...], block.mlp.fc2.kernel[...]):
        np.testing.assert_allclose(kernel.std(), 0.02 / np.sqrt(2 * depth_index), rtol=0.05)
    for kernel in (block.attn.qkv.kernel[...], block.mlp.fc1.kernel[...]):
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.05)


@pytest.mark.parametrize("kind", ["pretrained", "random", "zero", "sincos", "none"])
def test_absolute_position_of_every_kind(kind, rng):
    stateless = a_vit(width=16, absolute_position=kind)
    params, _ = jax.jit(stateless.init)(jax.random.key(0))
    position = params.get("pos_embed")
    if kind == "none":
        assert position is None
    elif kind == "sincos":
        np.testing.assert_array_equal(position, sincos_embedding(5, 16))  # 20 pixels of 4
    else:
        assert position.shape == (3, 3, 16)
        assert bool(position.any()) == (kind != "zero")
    images = array(rng, 1, 20, 20, 3)
    embedded = jax.jit(lambda p, x: stateless.bind(p, {}).embed(x))(params, images)
    assert embedded.shape == (1, 5, 5, 16)
    assert np.isfinite(embedded).all()


def test_sincos_embedding_is_the_formula():
    table = sincos_embedding(3, 8)
    for row in range(3):
        for column in range(3):
            expected = [
                function(position / 10000 ** (i / 2))
                for position in (column, row)
                for function in (math.sin, math.cos)
                for i in range(2)
            ]
            np.testing.assert_allclose(table[row, column], expected, atol=1e-7)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "swiglu"])
def test_mlp_activations_equal_pytorch(rng, activation):
    torch = pytest.importorskip("torch")
    mlp = nnx.eval_shape(
        lambda: Mlp(
            BlockSettings(width=WIDTH, heads=HEADS, activation=activation),
            out_std=0.02,
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )
    )
    randomise(mlp, rng)
    x = array(rng, 5, WIDTH)
    tensors = {
        "fc1": torch.tensor(np.asarray(x @ mlp.fc1.kernel[...] + mlp.fc1.bias[...])),
        "kernel": torch.tensor(np.asarray(mlp.fc2.kernel[...])),
        "bias": torch.tensor(np.asarray(mlp.fc2.bias[...])),
    }
    hidden = tensors["fc1"]
    functions = torch.nn.functional
    if activation == "swiglu":
        gate, hidden = hidden.chunk(2, -1)
        hidden = functions.silu(gate) * hidden
        assert hidden.shape[-1] == 24  # two thirds of 32, in steps of 8
    elif activation == "quick_gelu":
        hidden = hidden * torch.sigmoid(1.702 * hidden)
    else:
        kind = "tanh" if activation == "gelu_tanh" else "none"
        hidden = functions.gelu(hidden, approximate=kind)
    expected = (hidden @ tensors["kernel"] + tensors["bias"]).numpy()
    np.testing.assert_allclose(compiled(Mlp.__call__, mlp, x), expected, atol=1e-5)


def test_a_norm_before_the_blocks_normalises_what_enters_them(rng):
    stateless = a_vit(pre_norm=True)
    params = random_params(stateless, rng)
    params["norm_pre"] = {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}
    embedded = stateless.bind(params, {}).embed(array(rng, 1, 20, 20, 3))
    np.testing.assert_allclose(embedded.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(embedded.std(-1), 1, atol=1e-3)
