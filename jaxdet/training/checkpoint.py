"""Saving and restoring a run: parameters, batch statistics, optimizer state, step and config."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from jaxdet import parallel
from jaxdet.config.values import completed
from jaxdet.errors import UserError
from jaxdet.models.build import StatelessModel, Tree
from jaxdet.models.paths import path_name

ARRAYS = ("params", "stats", "opt_state")


class Checkpoints:
    """The checkpoints of one run: the latest and, among the evaluated ones, the best.

    Use it as a context manager: it saves in the background, and waits for that when it is left.

    Args:
        folder: where they lie; made if absent.

    Raises:
        UserError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path):
        def score(metrics: dict[str, float]) -> float:
            return metrics["score"]

        best = BestN(n=1, get_metric_fn=score)
        self.folder = folder
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(n=1), best]),
            # The policy decides, but only with this are scores written for a later run to read.
            best_fn=score,
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be used ({error}); choose another --workdir"
            ) from error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._manager.close()
        except Exception as failure:
            if error is None:
                raise self._unwritten(failure) from failure

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint on the disk, or None."""
        return latest_step(self.folder)

    def save(
        self, state: dict[str, Any], step: int, meta: dict[str, Any], score: float | None = None
    ) -> None:
        """Starts saving the state reached after `step` steps; returns before it is on disk.

        Args:
            state: the training state.
            step: the number of steps it has seen.
            meta: what the arrays belong to, as plain JSON values, stored beside them.
            score: what checkpoints are ranked by, where this one was evaluated.

        Raises:
            UserError: this checkpoint or the one before it cannot be written.
        """
        # The storage library fails on what is empty, as batch statistics are without a batch norm.
        items = {name: ocp.args.StandardSave(state[name]) for name in ARRAYS if state[name]}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta)),
                metrics={"score": -math.inf if score is None else score},
                force=True,
            )
        except Exception as failure:  # whatever the storage library makes of a full disk
            raise self._unwritten(failure) from failure

    def wait(self) -> None:
        """Returns when what was saved is on the disk.

        Raises:
            UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as failure:
            raise self._unwritten(failure) from failure

    def _unwritten(self, failure: Exception) -> UserError:
        reason = str(failure).strip().splitlines()
        kept = (
            "there is no earlier one" if self.latest is None else f"step {self.latest} is complete"
        )
        return UserError(
            f"a checkpoint could not be written to {self.folder} "
            f"({reason[0] if reason else type(failure).__name__}); free space or rights there and "
            f"give the same command again ({kept})"
        )

    def restore(self, step: int, target: dict[str, Any]) -> dict[str, Any]:
        """The state saved at `step`, or those of its items that `target` has.

        Args:
            step: a step at which a checkpoint exists.
            target: the state's shapes as `jax.ShapeDtypeStruct` with shardings; may lack
                "opt_state" and "step".

        Raises:
            UserError: the checkpoint holds other shapes than `target`, or cannot be read.
        """
        names = [name for name in ARRAYS if name in target]
        arguments = {name: ocp.args.StandardRestore(target[name]) for name in names if target[name]}
        restored = self._read(step, arguments)
        return {name: restored[name] if name in arguments else {} for name in names}

    def restore_model(self, step: int, stateless: StatelessModel, mesh: Mesh) -> tuple[Tree, Tree]:
        """Parameters and batch statistics saved at `step`, whole on every device of a mesh.

        Raises:
            UserError: as `restore`.
        """
        target = dict(zip(("params", "stats"), stateless.abstract, strict=True))
        restored = self.restore(step, abstract(target, parallel.replicated(mesh)))
        return restored["params"], restored["stats"]

    def meta(self, step: int) -> dict[str, Any]:
        """What was stored as `meta` with the checkpoint of `step`, its config under today's names.

        Raises:
            UserError: the checkpoint cannot be read.
        """
        meta = self._read(step, {"meta": ocp.args.JsonRestore()})["meta"]
        has_config = isinstance(meta, dict) and isinstance(meta.get("config"), dict)
        return {**meta, "config": completed(meta["config"])} if has_config else meta

    def _read(self, step: int, arguments: dict[str, Any]) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**arguments))
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserError(
                f"checkpoint {self.folder / str(step)} does not fit this config or is damaged "
                f"({reason}); use the config it was trained with, or another --workdir"
            ) from error


def latest_step(folder: Path) -> int | None:
    """Step of the newest complete checkpoint in a folder, or None; the folder may be missing."""
    # Read from the disk: what a manager remembers may be under way, or have failed.
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None


@contextmanager
def open_latest(
    folder: Path, hint: str = "train first, or give the run's --workdir"
) -> Iterator[tuple[Checkpoints, int]]:
    """The checkpoints of a run to read from, and the step of the newest.

    Args:
        hint: what to do where there is none.

    Raises:
        UserError: there is none, or the folder cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; {hint}")
    step = latest_step(folder)
    if step is None:
        raise UserError(f"{folder} holds no checkpoint yet; {hint}")
    with Checkpoints(folder) as checkpoints:
        yield checkpoints, step


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes, dtypes and shardings of all arrays of a tree, for `Checkpoints.restore`.

    Args:
        shardings: one for all, or a tree like `tree`.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def digest(*trees: Any) -> str:
    """SHA-256 of arrays: of each, in the order of their names, name, dtype, shape and bytes.

    It does not depend on how the arrays are spread over devices; every process must ask for it.
    """
    arrays = {
        path_name(path): leaf
        for tree in trees
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = parallel.to_host(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
