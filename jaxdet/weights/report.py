"""What the report in a file of weights says of a ViT that was trained here, by its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxdet.config.keys import Vit
from jaxdet.config.schema import defaults, keys

STARTS = ("absolute_position", "relative_start", "pretrain_grid", "resize")
"""Keys of an initialisation that are about where a training starts, not what a ViT consists of."""

ADVICE = ("resize", "pretrain_grid", "window", "global_blocks", "out_indices")
"""Keys that suit the weights and that no config is held to."""


def held_keys(vit: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of config.model.vit that weights of this ViT are held against, by dotted name.

    Args:
        vit: of a config; keys that it lacks have their defaults.
    """
    values = {**defaults(Vit), **vit}
    names = [
        name
        for name, key in keys(Vit).items()
        if key.roles & {"size", "initialisation"} and name not in STARTS
    ]
    held = {name: values[name] for name in (*names, "mlp_ratio", "class_token")}
    held["layer_scale"] = held["layer_scale"] is not None
    if held["mlp_hidden"] is None:
        del held["mlp_hidden"]
    if held["rope"] == "none":
        del held["rope_base"]
    if held["rope"] in ("none", "dinov3"):
        del held["rope_grid"]
    return {f"model.vit.{name}": value for name, value in held.items()}


def advised_keys(vit: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of config.model.vit that suit weights of this ViT, by dotted name."""
    values = {**defaults(Vit), **vit}
    return {f"model.vit.{name}": values[name] for name in ADVICE}
