"""What a source's layout is: how it names a ViT, what it holds besides, what pixels it saw."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from checkpoints_convert.conversion_plan import ConversionPlan, Known, Options
from checkpoints_convert.tensors import State


class Pixels(NamedTuple):
    """Per channel (RGB), of pixels between 0 and 255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PIXELS = {
    "imagenet": Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "half": Pixels((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "clip": Pixels((122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)),
}
"""Normalisations by name; "half" maps pixels to [-1, 1]."""


@dataclass(frozen=True)
class Layout:
    """How one pre-training stores a ViT.

    Attributes:
        name: as given to --from.
        title: for the report.
        marks: patterns of names; a file of this layout has a tensor for each.
        by_values: recognises a file whose names are another layout's too.
        renames: (pattern, replacement) pairs, applied in order, that lead to timm's names.
        left_out: (pattern, reason) pairs on the renamed names, beyond `vit.LEFT_OUT`.
        pixels: name of the normalisation in PIXELS; None where the layout says nothing of it.
        activation: of the MLP; None where only the user knows.
        vit: keys of config.model.vit that its names do not say.
        heads: attention heads by width, of published models whose heads do not have 64 channels.
        heads_of: attention heads by the file's tensors, where these show them.
        resize: config.model.vit.resize as its authors resize the position embedding.
        excludes: patterns of names; a file of this layout has no tensor of any.
        is_fallback: whether other layouts are preferred to it.
        has_absolute_position: whether a file without an absolute embedding is incomplete.
        prepare: turns the renamed tensors into timm's where names alone do not.
        plan_detector: plans the arrays of a whole detector; None for a layout of a ViT alone.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    by_values: Callable[[State], bool] | None = None
    renames: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    pixels: str | None = "imagenet"
    activation: str | None = "gelu"
    vit: Mapping[str, Any] = field(default_factory=dict)
    heads: Mapping[int, int] = field(default_factory=dict)
    heads_of: Callable[[State], int | None] = lambda _: None
    resize: str = "bicubic"
    excludes: tuple[str, ...] = ()
    is_fallback: bool = False
    has_absolute_position: bool = True
    prepare: Callable[[State], State] | None = None
    plan_detector: Callable[[State, Options, Known], ConversionPlan] | None = None

    def recognises(self, state: State) -> bool:
        """Whether a file's tensors are of this layout."""
        if any(re.search(pattern, name) for pattern in self.excludes for name in state):
            return False
        if all(any(re.search(mark, name) for name in state) for mark in self.marks):
            return True
        return self.by_values is not None and self.by_values(state)
