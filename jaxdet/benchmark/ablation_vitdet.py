"""The rows of ViTDet's tables (arXiv 2203.16527) of backbones and pyramids, and what they cost.

All are without relative positions, as in the paper's section 4.1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdet.benchmark.complexity import Complexity, complexity
from jaxdet.benchmark.cost.analytic import total
from jaxdet.config.mask_rcnn import quarter_ends

NO_POSITION = {"model.vit.relative_position": "none"}
GLOBAL, CONV, SHIFTED = (f"model.vit.{key}_blocks" for key in ("global", "conv", "shifted"))
CONV_KIND = "model.vit.conv_kind"
KINDS = ("naive", "basic", "bottleneck")


class Variant(NamedTuple):
    """A row of a table: its text, a short name, and the keys of the config that make it."""

    text: str
    name: str
    overrides: dict[str, Any]


def pyramids(config: ConfigDict) -> list[Variant]:
    """Table 1: what the maps of several scales are made from."""
    depth, stride = config.model.vit.depth, (config.model.vit.patch,)
    kind, norm = "model.pyramid.kind", {"model.pyramid.norm": "layer"}
    four = {kind: "fpn", "model.vit.out_indices": quarter_ends(depth)}
    rows = [
        ("no pyramid", "single", {kind: "single", "model.detector.strides": stride, **norm}),
        ("FPN of four stages", "fpn", {**four, **norm}),
        ("FPN of the last map", "fpnlast", {kind: "fpn_last", **norm}),
        ("simple pyramid", "norel", {}),
    ]
    return [Variant(text, name, {**NO_POSITION, **overrides}) for text, name, overrides in rows]


def propagation(config: ConfigDict) -> list[Variant]:
    """Tables 2 and 8: how windows learn of each other, by what, where and how often."""
    depth = config.model.vit.depth
    ends = quarter_ends(depth)
    convolutions = [
        (f"4 {kind} convolution blocks", f"conv{kind}", {GLOBAL: (), CONV: ends, CONV_KIND: kind})
        for kind in KINDS
    ]
    every = {GLOBAL: tuple(range(depth)), "model.vit.remat": "block"}
    rows = [
        ("none", "windowed", {GLOBAL: ()}),
        ("4 global blocks", "norel", {}),
        ("shifted windows", "shifted", {GLOBAL: (), SHIFTED: tuple(range(1, depth, 2))}),
        *convolutions,
        ("first 4 blocks global", "first4", {GLOBAL: tuple(range(4))}),
        ("last 4 blocks global", "last4", {GLOBAL: tuple(range(depth - 4, depth))}),
        ("2 global blocks", "two", {GLOBAL: (ends[1], ends[3])}),
        (f"{depth} global blocks, rematerialised", "global", every),
    ]
    return [Variant(text, name, {**NO_POSITION, **overrides}) for text, name, overrides in rows]


class PublishedCost(NamedTuple):
    """What Table 3 states: parameters, memory of training and time of detection, each over that of
    windows alone."""

    parameters: float
    memory: float
    time: float


TABLE_3 = {
    "windowed": PublishedCost(1.0, 1.0, 1.0),
    "convbottleneck": PublishedCost(1.04, 1.05, 1.04),
    "norel": PublishedCost(1.0, 1.39, 1.16),
    "global": PublishedCost(1.0, 3.34, 1.86),
}
"""Of ViT-L, by the name of a row of `propagation`; windows alone have 331 M parameters, and took
14.6 GB and 88 ms on an A100."""


def cost_table(config: ConfigDict, detections: int = 26) -> str:
    """Table 3 in Markdown: what our models need by their structure, beside what the paper measured.

    Args:
        config: what the rows start from.
        detections: on an image.
    """
    rows = {}
    for variant in propagation(config):
        if variant.name in TABLE_3:
            changed = config.copy_and_resolve_references()
            changed.update_from_flattened_dict(variant.overrides)
            rows[variant.name] = (variant.text, complexity(changed, detections))
    _, windowed = rows["windowed"]
    is_l = config.model.vit.width == 1024 and config.model.vit.depth == 24
    lines = [
        "| vitdet-cost | parameters, 10^6 | over none | published "
        "| multiply-adds, 10^9 | over none | time, published "
        "| activations, 10^6 | over none | memory, published |",
        f"| --- |{' ---: |' * 9}",
    ]
    for name, (text, found) in rows.items():
        cells = []
        published = TABLE_3[name] if is_l else None
        for of, stated in (
            (_parameters, published and published.parameters),
            (_multiply_adds, published and published.time),
            (_activations, published and published.memory),
        ):
            ratio = of(found) / of(windowed)
            cells += [f"{of(found):.1f}", f"{ratio:.2f}", f"{stated:.2f}" if stated else "-"]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    note = (
        "Counted from the structure, nothing is run: `jaxdet plan` has the memory of a step. "
        "Published: arXiv 2203.16527, Table 3, ViT-L, measured on an A100 (the last row's memory "
        "is an estimate there)."
    )
    return "\n".join([*lines, "", note])


def _parameters(found: Complexity) -> float:
    return sum(found.parameters.values()) / 1e6


def _multiply_adds(found: Complexity) -> float:
    return total(found.costs.values()).multiply_adds / 1e9


def _activations(found: Complexity) -> float:
    return total(found.costs.values()).activations / 1e6
