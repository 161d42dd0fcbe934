"""Whether converted weights fit a config, and what of them it takes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxdet.config.old_names import renamed
from jaxdet.config.values import unknown_key, value_of
from jaxdet.errors import UserError
from jaxdet.models.paths import (
    ABSOLUTE_POSITION,
    CLASS_TOKEN,
    CONV_BLOCKS,
    DECODER,
    FINAL_NORM,
    REGISTERS,
    RELATIVE_POSITION,
)
from jaxdet.weights.file import Weights

OPTIONAL_PARTS = {
    "model.vit.class_token": CLASS_TOKEN,
    "model.vit.registers": REGISTERS,
    "model.vit.final_norm": FINAL_NORM,
}
"""What a pre-training may have and a config need not take, by the keys that say so."""


def check_fit(weights: Weights, config: ConfigDict) -> None:
    """Holds what the file's report says of the original against the config.

    Raises:
        UserError: the original is another kind of ViT, or saw pixels normalised in another way.
    """
    report = weights.report
    if report is None:
        return
    _check_keys(weights, {**report, "config": renamed(report["config"])}, config)
    _check_pixels(weights, report, config)
    expected, found = config.weights.sha256, report["source"]["sha256"]
    if expected is not None and not found.startswith(expected):
        print(
            f"warning: {weights.path} comes from {report['source']['file']} of sha256 {found}, "
            f"and config.weights.sha256 is {expected}: it is another file than the recipe's"
        )


def _check_keys(weights: Weights, report: dict[str, Any], config: ConfigDict) -> None:
    for key in report["config"]:
        strange = unknown_key(config, key)
        if strange:
            raise UserError(f"{weights.path}: {strange}; convert the original with this version")
    differing = {
        key: value
        for key, value in report["config"].items()
        if (weights.is_detector or _is_taken(config, key))
        and not _agree(value_of(config, key), value)
    }
    if differing:
        theirs = ", ".join(f"{key} {value}" for key, value in differing.items())
        ours = ", ".join(str(value_of(config, key)) for key in differing)
        raise UserError(
            f"{weights.path} ({report['layout']}, {report['source']['file']}) is made for "
            f"{theirs}; the config says {ours}: use the config of these weights, or set its keys"
        )


def _check_pixels(weights: Weights, report: dict[str, Any], config: ConfigDict) -> None:
    detector, keys = config.model.detector, ("pixel_mean", "pixel_std")
    for key in keys:
        if not np.allclose(report[key], detector[key], atol=1e-3):
            given = " ".join(
                f"--config.model.detector.{each}="
                f"'({','.join(f'{value:g}' for value in report[each])})'"
                for each in keys
            )
            raise UserError(
                f"{weights.path}: the original was trained with {key} {report[key]} and "
                f"config.model.detector.{key} is {list(detector[key])}; give {given}"
            )


def _is_taken(config: ConfigDict, key: str) -> bool:
    """Whether a config takes from a pre-training what a key of its report is about."""
    if key in OPTIONAL_PARTS:
        return bool(value_of(config, key))
    return not key.startswith("model.decoder.") or _takes_decoder(config)


def _takes_decoder(config: ConfigDict) -> bool:
    return config.model.heads.box == "decoder" and config.model.decoder.start == "pretrained"


def _agree(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, bool) and not isinstance(ours, bool):
        return (ours is not None) == theirs  # layer scale, whose value is where it would start
    return list(ours) == theirs if isinstance(theirs, list) else ours == theirs


def reinitialized(config: ConfigDict, names: Collection[str]) -> list[str]:
    """Those of some parameters that a config does not take from a pre-training."""
    vit, heads = config.model.vit, config.model.heads
    patterns = [pattern for key, pattern in OPTIONAL_PARTS.items() if not value_of(config, key)]
    patterns.append(CONV_BLOCKS)  # new in every detector
    if not _takes_decoder(config):
        patterns.append(DECODER)
    elif heads.box_features == "pyramid":
        # They are of the encoder's width, and the pyramid's is another.
        patterns.append(r"box_head\.(norm|embed)\.")
    if vit.absolute_position != "pretrained":
        patterns.append(ABSOLUTE_POSITION)
    if vit.relative_position == "none" or vit.relative_start != "pretrained":
        patterns.append(RELATIVE_POSITION)
    return [name for name in names if any(re.match(pattern, name) for pattern in patterns)]
