"""What a detector costs by its structure alone: multiply-adds and activations of each part.

Counted from the config, by hand: what the layers need, not what an implementation spends on them.
As in the literature, multiply-adds are those of matrix products and convolutions, and activations
the numbers that these put out; norms, softmax and RoIAlign are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from ml_collections import ConfigDict


class Cost(NamedTuple):
    """Multiply-adds and activations of one image's forward pass."""

    multiply_adds: int = 0
    activations: int = 0


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of several costs."""
    costs = list(costs)
    return Cost(sum(c.multiply_adds for c in costs), sum(c.activations for c in costs))


def forward_cost(
    config: ConfigDict, num_classes: int, *, proposals: int, masks: int
) -> dict[str, Cost]:
    """The cost of one image's forward pass by part of the detector.

    Args:
        proposals: RoIs that go through the box head: `roi_batch` in training, `test_post_nms` in
            detection.
        masks: RoIs that go through the mask head: in training the foreground ones that there is
            room for, in detection the detections.
    """
    heads, detector, channels = (
        config.model.heads,
        config.model.detector,
        config.model.pyramid.channels,
    )
    mask_size = detector.mask_roi_size
    mask_hidden, mask_channels = _hidden_convs(
        heads.mask_convs, channels, heads.mask_conv_dim, mask_size
    )
    mask = [
        *mask_hidden,
        _linear(mask_size**2, mask_channels, 4 * heads.mask_conv_dim),
        _linear(4 * mask_size**2, heads.mask_conv_dim, num_classes),
    ]
    return {
        "backbone": _backbone(config),
        "pyramid": _pyramid(config),
        "rpn": _rpn(config),
        **_box(config, num_classes, proposals),
        "mask_head": _times(masks if heads.mask else 0, total(mask)),
    }


def _box(config: ConfigDict, num_classes: int, proposals: int) -> dict[str, Cost]:
    """The box head, and what its features cost beside RoIAlign."""
    heads, channels, width = (
        config.model.heads,
        config.model.pyramid.channels,
        config.model.vit.width,
    )
    size = config.model.detector.box_roi_size
    inputs = channels if heads.box_features == "pyramid" else width
    is_modulated = heads.box_features == "modulated"
    features = _linear(size**2, channels, width) if is_modulated else Cost()
    if heads.box == "decoder":
        decoder = config.model.decoder
        layers = [_linear(size**2, inputs, decoder.width)]
        layers += decoder.depth * _block(size**2, size**2, decoder.width, decoder.heads, 4.0)
        outputs = _linear(1, decoder.width, 5 * num_classes + 1)
    else:
        layers, last = _hidden_convs(heads.box_convs, inputs, heads.box_conv_dim, size)
        layers += [_linear(1, size**2 * last, heads.box_fc_dim)]
        outputs = _linear(1, heads.box_fc_dim, 5 * num_classes + 1)
    return {
        "box_features": _times(proposals, features),
        "box_head": _times(proposals, total([*layers, outputs])),
    }


def _linear(positions: int, inputs: int, outputs: int) -> Cost:
    return Cost(positions * inputs * outputs, positions * outputs)


def _times(count: int, cost: Cost) -> Cost:
    return Cost(count * cost.multiply_adds, count * cost.activations)


def _hidden_convs(count: int, inputs: int, width: int, size: int) -> tuple[list[Cost], int]:
    """3 x 3 convolutions on a map of size x size, and the channels they end with."""
    layers = [_linear(size**2, 9 * (width if i else inputs), width) for i in range(count)]
    return layers, width if count else inputs


def _backbone(config: ConfigDict) -> Cost:
    vit = config.model.vit
    grid, width = config.canvas // vit.patch, vit.width
    layers = [_linear(grid**2, 3 * vit.patch**2, width)]
    for block in range(vit.depth):
        # Windows that reach beyond the map are padded to their full size.
        side = grid if block in vit.global_blocks else vit.window
        extra = int(vit.class_token)
        tokens = (math.ceil(grid / side) * side) ** 2 + extra
        layers += _block(
            tokens,
            side**2 + extra,
            width,
            vit.heads,
            vit.mlp_ratio,
            mlp_tokens=grid**2 + extra,
        )
        if vit.relative_position == "decomposed":
            # Each query with a vector for each row and each column of keys.
            layers.append(Cost(tokens * 2 * side * width, tokens * 2 * side * vit.heads))
    return total(layers)


def _block(
    tokens: int, keys: int, width: int, heads: int, mlp_ratio: float, mlp_tokens: int | None = None
) -> list[Cost]:
    """A transformer block whose tokens attend to so many keys each."""
    mlp_tokens, hidden = mlp_tokens or tokens, int(width * mlp_ratio)
    return [
        _linear(tokens, width, 3 * width),
        # Queries with keys, then weights with values.
        Cost(tokens * keys * width, tokens * keys * heads),
        Cost(tokens * keys * width, tokens * width),
        _linear(tokens, width, width),
        _linear(mlp_tokens, width, hidden),
        _linear(mlp_tokens, hidden, width),
    ]


def _pyramid(config: ConfigDict) -> Cost:
    width, channels = config.model.vit.width, config.model.pyramid.channels
    grid = config.canvas // config.model.vit.patch
    if config.model.pyramid.kind in ("fpn", "imted"):
        finest, finer = (width, width, width), (width, width)
    else:
        finest, finer = (width, width // 2, width // 4), (width, width // 2)
    layers = [
        # A 2 x 2 transposed convolution makes four positions of each.
        _linear(grid**2, finest[0], 4 * finest[1]),
        _linear((2 * grid) ** 2, finest[1], 4 * finest[2]),
        _linear(grid**2, finer[0], 4 * finer[1]),
    ]
    for side, inputs in (
        (4 * grid, finest[2]),
        (2 * grid, finer[1]),
        (grid, width),
        (grid // 2, width),
    ):
        layers += [_linear(side**2, inputs, channels), _linear(side**2, 9 * channels, channels)]
    return total(layers)


def _rpn(config: ConfigDict) -> Cost:
    channels, detector = config.model.pyramid.channels, config.model.detector
    layers = []
    for stride in detector.strides:
        cells = (config.canvas // stride) ** 2
        hidden = _linear(cells, 9 * channels, channels)
        outputs = _linear(cells, channels, 5 * len(detector.aspect_ratios))
        layers += [_times(config.model.heads.rpn_convs, hidden), outputs]
    return total(layers)
