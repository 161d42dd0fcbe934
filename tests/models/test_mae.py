"""Masked autoencoding against the official code's outputs and plain computations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdet.models.mae import (
    MAE,
    masked_loss,
    normalised_patches,
    patch_statistics,
    random_orders,
    unpatchify,
)
from jaxdet.models.vit import patchify

GRID, PATCH = 4, 16


def make(depth: int, decoder_depth: int) -> MAE:
    """Of the widths of the official code's reference."""
    return MAE(
        image_size=GRID * PATCH,
        vit={"width": 32, "depth": depth, "heads": 2, "mlp_ratio": 4.0, "patch": PATCH},
        decoder={"width": 24, "depth": decoder_depth, "heads": 2},
        mask_ratio=0.75,
        pixel_mean=(123.675, 116.28, 103.53),
        pixel_std=(58.395, 57.12, 57.375),
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )


def load(model: MAE, state: dict) -> None:
    """Gives a model the official code's weights."""

    def fill(module, name):
        for leaf, theirs in (("kernel", "weight"), ("scale", "weight"), ("bias", "bias")):
            if hasattr(module, leaf):
                value = state[f"{name}.{theirs}"]
                getattr(module, leaf)[...] = jnp.asarray(value.T if leaf == "kernel" else value)

    def fill_blocks(blocks, name):
        for i, block in enumerate(blocks):
            for part in ("norm1", "norm2"):
                fill(getattr(block, part), f"{name}.{i}.{part}")
            for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
                outer, inner = part.split(".")
                fill(getattr(getattr(block, outer), inner), f"{name}.{i}.{part}")

    encoder, decoder = model.encoder, model.decoder
    kernel = state["patch_embed.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, 32)
    encoder.patch_embed.kernel[...] = kernel
    encoder.patch_embed.bias[...] = state["patch_embed.proj.bias"]
    encoder.class_token[...] = state["cls_token"][0, 0]
    fill_blocks(encoder.blocks, "blocks")
    fill(model.norm, "norm")
    fill(decoder.embed, "decoder_embed")
    decoder.mask_token[...] = state["mask_token"][0, 0]
    fill_blocks(decoder.blocks, "decoder_blocks")
    fill(decoder.norm, "decoder_norm")
    fill(decoder.predict, "decoder_pred")


@pytest.fixture(scope="module")
def official(reference_file, reference):
    """The model with the official code's weights, these weights, and what that code computed."""
    torch = pytest.importorskip("torch")
    content = torch.load(reference_file("mae_full_tiny.pth"), weights_only=True)["model"]
    state = {name: tensor.numpy() for name, tensor in content.items()}
    model = make(depth=4, decoder_depth=2)
    load(model, state)
    return model, state, reference("mae_full_tiny_outputs.npz")


def nhwc(images) -> jax.Array:
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def test_with_every_patch_seen_the_encoder_is_the_official_one(official):
    model, state, outputs = official
    position = model.encoder.pos_embed[...].reshape(-1, 32)
    np.testing.assert_allclose(position, state["pos_embed"][0, 1:], atol=1e-6)
    assert not state["pos_embed"][0, 0].any()
    seen = jnp.tile(jnp.arange(GRID**2), (2, 1))
    tokens = model.encode(nhwc(outputs["image"]), seen)
    np.testing.assert_allclose(tokens[:, 0], outputs["block3"], atol=2e-5)
    np.testing.assert_allclose(model.norm(tokens)[:, 0], outputs["final_norm"], atol=2e-5)


def test_the_decoder_is_the_official_one_whatever_the_order(official):
    model, state, outputs = official
    position = model.decoder.pos_embed[...].reshape(-1, 24)
    np.testing.assert_allclose(position, state["decoder_pos_embed"][0, 1:], atol=1e-6)
    weight, bias = state["decoder_pred.weight"], state["decoder_pred.bias"]
    expected = outputs["decoder_out"][:, 1:] @ weight.T + bias
    latent = outputs["final_norm"]
    order = np.stack([np.arange(16), np.random.default_rng(0).permutation(16)])
    patches = np.take_along_axis(latent[:, 1:], order[..., None], 1)
    latent = jnp.asarray(np.concatenate([latent[:, :1], patches], 1))
    predicted = model.decoder(latent[:, None], jnp.asarray(order))
    np.testing.assert_allclose(predicted, expected, atol=2e-5)


def test_masked_patches_are_unseen_and_unseen_ones_do_not_matter(official):
    model, _, outputs = official
    images = nhwc(outputs["image"])
    order = random_orders(jax.random.split(jax.random.key(1), 2), GRID**2)
    masked = np.asarray(model.is_masked(order))
    assert masked.sum(1).tolist() == [12, 12]
    for row, hidden in zip(np.asarray(order), masked, strict=True):
        assert set(row[:4]) == set(np.flatnonzero(~hidden))
    noise = jnp.asarray(np.random.default_rng(0).normal(size=images.shape), jnp.float32)
    mask = unpatchify(jnp.repeat(masked[..., None], 3 * PATCH**2, -1), PATCH)
    predicted = model(images, order)
    np.testing.assert_array_equal(model(jnp.where(mask, noise, images), order), predicted)
    assert np.abs(model(jnp.where(mask, images, noise), order) - predicted).max() > 1e-2


def test_patches_come_together_again_and_have_no_mean_and_contrast():
    images = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, (2, 8, 8, 3)), jnp.float32)
    patches = patchify(images, 4).reshape(2, 4, 48)
    np.testing.assert_array_equal(patches[1, 1], np.asarray(images)[1, :4, 4:].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 4), images)
    normalised = np.asarray(normalised_patches(images, 4))
    patch = np.asarray(images)[1, 4:, :4].reshape(-1)
    expected = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
    np.testing.assert_allclose(normalised[1, 2], expected, atol=1e-5)
    mean, std = patch_statistics(patches)
    np.testing.assert_allclose(normalised * std + mean, patches, atol=1e-5)


def test_the_loss_is_the_mean_over_masked_patches():
    rng = np.random.default_rng(0)
    predicted, target = rng.normal(size=(2, 2, 4, 6)).astype(np.float32)
    masked = np.array([[True, False, True, True], [False, True, True, False]])
    expected = np.mean([(predicted[i, j] - target[i, j]) ** 2 for i, j in np.argwhere(masked)])
    found = masked_loss(*map(jnp.asarray, (predicted, target, masked)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_masks_are_random_and_follow_from_their_key():
    keys = jax.random.split(jax.random.key(0), 400)
    orders = np.asarray(random_orders(keys, 16))
    np.testing.assert_array_equal(np.sort(orders, 1), np.tile(np.arange(16), (400, 1)))
    np.testing.assert_array_equal(random_orders(keys[3:5], 16), orders[3:5])
    seen = np.bincount(orders[:, :4].ravel(), minlength=16) / 400
    assert (np.abs(seen - 0.25) < 0.1).all()


def test_the_gradient_reaches_every_parameter_that_the_loss_depends_on():
    graph, params = nnx.split(make(depth=1, decoder_depth=1), nnx.Param)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)

    @jax.jit
    def gradients(params):
        def loss(params):
            batch = {"image": jnp.asarray(images)}
            keys = jax.random.split(jax.random.key(0), 2)
            return nnx.merge(graph, params).losses(batch, keys)[0]["loss_pixels"]

        return jax.grad(loss)(params)

    found = nnx.to_pure_dict(gradients(params))
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(leaf).all()
        assert leaf.any(), jax.tree_util.keystr(path)
