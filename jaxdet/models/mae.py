"""Masked autoencoding: a ViT that sees a few patches, and a decoder that predicts the others.

Defined by arXiv 2111.06377 (MAE) and, where it leaves things open, by its code. The encoder is the
detectors' own ViT, all of whose blocks attend globally; it has a class token and a position
embedding of sines and cosines that is not trained, as the decoder has. Weights start as the
detectors' do, where MAE's code samples them by Xavier's rule.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8

from jaxdet.models.block import plain_blocks
from jaxdet.models.layers import LayerNorm, normal
from jaxdet.models.position import sincos_embedding
from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT, patchify

FROZEN = (r"(encoder|decoder)\.(class_)?pos_embed",)
"""Parameters that are not trained."""


class Decoder(nnx.Module):
    """Encoded patches, and a learned token for each of the others, to pixels.

    Args:
        inputs: width of the encoder.
        width, depth, heads: size of the decoder.
        grid: side of the map of patches.
        outputs: pixel values in a patch.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        heads: int,
        grid: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        linear = {"kernel_init": nnx.initializers.glorot_uniform(), "dtype": dtype, "rngs": rngs}
        self.embed = nnx.Linear(inputs, width, **linear)
        self.mask_token = nnx.Param(normal(0.02)(rngs.params(), (width,)))
        self.pos_embed = nnx.Param(jnp.asarray(sincos_embedding(grid, width)))
        self.blocks = plain_blocks(width, depth, heads, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.predict = nnx.Linear(width, outputs, **linear)

    def __call__(
        self, x: Float[Array, "n 1 tokens inputs"], order: Int[Array, "n patches"]
    ) -> Float[Array, "n patches outputs"]:
        """Predicted pixels of every patch, in float32.

        Args:
            x: what the encoder made of the class token and of the first patches of `order`.
            order: see `MAE`.
        """
        x = self.embed(x)[:, 0]
        class_token, seen = x[:, :1], x[:, 1:]
        n, patches = order.shape
        hidden = jnp.broadcast_to(
            self.mask_token[...].astype(x.dtype), (n, patches - seen.shape[1], x.shape[-1])
        )
        tokens = _pick(jnp.concatenate([seen, hidden], 1), jnp.argsort(order, 1))
        tokens += self.pos_embed[...].reshape(patches, -1).astype(x.dtype)
        x = jnp.concatenate([class_token, tokens], 1)[:, None]
        for block in self.blocks:
            x = block(x)
        return self.predict(self.norm(x))[:, 0, 1:].astype(jnp.float32)


class MAE(nnx.Module):
    """Encoder and decoder, with the loss that trains them.

    An order of an image's patches, as positions in the map's row-major order, says which are seen:
    the first ones are, the others are masked.

    Args:
        image_size: side of the (square) images in pixels.
        vit: width, depth, heads, mlp_ratio and patch of the encoder.
        decoder: width, depth and heads.
        mask_ratio: share of the patches that is masked.
        pixel_mean, pixel_std: normalisation of the images, per channel.
    """

    def __init__(
        self,
        *,
        image_size: int,
        vit: dict[str, int | float],
        decoder: dict[str, int],
        mask_ratio: float,
        pixel_mean: tuple[float, float, float],
        pixel_std: tuple[float, float, float],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        depth, patch = vit["depth"], vit["patch"]
        grid = image_size // patch
        settings = VitSettings(
            **vit,
            image_size=image_size,
            pretrain_grid=grid,
            window=grid,
            global_blocks=tuple(range(depth)),
            out_indices=(depth - 1,),
            relative_position="none",
            absolute_position="sincos",
            class_token=True,
        )
        self.encoder = ViT(settings, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(vit["width"], dtype=dtype, rngs=rngs)
        self.decoder = Decoder(
            vit["width"], 3 * patch * patch, **decoder, grid=grid, dtype=dtype, rngs=rngs
        )
        self.patches = grid * grid
        self.visible = int(self.patches * (1 - mask_ratio))
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std

    def losses(
        self, batch: dict[str, Array], keys: Key[Array, " n"], microbatches: int = 1
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The loss of a batch under random masks, and nothing else worth watching.

        Args:
            batch: its "image" is uint8 [n, s, s, 3].
            keys: one an image.
            microbatches: has no meaning, as nothing here reaches from one image to another.
        """
        images = self.normalise(batch["image"])
        order = random_orders(keys, self.patches)
        predicted = self(images, order)
        target = normalised_patches(images, self.encoder.patch)
        return {"loss_pixels": masked_loss(predicted, target, self.is_masked(order))}, {}

    def __call__(
        self, images: Float[Array, "n s s 3"], order: Int[Array, "n patches"]
    ) -> Float[Array, "n patches pixels"]:
        """Pixels of every patch as the decoder predicts them, see `normalised_patches`."""
        return self.decoder(self.norm(self.encode(images, order[:, : self.visible])), order)

    def encode(
        self, images: Float[Array, "n s s 3"], seen: Int[Array, "n visible"]
    ) -> Float[Array, "n 1 1+visible width"]:
        """The class token and the patches at the given positions after the last block."""
        x = self.encoder.embed(images)
        x = jnp.concatenate([x[:, :, :1], _pick(x[:, 0, 1:], seen)[:, None]], 2)
        for block in self.encoder.blocks:
            x = block(x)
        return x

    def normalise(self, images: UInt8[Array, "n s s 3"]) -> Float[Array, "n s s 3"]:
        """Pixels to about zero mean and unit variance."""
        return (images - jnp.array(self.pixel_mean)) / jnp.array(self.pixel_std)

    def to_pixels(self, images: Float[Array, "n s s 3"]) -> Float[Array, "n s s 3"]:
        """Undoes `normalise`, without rounding."""
        return images * jnp.array(self.pixel_std) + jnp.array(self.pixel_mean)

    def is_masked(self, order: Int[Array, "n patches"]) -> Bool[Array, "n patches"]:
        """Which patches the encoder does not see."""
        return jnp.argsort(order, 1) >= self.visible


def random_orders(keys: Key[Array, " n"], patches: int) -> Int[Array, "n patches"]:
    """An order of the patches for each key, every one as likely as any other."""
    return jax.vmap(lambda key: jax.random.permutation(key, patches))(keys)


def normalised_patches(
    images: Float[Array, "n s s 3"], patch: int
) -> Float[Array, "n patches pixels"]:
    """Every patch without its own mean and contrast."""
    x = patchify(images, patch)
    x = x.reshape(len(images), -1, x.shape[-1])
    mean, std = patch_statistics(x)
    return (x - mean) / std


def patch_statistics(
    patches: Float[Array, "n patches pixels"],
) -> tuple[Float[Array, "n patches 1"], Float[Array, "n patches 1"]]:
    """Mean and (unbiased) standard deviation over all values of each patch."""
    variance = patches.var(-1, ddof=1, keepdims=True)
    return patches.mean(-1, keepdims=True), jnp.sqrt(variance + 1e-6)


def unpatchify(patches: Shaped[Array, "n patches pixels"], patch: int) -> Shaped[Array, "n s s 3"]:
    """Puts the patches of square images together again."""
    n, count, _ = patches.shape
    side = math.isqrt(count)
    x = patches.reshape(n, side, side, patch, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, side * patch, side * patch, -1)


def masked_loss(
    predicted: Float[Array, "n patches pixels"],
    target: Float[Array, "n patches pixels"],
    masked: Bool[Array, "n patches"],
) -> Float[Array, ""]:
    """Mean squared error of the masked patches' pixels."""
    errors = jnp.square(predicted - target).mean(-1)
    return jnp.where(masked, errors, 0).sum() / masked.sum()


def _pick(x: Float[Array, "n tokens c"], positions: Int[Array, "n picked"]) -> Array:
    return jnp.take_along_axis(x, positions[..., None], 1)
