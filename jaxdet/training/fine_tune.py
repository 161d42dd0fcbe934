"""From a trained detector, a run's or a converted one, to the start of a training on other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdet import parallel
from jaxdet.config.keys import keys_with
from jaxdet.config.roles import difference
from jaxdet.errors import UserError
from jaxdet.flags import brief
from jaxdet.models.build import StatelessModel, Tree, build_detector
from jaxdet.models.paths import path_name
from jaxdet.training.checkpoint import digest, open_latest
from jaxdet.training.experiment import Experiment
from jaxdet.weights.classes import (
    COCO_CLASSES,
    OUTPUTS,
    ClassMatch,
    match_classes,
    moved_outputs,
)
from jaxdet.weights.file import read_weights
from jaxdet.weights.fit import check_fit

STARTS = ("model.vit.absolute_position", "model.vit.relative_start")
"""Keys that say where a ViT's parameters start and not what it is."""

HINT = "give the --workdir of a run, or a converted detector (.npz), as --init-from"


class Trained(NamedTuple):
    """A trained detector.

    Attributes:
        name: for messages.
        arrays: parameters and batch statistics by path.
        num_classes: how many its heads know.
        classes: their names; None where nothing says them.
        source: "file" and "sha256", as `init.json` has them.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    num_classes: int
    classes: Sequence[str] | None
    source: dict[str, str]


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
    path = Path(experiment.config.init_from)
    trained = _of_run(path, experiment) if path.is_dir() else _of_file(path, experiment)
    names = [category.name for category in experiment.val_set.categories]
    match = match_classes(trained.classes or (), names)
    counts = len(names), trained.num_classes
    fitted = fit_arrays(trained.arrays, (params, stats), match, counts)
    if parallel.is_main():
        print(*map(brief, _report(trained, match, fitted)), sep="\n", flush=True)
    kinds = {kind: list(getattr(match, kind)) for kind in ("kept", "moved", "new", "dropped")}
    origin = {"source": trained.source, "classes": kinds, "new_arrays": fitted.new}
    return *fitted.trees, origin


def fit_arrays(
    arrays: Mapping[str, np.ndarray],
    trees: tuple[Tree, ...],
    match: ClassMatch,
    counts: tuple[int, int],
) -> Fitted:
    """Trees with the arrays of their names in place of theirs, where the shapes allow it.

    Args:
        arrays: of a trained detector, by path.
        match: what became of its classes.
        counts: number of classes now and then.
    """
    new, used = [], set()

    def replaced(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        old = arrays.get(name)
        if old is None:
            value = None
        elif OUTPUTS.fullmatch(name):
            value = moved_outputs(name, old, parallel.to_host(leaf), match.pairs, counts)
        else:
            value = old if old.shape == leaf.shape else None
        if value is None:
            new.append(name)
            return leaf
        used.add(name)
        return np.asarray(value, leaf.dtype)

    fitted = tuple(jax.tree_util.tree_map_with_path(replaced, tree) for tree in trees)
    return Fitted(fitted, len(used), new, sorted(arrays.keys() - used))


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
        config = experiment.config.copy_and_resolve_references()
        config.update(meta["config"])
        names = meta["categories"]
        stateless = StatelessModel(lambda rngs: build_detector(config, len(names), rngs))
        trees = checkpoints.restore_model(step, stateless, experiment.mesh)
    source = {"file": f"{workdir.name}, step {step}", "sha256": digest(*trees)}
    return Trained(name, _by_name(*jax.device_get(trees)), len(names), names, source)


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


def _of_file(path: Path, experiment: Experiment) -> Trained:
    """A converted detector."""
    weights = read_weights(path)
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
            f"{path} must hold a whole detector for --init-from; give a pre-trained backbone "
            "as --init"
        )
    check_fit(weights, experiment.config)
    count = logits[0].shape[-1] - 1  # the last is the background
    given = tuple(experiment.config.init_classes)
    if given and len(given) != count:
        raise UserError(
            f"config.init_classes must name the {count} classes of {path} in the order of its "
            f"outputs, and names {len(given)}"
        )
    classes = given or (COCO_CLASSES if count == len(COCO_CLASSES) else None)
    source = (weights.report or {}).get("source") or {"file": path.name, "sha256": ""}
    source = {key: source[key] for key in ("file", "sha256")}
    return Trained(str(path), weights.arrays, count, classes, source)


def _by_name(*trees: Tree) -> dict[str, np.ndarray]:
    return {
        path_name(path): leaf
        for tree in trees
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


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
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            lines.append(f"  {what}: {', '.join(names[:4])}{more}")
    return lines
