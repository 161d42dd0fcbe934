"""A detector's attention weights and feature pyramid, as arrays and as drawings.

    weights = attention_weights(detector, "street.jpg", block=0)
    heads = attention_map(weights, grid=(8, 8), window=4, query=(3, 5))
    pixels = detector.prepare("street.jpg")["image"][0]
    draw_attention(pixels, heads.mean(axis=0), window=4, query=(3, 5))

notebooks/explore.ipynb shows it on the built-in shapes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from jaxdet.data.image import Source
from jaxdet.data.loader import Batch
from jaxdet.inference.detector import Detector
from jaxdet.models.build import StatelessModel, Tree

ATTENTION_COLOUR = (255, 190, 30)
QUERY_COLOUR = (230, 57, 70)
GRID_COLOUR = (255, 255, 255)


def feature_pyramid(detector: Detector, image: Source) -> list[Float[np.ndarray, "h w channels"]]:
    """P2 ... P6 of an image as `Detector.prepare` gives it."""
    batch = detector.prepare(image)
    maps = _pyramid(detector.stateless, *_on_one_device(detector), batch)
    return [np.asarray(level[0], np.float32) for level in maps]


def attention_weights(
    detector: Detector, image: Source, block: int
) -> Float[np.ndarray, "windows heads tokens tokens"]:
    """The attention weights of a block: each token's (third axis) of every token (last axis).

    Args:
        block: 0-based position; its windows come row by row.
    """
    batch = detector.prepare(image)
    return np.asarray(_weights(detector.stateless, *_on_one_device(detector), batch, block))


def attention_of(
    detector: Detector, image: Source, query: tuple[int, int]
) -> list[Float[np.ndarray, "heads h w"]]:
    """What one token attends to in every block, as maps of tokens, see `attention_map`.

    One program for all blocks and tokens: no block's weights lie in memory longer than it is
    computed.

    Args:
        query: row and column of the token that attends.
    """
    vit, batch = detector.config.model.vit, detector.prepare(image)
    grid = grid_of(vit, batch["image"][0])
    rows = _rows(detector.stateless, *_on_one_device(detector), batch, query)
    return [
        _on_map(np.asarray(row), grid, *windows_of(vit, block), query)
        for block, row in enumerate(rows)
    ]


def grid_of(vit: ConfigDict, pixels: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """Height and width in tokens of an image as the model takes it, which need not be a square."""
    height, width = pixels.shape[:2]
    return height // vit.patch, width // vit.patch


def windows_of(vit: ConfigDict, block: int) -> tuple[int | None, int]:
    """Side and shift of a block's windows, in tokens; None for a global block."""
    window = None if block in vit.global_blocks else vit.window
    return window, vit.window // 2 if block in vit.shifted_blocks else 0


def _on_one_device(detector: Detector) -> tuple[Tree, Tree]:
    """Parameters and batch statistics where a single image is computed: a kernel of our own, as a
    TPU's attention is, cannot be split by the compiler."""
    return jax.device_put((detector.params, detector.stats), jax.local_devices()[0])


@partial(jax.jit, static_argnums=0)
def _pyramid(stateless: StatelessModel, params: Tree, stats: Tree, batch: Batch) -> list[jax.Array]:
    model = stateless.bind(params, stats)
    return model.features(batch["image"], batch["image_hw"]).pyramid


@partial(jax.jit, static_argnums=(0, 4))
def _weights(
    stateless: StatelessModel, params: Tree, stats: Tree, batch: Batch, block: int
) -> jax.Array:
    model = stateless.bind(params, stats)
    images = model.normalise(batch["image"], batch["image_hw"])
    model.backbone.blocks[block].attn.record_weights = True
    _, recorded = nnx.capture(model.backbone, nnx.Intermediate)(images)
    (weights,) = recorded["blocks"][block]["attn"]["weights"].get_value()
    return weights


@partial(jax.jit, static_argnums=0)
def _rows(
    stateless: StatelessModel, params: Tree, stats: Tree, batch: Batch, query: tuple[int, int]
) -> list[jax.Array]:
    """A token's weights of each block, [heads, tokens of the map or of its window]."""
    model = stateless.bind(params, stats)
    images = model.normalise(batch["image"], batch["image_hw"])
    blocks, patch = model.backbone.blocks, model.backbone.patch
    grid = images.shape[1] // patch, images.shape[2] // patch
    for block in blocks:
        block.attn.record_weights = True
    _, recorded = nnx.capture(model.backbone, nnx.Intermediate)(images)
    rows = []
    for i, block in enumerate(blocks):
        (weights,) = recorded["blocks"][i]["attn"]["weights"].get_value()
        rows.append(_row(weights, grid, block.window, block.shift, query))
    return rows


def _row(
    weights: Any, grid: tuple[int, int], window: int | None, shift: int, query: tuple[Any, Any]
) -> Any:
    """A token's weights, [heads, tokens of the map or of its window], of all of an image.

    Class token and registers, which come first in each window and have no place, are left out.
    """
    extra = weights.shape[-1] - (grid[0] * grid[1] if window is None else window**2)
    where, token = _position(grid, window, shift, query)
    return weights[where, :, extra + token, extra:]


def _position(
    grid: tuple[int, int], window: int | None, shift: int, query: tuple[Any, Any]
) -> tuple[Any, Any]:
    """Which window a token lies in, and where in it."""
    if window is None:
        return 0, query[0] * grid[1] + query[1]
    row, column = query[0] + shift, query[1] + shift
    per_row = -(-(grid[1] + shift) // window)
    return row // window * per_row + column // window, row % window * window + column % window


def _on_map(
    row: Float[np.ndarray, "heads tokens"],
    grid: tuple[int, int],
    window: int | None,
    shift: int,
    query: tuple[int, int],
) -> Float[np.ndarray, "heads h w"]:
    """A token's weights where the tokens lie that it attends to."""
    height, width = grid
    if window is None:
        return row.reshape(-1, height, width)
    attention = np.zeros((len(row), height + shift, width + shift), row.dtype)
    top, left = ((place + shift) // window * window for place in query)
    part = attention[:, top : top + window, left : left + window]
    part[:] = row.reshape(-1, window, window)[:, : part.shape[1], : part.shape[2]]
    return attention[:, shift:, shift:]


def attention_map(
    weights: Float[np.ndarray, "windows heads tokens tokens"],
    grid: tuple[int, int],
    window: int | None,
    query: tuple[int, int],
    shift: int = 0,
) -> Float[np.ndarray, "heads h w"]:
    """What one token attends to, as a map of tokens.

    Its attention to class token, registers or a window's padding is not on the map.

    Args:
        weights: of one image.
        grid: height and width of the map in tokens.
        window: side of the windows in tokens; None for a global block.
        query: row and column of the token that attends.
        shift: of the windows, see `partition_windows`.
    """
    return _on_map(_row(weights, grid, window, shift, query), grid, window, shift, query)


def draw_attention(
    pixels: UInt8[np.ndarray, "h w 3"],
    attention: Float[np.ndarray, "rows columns"],
    window: int | None,
    query: tuple[int, int],
    *,
    side: int = 480,
    shift: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """Attention as a glow on the image, in full where it is strongest; the token that attends is
    framed, and white lines run between the windows.

    Args:
        pixels: the image as the model takes it.
        attention: of one head, or the mean over heads.
        window, query, shift: as in `attention_map`.
        side: the drawing's longer side, in pixels.
    """
    scale = side / max(pixels.shape[:2])
    height, width = (max(1, round(scale * length)) for length in pixels.shape[:2])
    image = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    share = np.float32(attention / max(attention.max(), 1e-12))
    glow = np.asarray(Image.fromarray(share).resize((width, height), Image.Resampling.NEAREST))
    glow = 0.8 * glow[..., None]
    drawn = Image.fromarray(np.uint8(np.round(0.6 * image * (1 - glow) + glow * ATTENTION_COLOUR)))
    draw = ImageDraw.Draw(drawn)
    token_h, token_w = height / attention.shape[0], width / attention.shape[1]
    if window is not None:
        for y in np.arange(window - shift, attention.shape[0], window) * token_h:
            draw.line((0, y, width, y), GRID_COLOUR, 2)
        for x in np.arange(window - shift, attention.shape[1], window) * token_w:
            draw.line((x, 0, x, height), GRID_COLOUR, 2)
    top, left = query[0] * token_h, query[1] * token_w
    draw.rectangle(
        (left, top, left + token_w - 1, top + token_h - 1), outline=QUERY_COLOUR, width=3
    )
    return np.asarray(drawn)


def draw_features(
    features: Float[np.ndarray, "h w channels"], *, side: int = 240
) -> UInt8[np.ndarray, "height width 3"]:
    """A map's first three principal components as red, green and blue, each over its range.

    Args:
        side: of the drawing's longer side, in pixels; every position becomes a rectangle.
    """
    height, width, channels = features.shape
    flat = features.reshape(-1, channels).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    _, axes = np.linalg.eigh(flat.T @ flat)
    axes = axes[:, ::-1][:, :3]
    # An axis may point either way; its largest part shall be positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    components = np.zeros((len(flat), 3))
    components[:, : axes.shape[1]] = flat @ axes
    low, high = components.min(axis=0), components.max(axis=0)
    colours = np.uint8(np.round(255 * (components - low) / np.maximum(high - low, 1e-12)))
    scale = side / max(height, width)
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    image = Image.fromarray(colours.reshape(height, width, 3))
    return np.asarray(image.resize(size, Image.Resampling.NEAREST))
