"""Which config keys make up a recipe, and which a run's result depends on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from jaxdet.config.roles import NEUTRAL_KEYS

FlatConfig = dict[str, Any]
"""Values by dotted key."""

SIZE_KEYS = tuple(
    f"model.{part}.{key}" for part in ("vit", "decoder") for key in ("width", "depth", "heads")
)
INITIALISATION_KEYS = (
    "initialisation",
    "model.detector.pixel_mean",
    "model.detector.pixel_std",
    "model.vit.qkv_bias",
    "model.vit.layer_scale",
    "model.vit.activation",
    "model.vit.pre_norm",
    "model.vit.absolute_position",
    "model.vit.relative_start",
    "model.vit.pretrain_grid",
    "model.decoder.pretrain_grid",
    "model.decoder.start",
)
TUNED_KEYS = ("optim.lr", "optim.weight_decay", "model.vit.drop_path", "optim.layer_decay")
RESULT_NEUTRAL_KEYS = (
    *(key.removeprefix("config.") for key in NEUTRAL_KEYS),
    "eval_every",
    "checkpoint_every",
)
"""Keys a result does not depend on, or that only say where files are."""

NOT_RECIPE_KEYS = (
    *SIZE_KEYS,
    *INITIALISATION_KEYS,
    *TUNED_KEYS,
    *RESULT_NEUTRAL_KEYS,
    "epochs",
    "seed",
    "data.shapes.val_images",
)
"""Keys, or sections of them, in which runs of one recipe may differ."""


def recipe_part(config: dict[str, Any]) -> FlatConfig:
    """The keys of a plain config that runs of one recipe agree in."""
    left_out = NOT_RECIPE_KEYS
    if config["data"]["name"] != "shapes":
        left_out = (*left_out, "data.shapes")
    return _without(config, left_out)


def result_part(config: dict[str, Any]) -> FlatConfig:
    """The keys of a plain config that its result depends on, without the seed."""
    return _without(config, ("seed", *RESULT_NEUTRAL_KEYS))


def flat(tree: dict[str, Any], prefix: str = "") -> FlatConfig:
    """Nested keys as dotted ones."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _without(config: dict[str, Any], left_out: Collection[str]) -> FlatConfig:
    if config["batch_statistics"] == "batch":
        left_out = (*left_out, "accumulate")
    return {
        key: value
        for key, value in flat(config).items()
        if not any(key == each or key.startswith(f"{each}.") for each in left_out)
    }
