"""Which config keys make up a recipe, and which a run's result depends on."""

from __future__ import annotations

from typing import Any

from jaxdet.config.keys import keys_with

FlatConfig = dict[str, Any]
"""Values by dotted key."""

RESULT_NEUTRAL_KEYS = keys_with("files") + keys_with("resume") + keys_with("neutral")
"""Keys a result does not depend on, or that only say where files are."""


def recipe_part(config: dict[str, Any]) -> FlatConfig:
    """The keys of a plain config that runs of one recipe agree in."""
    recipe = set(keys_with("recipe"))
    if config["data"]["name"] != "shapes":
        recipe = {key for key in recipe if not key.startswith("data.shapes.")}
    return {key: value for key, value in _relevant(config).items() if key in recipe}


def result_part(config: dict[str, Any]) -> FlatConfig:
    """The keys of a plain config that its result depends on, without the seed."""
    left_out = {"seed", *RESULT_NEUTRAL_KEYS}
    return {key: value for key, value in _relevant(config).items() if key not in left_out}


def flat(tree: dict[str, Any], prefix: str = "") -> FlatConfig:
    """Nested keys as dotted ones."""
    found = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _relevant(config: dict[str, Any]) -> FlatConfig:
    """All keys by dotted name, but for accumulation where it changes no result."""
    keys = flat(config)
    if config["batch_statistics"] == "batch":
        del keys["accumulate"]
    return keys
