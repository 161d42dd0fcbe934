"""Converted weights in our blocks against the official code's tokens after every block."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from checkpoints_convert.relative_position import resize_table
from jaxdet.models.build import StatelessModel
from jaxdet.models.position import RelativePositionBias
from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT
from jaxdet.weights.load import load_params

pytest.importorskip("torch")

CHECKPOINTS = (
    "mae_tiny",
    "mae_full_tiny",
    "mae_training_run_tiny",
    "mocov3_tiny",
    "deit_tiny",
    "beit_pretrained_tiny",
    "beit_finetuned_tiny",
)
GRID, DEPTH, HEADS, WIDTH = 4, 4, 2, 32


@pytest.fixture(scope="module", params=CHECKPOINTS)
def case(request, reference, reference_file):
    """(ViT holding the converted arrays, the source, official outputs)."""
    source = read(reference_file(f"{request.param}.pth"))
    converted = convert(source, Options(window=GRID, global_grid=GRID), pixels="half")
    arrays = {path: tensor.read() for path, tensor in converted.arrays.items()}
    # All blocks attend globally here, as in pre-training, so none is left to use the windows'.
    arrays.pop("backbone.rel_pos_window.table", None)
    # What a config may leave aside.
    optional = re.compile(r"backbone\.(class_|norm\.)")
    arrays = {path: array for path, array in arrays.items() if not optional.match(path)}
    keys = converted.report["config"]
    is_beit = keys["model.vit.layer_scale"]
    settings = VitSettings(
        width=WIDTH,
        depth=DEPTH,
        heads=HEADS,
        mlp_ratio=keys["model.vit.mlp_ratio"],
        image_size=64,
        pretrain_grid=GRID,
        window=GRID,
        global_blocks=tuple(range(DEPTH)),
        out_indices=tuple(range(DEPTH)),
        qkv_bias=keys["model.vit.qkv_bias"],
        layer_scale=0.0 if is_beit else None,
        relative_position="shared" if is_beit else "none",
        absolute_position="none" if is_beit else "pretrained",
    )
    stateless = StatelessModel(lambda rngs: ViT(settings, dtype="float32", rngs=rngs))
    abstract = {"backbone": stateless.abstract[0]}
    assert {*arrays} == {f"backbone.{name}" for name in names(abstract["backbone"])}
    loaded, _ = load_params(source.path, arrays, abstract, {})
    return stateless, loaded["backbone"], source, reference(f"{request.param}_outputs.npz")


def names(tree) -> list[str]:
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def class_token(source) -> np.ndarray:
    """What a detector has no place for: the class token with its position, [width]."""
    (name,) = (
        name for name in source.state if name.endswith("cls_token") and "momentum" not in name
    )
    token = source.state[name].read()[0, 0]
    position = source.state.get(name.replace("cls_token", "pos_embed"))
    return token if position is None else token + position.read()[0, 0]


def with_class_token(bias: jax.Array, rows: np.ndarray) -> jax.Array:
    """A bias of patches [heads, n, n] with BEiT's last three rows put around it."""
    to_patch, from_patch, to_itself = rows[-3:]
    bias = jnp.pad(bias, ((0, 0), (1, 0), (1, 0)))
    bias = bias.at[:, 0, 1:].set(to_patch[:, None]).at[:, 1:, 0].set(from_patch[:, None])
    return bias.at[:, 0, 0].set(to_itself)


def block_biases(model: ViT, source) -> list[jax.Array | None]:
    """Each block's bias over class token and patches.

    A fine-tuned BEiT has a table a block, which detectors replace by two shared ones; here every
    block gets its own, through the converter's resizing.
    """
    shared = source.state.get("rel_pos_bias.relative_position_bias_table")
    if shared is not None:
        return [with_class_token(model.rel_pos_global(), shared.read())] * DEPTH
    biases = []
    for i in range(DEPTH):
        table = source.state.get(f"blocks.{i}.attn.relative_position_bias_table")
        if table is None:
            biases.append(None)
            continue
        bias = RelativePositionBias((GRID, GRID), HEADS)
        bias.table[...] = jnp.asarray(resize_table(table, GRID, "bicubic").read())
        biases.append(with_class_token(bias(), table.read()))
    return biases


def run(case, image: np.ndarray) -> list[np.ndarray]:
    """Tokens after each block, class token first: our embedding, our blocks."""
    stateless, params, source, _ = case
    token = jnp.asarray(class_token(source))

    @jax.jit
    def tokens(params, images):
        model = stateless.bind(params, {})
        x = model.embed(images)
        x = x.reshape(x.shape[0], -1, WIDTH)
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, WIDTH)), x], 1)[:, None]
        outputs = []
        for block, bias in zip(model.blocks, block_biases(model, source), strict=True):
            x = block(x, bias, None)
            outputs.append(x[:, 0])
        return outputs

    with jax.default_matmul_precision("highest"):
        return [np.asarray(x) for x in tokens(params, jnp.asarray(image.transpose(0, 2, 3, 1)))]


def test_tokens_after_every_block(case):
    outputs = case[3]
    for i, found in enumerate(run(case, outputs["image"])):
        np.testing.assert_allclose(found, outputs[f"block{i}"], atol=1e-4, rtol=0, err_msg=str(i))


def test_tokens_of_a_larger_image(case):
    outputs = case[3]
    if "large_image" not in outputs:
        pytest.skip("the reference has no larger image for this checkpoint")
    found = run(case, outputs["large_image"])
    for i in (0, DEPTH - 1):
        expected = outputs[f"large_block{i}"]
        np.testing.assert_allclose(found[i], expected, atol=1e-4, rtol=0, err_msg=str(i))
