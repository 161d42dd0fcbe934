"""Converted weights into a freshly initialised detector, or a whole one for evaluation."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdet.config.old_names import renamed
from jaxdet.config.values import unknown_key, value_of
from jaxdet.errors import UserError
from jaxdet.models.build import Tree
from jaxdet.models.paths import path_name
from jaxdet.training.optim import ABSOLUTE_POSITION, RELATIVE_POSITION

DECODER = r"box_head\.(norm|embed|pos_embed|blocks)\b"
"""Paths of what a box head takes from the decoder of the pre-training."""

CLASS_TOKEN = r"backbone\.class_(token|pos_embed)$"

MENDS = {
    "backbone.pos_embed": "give --config.model.vit.pretrain_grid={side}",
    "backbone.rel_pos_window.table": "convert the original with --window={window}",
    "backbone.rel_pos_global.table": "convert the original with --global-grid={global_grid}",
}
"""What to do about arrays whose shape follows from a grid."""


@dataclass(frozen=True)
class Weights:
    """A file of converted weights.

    Attributes:
        arrays: by parameter path, or by the path of a batch statistic.
        report: what the converter knew of the original; None in a file written by hand.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    report: dict[str, Any] | None

    @property
    def is_detector(self) -> bool:
        """Whether these are more than a pre-training's."""
        return any(name.startswith("rpn.") for name in self.arrays)


def read_weights(path: Path) -> Weights:
    """Reads an .npz archive of float arrays under dotted paths ("backbone.blocks.0.norm1.scale"),
    and `report.json` where it has one.

    Raises:
        UserError: the file is not such an archive, or has values that are not finite floats.
    """
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as archive:
            names = [name for name in archive.files if name != "report.json"]
            arrays = {name: np.asarray(archive[name]) for name in names}
            has_report = "report.json" in archive.files
            report = json.loads(archive["report.json"]) if has_report else None
            if has_report and not _is_report(report):
                raise ValueError("its report is not the converter's")
    except Exception as error:  # damage surfaces in whichever of zip, zlib and NumPy reads it first
        raise UserError(
            f"{path} is not a file of converted weights ({error}); convert the original again"
        ) from error
    if not arrays:
        raise UserError(f"{path} holds no weights; convert the original again")
    for name, value in arrays.items():
        if value.dtype.kind != "f":
            raise UserError(f"{path}: {name} holds {value.dtype}, not floats; convert it again")
        if not np.isfinite(value).all():
            raise UserError(f"{path}: {name} has values that are not finite; get the file again")
    return Weights(path, arrays, report)


def _check_size(path: Path) -> None:
    """Refuses an archive that would unpack to far more than it is, as no weights do."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > 10 * path.stat().st_size + 2**20:
        raise ValueError("it would unpack to more than ten times its size")


def _is_report(report: Any) -> bool:
    """Whether a file's report has what `check_fit` reads of it."""

    def is_triple(values: Any) -> bool:
        return (
            isinstance(values, list)
            and len(values) == 3
            and all(isinstance(value, int | float) for value in values)
        )

    return (
        isinstance(report, dict)
        and isinstance(report.get("layout"), str)
        and isinstance(report.get("config"), dict)
        and isinstance(report.get("source"), dict)
        and all(isinstance(report["source"].get(word), str) for word in ("file", "sha256"))
        and is_triple(report.get("pixel_mean"))
        and is_triple(report.get("pixel_std"))
    )


def initialise(
    config: ConfigDict, params: Tree, stats: Tree
) -> tuple[Tree, Tree, dict[str, Any] | None]:
    """Parameters and batch statistics to start training from, with config.init's in their place.

    A file of a backbone gives the position information that the config's words say is
    "pretrained", and one with a decoder the box head that is made of it, likewise; a file of a
    whole detector gives everything.

    Args:
        params, stats: nested dictionaries of arrays; not changed.

    Returns:
        Parameters, batch statistics, and the file's report.

    Raises:
        UserError: the weights do not fit the config, or lack what it asks for.
    """
    weights = read_weights(Path(config.init))
    check_fit(weights, config)
    arrays = weights.arrays
    if not weights.is_detector:
        left = reinitialized(config, arrays)
        if left:
            more = f" and {len(left) - 2} more" if len(left) > 2 else ""
            print(f"{weights.path}: {', '.join(left[:2])}{more} not taken, as config.model says")
        arrays = {name: value for name, value in arrays.items() if name not in left}
    params, stats = place(weights, arrays, params, stats)
    _validate_complete(weights, config, arrays, params, stats)
    return params, stats, weights.report


def load_detector(
    config: ConfigDict, params: Tree, stats: Tree
) -> tuple[Tree, Tree, dict[str, Any] | None]:
    """A whole detector from config.init, to be evaluated.

    Args:
        params, stats: the detector's, or their shapes alone.

    Raises:
        UserError: the file does not fit the config or lacks any part of the detector.
    """
    weights = read_weights(Path(config.init))
    if not weights.is_detector:
        raise UserError(
            f"{weights.path} holds a backbone and no detector; train first, or give a converted "
            "detector"
        )
    check_fit(weights, config)
    params, stats = place(weights, weights.arrays, params, stats)
    _validate_complete(weights, config, weights.arrays, params, stats)
    return params, stats, weights.report


def check_fit(weights: Weights, config: ConfigDict) -> None:
    """Holds what the file's report says of the original against the config.

    Raises:
        UserError: the original is another kind of ViT, or saw pixels normalised in another way.
    """
    report = weights.report
    if report is None:
        return
    report = {**report, "config": renamed(report["config"])}
    for word in report["config"]:
        strange = unknown_key(config, word)
        if strange:
            raise UserError(f"{weights.path}: {strange}; convert the original with this version")
    differing = {
        word: value
        for word, value in report["config"].items()
        if (weights.is_detector or _is_taken(config, word))
        and not _agree(value_of(config, word), value)
    }
    if differing:
        theirs = ", ".join(f"{word} {value}" for word, value in differing.items())
        ours = ", ".join(str(value_of(config, word)) for word in differing)
        raise UserError(
            f"{weights.path} ({report['layout']}, {report['source']['file']}) is made for "
            f"{theirs}; the config says {ours}: use the config of these weights, or set its words"
        )
    detector = config.model.detector
    for word in ("pixel_mean", "pixel_std"):
        if not np.allclose(report[word], detector[word], atol=1e-3):
            given = " ".join(
                f"--config.model.detector.{name}="
                f"'({','.join(f'{value:g}' for value in report[name])})'"
                for name in ("pixel_mean", "pixel_std")
            )
            raise UserError(
                f"{weights.path}: the original was trained with {word} {report[word]} and "
                f"config.model.detector.{word} is {list(detector[word])}; give {given}"
            )
    expected, found = config.weights.sha256, report["source"]["sha256"]
    if expected is not None and not found.startswith(expected):
        print(
            f"warning: {weights.path} comes from {report['source']['file']} of sha256 {found}, "
            f"and config.weights.sha256 is {expected}: it is another file than the recipe's"
        )


def _is_taken(config: ConfigDict, word: str) -> bool:
    """Whether a config takes from a pre-training what a word of its report is about."""
    if word == "model.vit.class_token":
        return config.model.vit.class_token
    return not word.startswith("model.decoder.") or _takes_decoder(config)


def _takes_decoder(config: ConfigDict) -> bool:
    return config.model.heads.box == "decoder" and config.model.decoder.start == "pretrained"


def _agree(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, bool) and not isinstance(ours, bool):
        return (ours is not None) == theirs  # layer scale, whose value is where it would start
    return ours == theirs


def reinitialized(config: ConfigDict, names: Collection[str]) -> list[str]:
    """Those of some parameters that a config does not take from a pre-training."""
    vit, heads = config.model.vit, config.model.heads
    patterns = [] if vit.class_token else [CLASS_TOKEN]
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


def place(
    weights: Weights, arrays: dict[str, np.ndarray], params: Tree, stats: Tree
) -> tuple[Tree, Tree]:
    """Parameters and batch statistics with the given arrays in the place of those of their names.

    Raises:
        UserError: an array has another shape than the detector's, or no place.
    """
    path, unplaced = weights.path, dict(arrays)

    def put(key_path: Any, leaf: Any) -> Any:
        name = path_name(key_path)
        value = unplaced.pop(name, None)
        if value is None:
            return leaf
        if value.shape != leaf.shape:
            raise UserError(
                f"{path}: {name} is {value.shape} and the config's detector has {leaf.shape}; "
                f"{_mend(name, value.shape, leaf.shape)}"
            )
        return value.astype(leaf.dtype)

    placed = tuple(jax.tree_util.tree_map_with_path(put, tree) for tree in (params, stats))
    if unplaced:
        raise UserError(
            f"{path} holds {len(unplaced)} arrays the config's detector has no place for, "
            f"{min(unplaced)} among them; use the config the weights were made for"
        )
    total = len(_names(params)) + len(_names(stats))
    print(f"{path}: {len(arrays)} of {total} arrays taken, the others start as the config says")
    return placed


def _mend(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> str:
    def grid(rows: int) -> int:
        return (round(rows**0.5) + 1) // 2

    mend = MENDS.get(name, "use the config of the size the weights were made for")
    return mend.format(side=theirs[0], window=grid(ours[0]), global_grid=grid(ours[0]))


def _validate_complete(
    weights: Weights, config: ConfigDict, arrays: dict[str, np.ndarray], params: Tree, stats: Tree
) -> None:
    """Refuses weights that lack what the config takes from them."""
    names = _names(params) | _names(stats)
    if not weights.is_detector:
        taken = re.compile(rf"backbone\.|{DECODER}")
        names = {name for name in names if taken.match(name)}
        names -= {*reinitialized(config, names)}
    absent = sorted(names - arrays.keys())
    if not absent:
        return
    kind = "detector" if weights.is_detector else "pre-training"
    mend = "convert the original again, or use the config the weights were made for"
    for word, pattern, other in (
        ("absolute_position", ABSOLUTE_POSITION, "random"),
        ("relative_start", RELATIVE_POSITION, "zero"),
    ):
        if not weights.is_detector and all(re.match(pattern, name) for name in absent):
            mend = (
                f"config.model.vit.{word} is 'pretrained', and these weights were pre-trained "
                f"without: give --config.model.vit.{word}={other}"
            )
    if not weights.is_detector and "backbone.class_token" in absent:
        mend = (
            "convert the file with encoder and decoder anew with --target=imted, which keeps the "
            "class token"
        )
    elif not weights.is_detector and any(re.match(DECODER, name) for name in absent):
        mend = (
            "config.model.decoder.start is 'pretrained': convert the file with encoder and decoder "
            "with --target=imted, or give --config.model.decoder.start=random"
        )
    raise UserError(
        f"{weights.path} lacks {len(absent)} arrays of the {kind}, {absent[0]} among them; {mend}"
    )


def _names(tree: Tree) -> set[str]:
    return {path_name(key_path) for key_path, _ in jax.tree_util.tree_leaves_with_path(tree)}
