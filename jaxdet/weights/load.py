"""Converted weights into a freshly initialised detector, or a whole one for evaluation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdet.errors import UserError
from jaxdet.flags import listed
from jaxdet.models.build import Tree
from jaxdet.models.paths import ABSOLUTE_POSITION, DECODER, RELATIVE_POSITION, path_name
from jaxdet.weights.classes import OUTPUTS
from jaxdet.weights.file import Weights
from jaxdet.weights.fit import check_fit, reinitialized
from jaxdet.weights.pushed import weights_at

SHAPE_FIXES = {
    "backbone.pos_embed": "give --config.model.vit.pretrain_grid={side}",
    "backbone.rel_pos_window.table": "convert the original with --window={grid}",
    "backbone.rel_pos_global.table": "convert the original with --global-grid={grid}",
}
"""What to do about arrays whose shape follows from a grid."""


def initialise(
    config: ConfigDict, params: Tree, stats: Tree
) -> tuple[Tree, Tree, dict[str, Any] | None]:
    """Parameters and batch statistics to start training from, with config.init's in their place.

    A file of a backbone gives the position information that the config says is "pretrained", and
    one with a decoder the box head that is made of it, likewise; a file of a whole detector gives
    everything.

    Args:
        params, stats: nested dictionaries of arrays; not changed.

    Returns:
        Parameters, batch statistics, and the file's report.

    Raises:
        UserError: the weights do not fit the config, or lack what it asks for.
    """
    weights = weights_at(config.init)
    left = [] if weights.is_detector else reinitialized(config, weights.arrays)
    return _loaded(weights, left, config, params, stats)


def load_detector(
    config: ConfigDict, params: Tree, stats: Tree
) -> tuple[Tree, Tree, dict[str, Any] | None]:
    """A whole detector from config.init, to be evaluated.

    Args:
        params, stats: the detector's, or their shapes alone.

    Raises:
        UserError: the file does not fit the config or lacks any part of the detector.
    """
    weights = weights_at(config.init)
    if not weights.is_detector:
        raise UserError(
            f"{weights.path} holds a backbone and no detector; train first, or give a converted "
            "detector"
        )
    return _loaded(weights, [], config, params, stats)


def _loaded(
    weights: Weights, left: list[str], config: ConfigDict, params: Tree, stats: Tree
) -> tuple[Tree, Tree, dict[str, Any] | None]:
    """The file's arrays, but for those left aside, in the place of what they replace."""
    check_fit(weights, config)
    if left:
        print(f"{weights.path}: {listed(left, 2)} not taken, as config.model says")
    arrays = {name: value for name, value in weights.arrays.items() if name not in left}
    params, stats = load_params(weights.path, arrays, params, stats)
    _validate_complete(weights, config, params, stats)
    return params, stats, weights.report


def load_params(
    path: Path, arrays: dict[str, np.ndarray], params: Tree, stats: Tree
) -> tuple[Tree, Tree]:
    """Parameters and batch statistics with a file's arrays in the place of those of their names.

    Args:
        path: the file, for messages.

    Raises:
        UserError: an array has another shape than the detector's, or no place.
    """
    unused = dict(arrays)

    def replaced(key_path: Any, leaf: Any) -> Any:
        name = path_name(key_path)
        value = unused.pop(name, None)
        if value is None:
            return leaf
        if value.shape != leaf.shape:
            raise UserError(
                f"{path}: {name} is {value.shape} and the config's detector has {leaf.shape}; "
                f"{_shape_fix(name, value.shape, leaf.shape)}"
            )
        return value.astype(leaf.dtype)

    loaded = tuple(jax.tree_util.tree_map_with_path(replaced, tree) for tree in (params, stats))
    if unused:
        raise UserError(
            f"{path} holds {len(unused)} arrays the config's detector has no place for, "
            f"{min(unused)} among them; use the config the weights were made for"
        )
    total = len(_names(params)) + len(_names(stats))
    print(f"{path}: {len(arrays)} of {total} arrays taken, the others start as the config says")
    return loaded


def _shape_fix(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> str:
    if OUTPUTS.fullmatch(name):
        return "to train on other classes than its own, give it as --init-from, not as --init"
    if name not in SHAPE_FIXES or not theirs:
        return "use the config of the size the weights were made for"
    return SHAPE_FIXES[name].format(side=theirs[0], grid=(round(ours[0] ** 0.5) + 1) // 2)


def _validate_complete(weights: Weights, config: ConfigDict, params: Tree, stats: Tree) -> None:
    """Raises UserError for weights that lack what the config takes from them."""
    names = _names(params) | _names(stats)
    if not weights.is_detector:
        taken = re.compile(rf"backbone\.|{DECODER}")
        names = {name for name in names if taken.match(name)}
        names -= {*reinitialized(config, names)}
    absent = sorted(names - weights.arrays.keys())
    if absent:
        kind = "detector" if weights.is_detector else "pre-training"
        fix = None if weights.is_detector else _backbone_fix(absent)
        fix = fix or "convert the original again, or use the config the weights were made for"
        raise UserError(
            f"{weights.path} lacks {len(absent)} arrays of the {kind}, {absent[0]} among them; "
            f"{fix}"
        )


def _backbone_fix(absent: list[str]) -> str | None:
    """What to do about parameters that a file of a pre-training lacks, where that is known."""
    if "backbone.class_token" in absent:
        return (
            "convert the file with encoder and decoder again with --target=imted, which keeps the "
            "class token"
        )
    if any(re.match(DECODER, name) for name in absent):
        return (
            "config.model.decoder.start is 'pretrained': convert the file with encoder and decoder "
            "with --target=imted, or give --config.model.decoder.start=random"
        )
    for key, pattern, other in (
        ("absolute_position", ABSOLUTE_POSITION, "random"),
        ("relative_start", RELATIVE_POSITION, "zero"),
    ):
        if all(re.match(pattern, name) for name in absent):
            return (
                f"config.model.vit.{key} is 'pretrained', and these weights were pre-trained "
                f"without: give --config.model.vit.{key}={other}"
            )
    return None


def _names(tree: Tree) -> set[str]:
    return {path_name(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(tree)}
