"""The benchmark's recipe for a file of converted weights, whatever ViT it holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdet.config.keys import INITIALISATIONS
from jaxdet.config.mask_rcnn import benchmark, check, quarter_ends
from jaxdet.config.old_names import renamed
from jaxdet.config.values import unknown_key
from jaxdet.errors import UserError
from jaxdet.weights.file import StoredArray, open_archive

ASIDE = ("model.vit.class_token", "model.vit.registers", "model.vit.final_norm")
"""Keys of a file's report that the recipe does not take from it."""

ADVICE = ("model.vit.resize", "model.vit.window", "model.vit.global_blocks")
"""Keys that the report proposes and no run is held to, which the recipe takes."""

DEEP = 24
"""Blocks from which on drop path is 0.3 and not 0.1, as in ViT-L."""

SIDE = 1024
"""Of the recipe's image, in pixels; the nearest side that the patch allows is taken."""


def recipe_for(path: Path) -> ConfigDict:
    """The recipe of arXiv 2111.11429 with the ViT, the pixels and the positions of a file.

    Only the file's headers and report are read.

    Raises:
        UserError: the file is not of converted weights, has no report, or is a whole detector;
            its report has a key or a value that no config has.
    """
    arrays, report = _opened(path)
    keys = renamed(report["config"])
    depth = keys.get("model.vit.depth")
    if isinstance(depth, bool) or not isinstance(depth, int) or not 4 <= depth <= 1000:
        raise UserError(f"{path}: its report's model.vit.depth must be from 4 to 1000 blocks")
    config = benchmark(
        "b",
        _name(path),
        lr=8e-5,
        weight_decay=0.1,
        drop_path=0.3 if depth >= DEEP else 0.1,
        epochs=100.0,
    )
    ends = quarter_ends(depth)
    config.model.vit.update(global_blocks=ends, out_indices=ends)
    advice = report.get("recipe")
    advice = advice if isinstance(advice, dict) else {}
    keys = keys | {key: advice[key] for key in ADVICE if key in advice}
    _set_vit(path, config, {key: value for key, value in keys.items() if key not in ASIDE})
    config.model.pyramid.groups = math.gcd(config.model.pyramid.groups, config.model.vit.width)
    if "model.vit.heads" not in keys:
        config.model.vit.heads = _guessed_heads(path, config.model.vit.width)
    _set_positions(config, arrays)
    _set_sizes(config)
    for key in ("pixel_mean", "pixel_std"):
        config.model.detector[key] = tuple(map(float, report[key]))
    config.init = str(path)
    check(config)
    return config


def _opened(path: Path) -> tuple[dict[str, StoredArray], dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} is not a file; give what `jaxdet convert` wrote")
    try:
        arrays, report = open_archive(path)
    except Exception as error:  # damage surfaces in whichever of zip, zlib and NumPy reads it first
        raise UserError(
            f"{path} is not a file of converted weights ({str(error)[:200]}); convert the original"
        ) from error
    if report is None:
        raise UserError(f"{path} has no report of what it holds; convert the original again")
    if any(name.startswith("rpn.") for name in arrays):
        raise UserError(
            f"{path} holds a whole detector and --config=any takes a ViT alone; "
            "give the config that the detector was made for"
        )
    return arrays, report


def _set_vit(path: Path, config: ConfigDict, keys: Mapping[str, Any]) -> None:
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        if section != "model.vit":
            continue  # of a decoder, which the recipe does not take
        strange = unknown_key(config, key)
        if strange:
            raise UserError(f"{path}: {strange}; convert the original with this version")
        if name == "layer_scale":
            value = 1.0 if value else None  # where it starts; the file has the values
        try:
            config.model.vit[name] = tuple(value) if isinstance(value, list) else value
        except TypeError as error:
            raise UserError(
                f"{path}: its report's {key}={str(value)[:60]!r} is of a wrong type; "
                "convert the original again"
            ) from error


def _guessed_heads(path: Path, width: int) -> int:
    heads = max(1, width // 64)
    print(
        f"{path} does not say how many attention heads its ViT has: {heads} is a guess, as of "
        f"width {width} usual; give --config.model.vit.heads if it is another number"
    )
    return heads


def _set_positions(config: ConfigDict, arrays: Mapping[str, StoredArray]) -> None:
    """The file's positions; where it has none, rotary ones alone, or the recipe's start."""
    vit = config.model.vit
    position = arrays.get("backbone.pos_embed")
    is_rotary = vit.get("rope", "none") != "none"
    if position is not None:
        vit.pretrain_grid = position.shape[0]
    else:
        vit.absolute_position = "none" if is_rotary else "random"
    if any(".rel_pos." in name for name in arrays):
        vit.update(relative_position="decomposed", relative_start="pretrained")
    elif any("rel_pos" in name for name in arrays):
        vit.relative_start = "pretrained"
    elif is_rotary:
        vit.relative_position = "none"


def _set_sizes(config: ConfigDict) -> None:
    """The image and the pyramid's strides, which follow from the patch."""
    patch = config.model.vit.patch
    coarsest = max(1, 2 * patch)
    config.image_size = max(1, round(SIDE / coarsest)) * coarsest
    strides = (patch / 4, patch / 2, patch, 2 * patch, 4 * patch)
    config.model.detector.strides = tuple(map(float, strides))


def _name(path: Path) -> str:
    """A name of the initialisation after the file's, none of a published one."""
    name = re.sub(r"[^a-z0-9._-]", "_", path.stem.lower()).strip("._-")[:60] or "own"
    return f"own_{name}" if name in INITIALISATIONS else name
