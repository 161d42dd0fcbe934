"""What a detector's layers need, counted from its config: multiply-adds and activations by part.

As in the literature, multiply-adds are those of matrix products and convolutions, and activations
the numbers that these put out; norms, softmax and RoIAlign are left out. Nothing here imports JAX:
the report and the plans of trials count without waiting for it. A test holds the counts to the
products in the traced models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ml_collections import ConfigDict

from jaxdet.models.settings import (
    BlockSettings,
    VitSettings,
    is_backbone_frozen,
    vit_settings,
)

COCO_CLASSES = 80


@dataclass(frozen=True)
class Cost:
    """Multiply-adds and activations of one image's forward pass."""

    multiply_adds: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.multiply_adds + other.multiply_adds, self.activations + other.activations)

    def __rmul__(self, count: int) -> Cost:
        return Cost(count * self.multiply_adds, count * self.activations)


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of several costs."""
    return sum(costs, Cost())


def forward_cost(
    config: ConfigDict, num_classes: int, *, proposals: int, masks: int, own_masks: bool = False
) -> dict[str, Cost]:
    """The cost of one image's forward pass by part of the detector.

    Args:
        own_masks: whether of each RoI the mask of its own class alone is counted, which is what
            ours computes, and not those of all classes, as the papers' heads do.
        proposals: RoIs that go through each stage of the box head: `roi_batch` in training,
            `test_post_nms` in detection.
        masks: RoIs that go through the mask head: in training the foreground ones that there is
            room for, in detection the detections.
    """
    model, vit = config.model, vit_settings(config)
    stages = 1 + len(model.heads.cascade_thresholds)
    return {
        "backbone": _backbone(vit),
        "pyramid": _pyramid(model, vit.grid),
        "rpn": _rpn(model, config.image_size),
        "box_features": proposals * stages * _box_features(model),
        "box_head": proposals * stages * _box_head(model, num_classes),
        "mask_head": masks * _mask_head(model, num_classes, own_masks),
    }


def needed_flops(config: ConfigDict, num_classes: int) -> float:
    """What the layers need for one image in training, forward and backward.

    Two FLOPs a multiply-add, and the backward pass has two products for each of the forward pass;
    none in a ViT that is not trained.
    What rematerialisation, losses, norms and data movement add is left out.
    """
    detector = config.model.detector
    masks = int(detector.roi_batch * detector.roi_positive)
    rois = {"proposals": detector.roi_batch, "masks": masks}
    costs = forward_cost(config, num_classes, **rois, own_masks=True)
    forward = total(costs.values()).multiply_adds
    held = costs["backbone"].multiply_adds if is_backbone_frozen(config) else 0
    backward = 2 * (forward - held)
    return 2 * (forward + backward)


def _linear(positions: int, inputs: int, outputs: int) -> Cost:
    return Cost(positions * inputs * outputs, positions * outputs)


def _conv3x3(positions: int, inputs: int, outputs: int) -> Cost:
    return _linear(positions, 9 * inputs, outputs)


def _block(block: BlockSettings, tokens: int, keys: int, mlp_tokens: int) -> Cost:
    """A transformer block whose tokens attend to `keys` others each."""
    width, heads, hidden = block.width, block.heads, block.hidden
    return (
        _linear(tokens, width, 3 * width)
        + Cost(tokens * keys * width, tokens * keys * heads)  # queries with keys
        + Cost(tokens * keys * width, tokens * width)  # weights with values
        + _linear(tokens, width, width)
        + _linear(mlp_tokens, width, 2 * hidden if block.activation == "swiglu" else hidden)
        + _linear(mlp_tokens, hidden, width)
    )


def _backbone(vit: VitSettings) -> Cost:
    cost = _linear(vit.grid**2, 3 * vit.patch**2, vit.width)
    for block in range(vit.depth):
        # Windows that reach beyond the map are padded to their full size.
        side, prefix = vit.attended_side(block), vit.attended_prefix(block)
        shift = side // 2 if block in vit.shifted_blocks else 0
        windows, keys = math.ceil((vit.grid + shift) / side) ** 2, side**2 + prefix
        cost += _block(vit, windows * keys, keys, vit.grid**2 + prefix)
        if vit.relative_position == "decomposed":
            # Each query of the map with a vector for each row and each column of keys.
            queries = windows * side**2
            cost += Cost(queries * 2 * side * vit.width, queries * 2 * side * vit.heads)
    return cost + len(vit.conv_blocks) * _conv_residual(vit)


def _conv_residual(vit: VitSettings) -> Cost:
    """The convolutions behind a block."""
    cells, width = vit.grid**2, vit.width
    if vit.conv_kind != "bottleneck":
        return (2 if vit.conv_kind == "basic" else 1) * _conv3x3(cells, width, width)
    inner = width // 2
    return (
        _linear(cells, width, inner) + _conv3x3(cells, inner, inner) + _linear(cells, inner, width)
    )


def _pyramid(model: ConfigDict, grid: int) -> Cost:
    width, channels, kind = model.vit.width, model.pyramid.channels, model.pyramid.kind

    def level(side: int, inputs: int) -> Cost:
        return _linear(side**2, inputs, channels) + _conv3x3(side**2, channels, channels)

    def upsample(side: int, inputs: int, outputs: int) -> Cost:
        """A 2 x 2 transposed convolution, which makes four positions of each."""
        return _linear(side**2, inputs, 4 * outputs)

    if kind == "single":
        return level(grid, width)
    half, quarter = (width // 2, width // 4) if kind == "simple" else (width, width)
    return (
        upsample(grid, width, half)
        + upsample(2 * grid, half, quarter)
        + level(4 * grid, quarter)
        + upsample(grid, width, half)
        + level(2 * grid, half)
        + level(grid, width)
        + level(grid // 2, width)
    )


def _rpn(model: ConfigDict, image_size: int) -> Cost:
    channels, detector = model.pyramid.channels, model.detector
    # A size a level, or all of them on the only one.
    anchors = len(detector.aspect_ratios) * len(detector.anchor_sizes) // len(detector.strides)
    return total(
        model.heads.rpn_convs * _conv3x3(cells, channels, channels)
        + _linear(cells, channels, 5 * anchors)
        for cells in (math.ceil(image_size / stride) ** 2 for stride in detector.strides)
    )


def _box_features(model: ConfigDict) -> Cost:
    """What an RoI's features cost beside RoIAlign."""
    if model.heads.box_features != "modulated":
        return Cost()
    return _linear(model.detector.box_roi_size**2, model.pyramid.channels, model.vit.width)


def _box_head(model: ConfigDict, num_classes: int) -> Cost:
    heads, cells = model.heads, model.detector.box_roi_size**2
    inputs = model.pyramid.channels if heads.box_features == "pyramid" else model.vit.width
    outputs = num_classes + 1 + 4 * (1 if heads.class_agnostic_boxes else num_classes)
    if heads.box == "decoder":
        decoder = model.decoder
        settings = BlockSettings(width=decoder.width, heads=decoder.heads)
        block = _block(settings, cells, cells, cells)
        cost = _linear(cells, inputs, decoder.width) + decoder.depth * block
        return cost + _linear(1, decoder.width, outputs)
    cost, channels = _convs(heads.box_convs, cells, inputs, heads.box_conv_dim)
    return (
        cost
        + _linear(1, cells * channels, heads.box_fc_dim)
        + _linear(1, heads.box_fc_dim, outputs)
    )


def _mask_head(model: ConfigDict, num_classes: int, own_masks: bool) -> Cost:
    heads, cells = model.heads, model.detector.mask_roi_size**2
    if not heads.mask:
        return Cost()
    width = heads.mask_conv_dim
    cost, channels = _convs(heads.mask_convs, cells, model.pyramid.channels, width)
    cost += _linear(cells, channels, 4 * width)
    if not own_masks:
        return cost + _linear(4 * cells, width, num_classes)
    # The class's weights and its bias are looked up by products with ones and zeros.
    return cost + _linear(1, num_classes, width + 1) + _linear(4 * cells, width, 1)


def _convs(count: int, positions: int, inputs: int, width: int) -> tuple[Cost, int]:
    """3 x 3 convolutions one after the other, and the channels they end with."""
    if count == 0:
        return Cost(), inputs
    rest = (count - 1) * _conv3x3(positions, width, width)
    return _conv3x3(positions, inputs, width) + rest, width
