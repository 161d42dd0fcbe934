"""From a detector of base classes to the start of one of more classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdet import parallel
from jaxdet.config.keys import keys_with
from jaxdet.config.roles import difference
from jaxdet.errors import UserError
from jaxdet.models.build import StatelessModel, Tree, build_detector
from jaxdet.models.paths import path_name
from jaxdet.training.checkpoint import open_latest
from jaxdet.training.experiment import Experiment
from jaxdet.weights.classes import OUTPUTS, moved_outputs


def start_from_base_run(experiment: Experiment, params: Tree) -> tuple[Tree, Tree]:
    """The newest parameters and batch statistics of config.few_shot.base_run, for the classes of
    this experiment.

    What the heads say of a class goes where the class with the same category id now is. Box deltas
    are reinitialized, as in imTED's published fine-tuning, unless config.few_shot.keep_deltas.

    Args:
        params: freshly initialised, for what the base run does not have; not changed.

    Raises:
        UserError: there is no such run, or it is of another model.
    """
    folder = Path(experiment.config.few_shot.base_run) / "checkpoints"
    hint = "give the --workdir of a run on base classes as --config.few_shot.base_run"
    with open_latest(folder, hint) as (checkpoints, step):
        meta = checkpoints.meta(step)
        may_differ = [f"config.{name}" for name in keys_with("finetune")]
        changed = difference(
            meta["config"]["model"], experiment.plain_config["model"], "config.model", may_differ
        )
        if changed or "category_ids" not in meta:
            reason = changed or "it does not hold the ids of its categories"
            raise UserError(f"{folder} must hold a run of this model ({reason}); train it again")
        base_ids = meta["category_ids"]
        base = StatelessModel(lambda rngs: build_detector(experiment.config, len(base_ids), rngs))
        base_params, stats = checkpoints.restore_model(step, base, experiment.mesh)
    ids = [category.id for category in experiment.val_set.categories]
    keep_deltas = experiment.config.few_shot.keep_deltas
    if parallel.is_main():
        known = len(set(ids) & set(base_ids))
        print(f"{folder}: weights of step {step}; {known} of {len(ids)} classes are known to them")
    moved = move_classes(jax.device_get(base_params), params, base_ids, ids, keep_deltas)
    return moved, stats


def move_classes(
    base: Tree, fresh: Tree, base_ids: Sequence[int], ids: Sequence[int], keep_deltas: bool
) -> Tree:
    """A base detector's parameters with the heads' outputs for other classes.

    Args:
        base: parameters of a detector of the categories `base_ids`, in that order.
        fresh: parameters of one of the categories `ids`; what is not in `base` is from here.
        keep_deltas: whether box deltas are moved too.
    """
    pairs = [(ids.index(i), base_ids.index(i)) for i in base_ids if i in ids]
    counts = len(ids), len(base_ids)

    def move(path: Any, old: np.ndarray, new: Any) -> Any:
        name = path_name(path)
        output = OUTPUTS.fullmatch(name)
        if output is None:
            return old
        if output["name"] == "deltas" and not keep_deltas:
            return new
        moved = moved_outputs(name, old, parallel.to_host(new), pairs, counts)
        return new if moved is None else moved

    return jax.tree_util.tree_map_with_path(move, base, fresh)
