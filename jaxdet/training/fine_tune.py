"""From a trained detector, a run's or a converted one, to the start of a training on other data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.config.keys import keys_with
from jaxdet.config.roles import difference
from jaxdet.config.starts import is_pushed
from jaxdet.errors import UserError
from jaxdet.flags import brief, listed
from jaxdet.models.build import StatelessModel, Tree, build_detector
from jaxdet.models.paths import ABSOLUTE_POSITION, leaves_by_name, path_name
from jaxdet.models.position import resize_embedding, resize_linear
from jaxdet.training.checkpoint import digest, open_latest
from jaxdet.training.experiment import Experiment
from jaxdet.weights.classes import (
    COCO_CLASSES,
    OUTPUTS,
    ClassMatch,
    match_classes,
    moved_outputs,
)
from jaxdet.weights.file import Weights
from jaxdet.weights.fit import check_fit
from jaxdet.weights.pushed import weights_at

STARTS = ("model.vit.absolute_position", "model.vit.relative_start")
"""Keys that say where a ViT's parameters start and not what it is."""

OFFSETS = r"backbone\.blocks\.\d+\.attn\.rel_pos\.(height|width)$"
"""Relative positions by rows and columns apart, a vector for each offset."""

TABLES = {"rel_pos_global": "image_size", "rel_pos_window": "model.vit.window"}
"""Shared relative positions, by the keys that their grids follow from."""

HINT = "give the --workdir of a run, or a converted detector (.npz), as --init-from"


class Trained(NamedTuple):
    """A trained detector.

    Attributes:
        name: for messages.
        arrays: parameters and batch statistics by path.
        num_classes: how many its heads know.
        classes: their names; None where nothing says them.
        source: "file" and "sha256", as `init.json` has them.
        class_agnostic: whether it predicts one box for all classes; False where nothing says it.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    num_classes: int
    classes: Sequence[str] | None
    source: dict[str, str]
    class_agnostic: bool = False


class Fitted(NamedTuple):
    """Trees with the arrays of a trained detector.

    Attributes:
        trees: like those that were given.
        taken: number of arrays that were taken whole or in part.
        new: paths of those that start as the config says.
        unused: paths of trained arrays that have no place.
    """

    trees: tuple[Tree, ...]
    taken: int
    new: list[str]
    unused: list[str]


def start_from_detector(
    experiment: Experiment, params: Tree, stats: Tree
) -> tuple[Tree, Tree, dict[str, Any]]:
    """Parameters and batch statistics of config.init_from where they fit, the heads' outputs by the
    names of classes.

    Args:
        params, stats: freshly initialised, for what the detector does not have; not changed.

    Returns:
        Parameters, batch statistics, and what became of the classes, for `init.json`.

    Raises:
        UserError: there is no such detector, or its ViT is another.
    """
    start = experiment.config.init_from
    is_run = not is_pushed(start) and Path(start).is_dir()
    trained = _of_run(Path(start), experiment) if is_run else _of_file(start, experiment)
    names = [category.name for category in experiment.val_set.categories]
    match = match_classes(trained.classes or (), names)
    counts = len(names), trained.num_classes
    fitted = fit_arrays(trained, (params, stats), match, counts, experiment.config)
    if parallel.is_main():
        print(*map(brief, _report(trained, match, fitted)), sep="\n", flush=True)
    kinds = {kind: list(getattr(match, kind)) for kind in ("kept", "moved", "new", "dropped")}
    origin = {"source": trained.source, "classes": kinds, "new_arrays": fitted.new}
    return *fitted.trees, origin


def fit_arrays(
    trained: Trained,
    trees: tuple[Tree, ...],
    match: ClassMatch,
    counts: tuple[int, int],
    config: ConfigDict,
) -> Fitted:
    """Trees with the arrays of their names in place of theirs: the backbone's whole, its positions
    resized; the heads' and the pyramid's where the shapes allow it.

    Args:
        match: what became of the trained detector's classes.
        counts: number of classes now and then.
        config: of the new detector.

    Raises:
        UserError: an array of the backbone has another shape and is none that can be resized.
    """
    arrays, new, used = trained.arrays, [], set()
    agnostic = trained.class_agnostic or config.model.heads.class_agnostic_boxes

    def replaced(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        old = arrays.get(name)
        if old is None:
            value = None
        elif OUTPUTS.fullmatch(name):
            value = moved_outputs(
                name, old, parallel.to_host(leaf), match.pairs, counts, class_agnostic=agnostic
            )
        elif old.shape == leaf.shape:
            value = old
        else:
            is_backbone = name.startswith("backbone.")
            value = _resized(trained.name, name, old, leaf.shape, config) if is_backbone else None
        if value is None:
            new.append(name)
            return leaf
        used.add(name)
        return np.asarray(value, leaf.dtype)

    fitted = tuple(jax.tree_util.tree_map_with_path(replaced, tree) for tree in trees)
    return Fitted(fitted, len(used), new, sorted(arrays.keys() - used))


def _resized(
    source: str, name: str, old: np.ndarray, shape: tuple[int, ...], config: ConfigDict
) -> np.ndarray:
    """An array of the backbone for another size of its map."""
    if old.shape[-1:] == shape[-1:] and old.ndim == len(shape):
        if re.match(OFFSETS, name):
            return resize_linear(old, shape[0])
        if re.match(ABSOLUTE_POSITION, name):
            vit = config.model.vit
            rule = (vit.resize_offset, vit.resize)
            return np.asarray(resize_embedding(jax.device_put(old), shape[:2], *rule))
    key = TABLES.get(name.split(".")[1])
    fix = "take the config of that detector"
    if key is not None:
        side = (math.isqrt(old.shape[0]) + 1) // 2
        value = side * config.model.vit.patch if key == "image_size" else side
        fix = f"give --config.{key}={value}, which it was trained with"
    raise UserError(
        f"{source}: {name} is {old.shape} and this config's detector has {shape}, which it cannot "
        f"be resized to; {fix}"
    )


def _of_run(workdir: Path, experiment: Experiment) -> Trained:
    """The newest checkpoint of a run."""
    with open_latest(workdir / "checkpoints", HINT) as (checkpoints, step):
        meta = checkpoints.meta(step)
        name = f"{workdir}, step {step}"
        if "categories" not in meta:
            raise UserError(
                f"{workdir} must hold the run of a detector for --init-from; of a pre-training "
                "give weights.npz as --init"
            )
        _check_same_vit(name, meta["config"], experiment.plain_config)
        config = _config_of_run(experiment.config, meta["config"])
        names = meta["categories"]
        stateless = StatelessModel(lambda rngs: build_detector(config, len(names), rngs))
        trees = checkpoints.restore_model(step, stateless, experiment.mesh)
    source = {"file": f"{workdir.name}, step {step}", "sha256": digest(*trees)}
    agnostic = config.model.heads.class_agnostic_boxes
    return Trained(
        name, leaves_by_name(*jax.device_get(trees)), len(names), names, source, agnostic
    )


def _config_of_run(ours: ConfigDict, theirs: dict[str, Any]) -> ConfigDict:
    """A run's config, for the shapes of its arrays alone, on whatever device there is now."""
    config = ours.copy_and_resolve_references()
    config.update(theirs)
    config.model.vit.attention = "auto"
    return config


def _check_same_vit(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raises UserError where the backbone's arrays would fit and mean something else."""
    ignored = [f"config.{key}" for key in (*keys_with("finetune"), *STARTS)]
    changed = difference(theirs["model"]["vit"], ours["model"]["vit"], "config.model.vit", ignored)
    for key in ("pixel_mean", "pixel_std"):
        pair = (plain["model"]["detector"][key] for plain in (theirs, ours))
        changed = changed or difference(*pair, f"config.model.detector.{key}")
    if changed:
        raise UserError(
            f"{name} must have the ViT and the pixels of this config ({changed}); set that key as "
            "it was, or take the config of that run"
        )


def _of_file(start: str, experiment: Experiment) -> Trained:
    """A converted detector, or one from the hub."""
    weights = weights_at(start)
    logits = [
        array
        for name, array in weights.arrays.items()
        if array.size > 0
        and array.ndim > 0
        and (found := OUTPUTS.fullmatch(name))
        and (found["part"], found["name"]) == ("box_head", "logits")
    ]
    if not weights.is_detector or not logits:
        raise UserError(
            f"{start} must hold a whole detector for --init-from; give a pre-trained backbone "
            "as --init"
        )
    check_fit(_of_vit(weights), experiment.config)
    count = logits[0].shape[-1] - 1  # the last is the background
    report = weights.report or {}
    classes = _classes_of_file(start, report, count, experiment.config)
    source = report.get("source") or {"file": weights.path.name, "sha256": ""}
    source = {key: source[key] for key in ("file", "sha256")}
    agnostic = bool(report.get("config", {}).get("model.heads.class_agnostic_boxes"))
    return Trained(start, weights.arrays, count, classes, source, agnostic)


def _classes_of_file(
    start: str, report: Mapping[str, Any], count: int, config: ConfigDict
) -> Sequence[str] | None:
    """Their names by the config, else by the file's report, else COCO's where it has so many."""
    if given := tuple(config.init_classes):
        if len(given) != count:
            raise UserError(
                f"config.init_classes must name the {count} classes of {start} in the order of its "
                f"outputs, and names {len(given)}"
            )
        return given
    said = report.get("classes")
    if isinstance(said, list) and len(said) == count and all(isinstance(n, str) for n in said):
        return said
    return COCO_CLASSES if count == len(COCO_CLASSES) else None


def _of_vit(weights: Weights) -> Weights:
    """The file, its report without what it says of the pyramid and the heads."""
    if weights.report is None:
        return weights
    held = {k: value for k, value in weights.report["config"].items() if k.startswith("model.vit.")}
    return replace(weights, report={**weights.report, "config": held})


def _report(trained: Trained, match: ClassMatch, fitted: Fitted) -> list[str]:
    """What was taken, class by class and array by array."""
    total = fitted.taken + len(fitted.new)
    lines = [f"{trained.name}: {fitted.taken} of {total} arrays taken; classes by name:"]
    lines += match.lines()
    if trained.classes is None:
        lines.append(
            f"note: {trained.name} does not say what its {trained.num_classes} classes are, so "
            "all are new; name them in config.init_classes"
        )
    for what, names in (("new arrays", fitted.new), ("arrays without a place", fitted.unused)):
        if names:
            lines.append(f"  {what}: {listed(names, 4)}")
    return lines
