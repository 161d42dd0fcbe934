"""What a detector costs by its structure alone: multiply-adds and activations of each part.

    python -m jaxdet.benchmark.complexity configs/vitb_mae.py

prints them with the numbers of parameters as Markdown tables; without a name, of the files directly
in configs/.

Counted from the config, by hand: what the layers need, not what an implementation spends on them.
As in the literature, multiply-adds are those of matrix products and convolutions, and activations
the numbers that these put out; norms, softmax and RoIAlign are left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.flags import load_config

PARTS = ("backbone", "pyramid", "rpn", "box_features", "box_head", "mask_head")

TABLE_5 = {"vitb": (116, 853), "vitl": (339, 1907)}
"""Parameters in 10^6 and multiply-adds in 10^9 that arXiv 2111.11429 states for a backbone in its
Table 5, by the start of the configs' names; recalled, not read again."""

TABLE_5_NOTE = """\
The published numbers (means over images) are recalled, not read again. Multiply-adds are 839.0 +
0.53 n (ViT-B) and 1893.8 + 0.53 n (ViT-L) for n detections; the paper's n is not known: 26 is what
gives ViT-B's 853, and with it ViT-L's comes within 0.6. Position tables are counted at the 14 x 14
of the pre-training and resized when used; stored at 64 x 64 they would add 3.0 and 4.0 million
parameters."""

COCO_CLASSES, SHAPES_CLASSES = 80, 4


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
    grid, width = config.image_size // vit.patch, vit.width
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
    grid = config.image_size // config.model.vit.patch

    def level(side: int, inputs: int) -> list[Cost]:
        return [_linear(side**2, inputs, channels), _linear(side**2, 9 * channels, channels)]

    if config.model.pyramid.kind == "single":
        return total(level(grid, width))
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
        layers += level(side, inputs)
    return total(layers)


def _rpn(config: ConfigDict) -> Cost:
    channels, detector = config.model.pyramid.channels, config.model.detector
    # A size a level, or all of them on the only one.
    anchors = len(detector.aspect_ratios) * len(detector.anchor_sizes) // len(detector.strides)
    layers = []
    for stride in detector.strides:
        cells = (config.image_size // stride) ** 2
        hidden = _linear(cells, 9 * channels, channels)
        outputs = _linear(cells, channels, 5 * anchors)
        layers += [_times(config.model.heads.rpn_convs, hidden), outputs]
    return total(layers)


def parameters_by_part(config: ConfigDict, num_classes: int) -> dict[str, int]:
    """How many numbers each part of the detector learns; nothing is computed."""
    # Imported late: counting multiply-adds does without jax, which takes seconds.
    from jaxdet.models.build import StatelessModel, build_detector, parameter_count

    params, _ = StatelessModel(lambda rngs: build_detector(config, num_classes, rngs)).abstract
    return {part: parameter_count(params.get(part, {})) for part in PARTS}


class Complexity(NamedTuple):
    """Of one config, by part: what is learned, and what the detection of an image takes."""

    parameters: dict[str, int]
    costs: dict[str, Cost]


def complexity(config: ConfigDict, detections: int) -> Complexity:
    """The complexity of a config for images on which it detects so many objects.

    The number of classes is that of COCO, or of the built-in shapes for configs on those.
    """
    classes = SHAPES_CLASSES if config.data.name == "shapes" else COCO_CLASSES
    detector = config.model.detector
    costs = forward_cost(
        config,
        classes,
        proposals=detector.test_post_nms,
        masks=min(detections, detector.detections),
    )
    return Complexity(parameters_by_part(config, classes), costs)


def markdown(found: dict[str, Complexity], detections: int) -> str:
    """Tables of parameters, multiply-adds and activations by config and part, and beside the
    published numbers where there are some.
    """
    tables = [
        _table(
            "Parameters in 10^6",
            {
                name: {part: n / 1e6 for part, n in c.parameters.items()}
                for name, c in found.items()
            },
        ),
        _table(
            "Multiply-adds of an image's forward pass in 10^9",
            {
                name: {part: cost.multiply_adds / 1e9 for part, cost in c.costs.items()}
                for name, c in found.items()
            },
        ),
        _table(
            "Activations of an image's forward pass in 10^6",
            {
                name: {part: cost.activations / 1e6 for part, cost in c.costs.items()}
                for name, c in found.items()
            },
        ),
    ]
    compared = [
        f"| {name} | {sum(c.parameters.values()) / 1e6:.2f} | {published[0]} "
        f"| {total(c.costs.values()).multiply_adds / 1e9:.1f} | {published[1]} |"
        for name, c in found.items()
        for start, published in TABLE_5.items()
        if name.startswith(f"{start}_")
    ]
    if compared:
        head = "| config | parameters, 10^6 | published | multiply-adds, 10^9 | published |"
        tables.append(
            "\n".join(
                [
                    f"## Beside Table 5 of arXiv 2111.11429 ({detections} detections an image)",
                    "",
                    head,
                    "| --- | ---: | ---: | ---: | ---: |",
                    *compared,
                    "",
                    TABLE_5_NOTE.replace("\n", " "),
                ]
            )
        )
    return "\n\n".join(tables)


def _table(title: str, rows: dict[str, dict[str, float]]) -> str:
    lines = [
        f"| {name} | "
        + " | ".join(f"{value:.2f}" for value in (*values.values(), sum(values.values())))
        + " |"
        for name, values in rows.items()
    ]
    head = ["config", *(part.replace("_", " ") for part in PARTS), "total"]
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(
        [f"## {title}", "", f"| {' | '.join(head)} |", f"| {' | '.join(rule)} |", *lines]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", type=Path, nargs="*", help="default: configs/*.py")
    parser.add_argument("--detections", type=int, default=26, help="on an image (default: 26)")
    options = parser.parse_args(arguments)
    paths = options.configs or sorted(Path("configs").glob("*.py"))
    found = {}
    try:
        if not paths:
            raise UserError(
                "there is no config in configs/; name some, or go to the clone's folder"
            )
        for path in paths:
            config = load_config(path)
            config.init = None  # what it starts from costs nothing
            check(config)
            found[path.stem] = complexity(config, options.detections)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(found, options.detections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
