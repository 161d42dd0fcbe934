"""Saving and restoring a run: parameters, batch statistics, optimizer state, step and config."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from jaxdet import parallel
from jaxdet.config.values import completed
from jaxdet.errors import UserError
from jaxdet.files import read_file, write_json
from jaxdet.models.build import StatelessModel, Tree
from jaxdet.models.paths import leaves_by_name
from jaxdet.training.array_digests import damaged_arrays, digests_of, misfit
from jaxdet.training.storage_noise import silence

ARRAYS = ("params", "stats", "opt_state")

LEAST_SHARE = 0.8
"""Of the arrays' bytes, what a checkpoint takes at least: floats hardly compress."""


class DamagedCheckpointError(UserError):
    """A checkpoint is not what was written.

    Attributes:
        reason: which, and what of it.
    """

    def __init__(self, reason: str, fix: str):
        super().__init__(f"{reason}; {fix}")
        self.reason = reason


class Checkpoints:
    """The checkpoints of one run: the latest and, among the evaluated ones, the best.

    Use it as a context manager: it saves in the background, and waits for that when it is left.

    Args:
        folder: where they lie; made if absent.

    Raises:
        UserError: the folder cannot be made or read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        silence()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._manager = self._open()
        except OSError as error:
            raise UserError(
                f"{folder} cannot be used ({error}); choose another --workdir"
            ) from error
        self._scores = {step: _read_score(self._score_file(step)) for step in self.steps}

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Preserved(self._kept),
            lightweight_initialize=True,  # else a damaged score is an error
        )
        return ocp.CheckpointManager(self.folder.absolute(), options=options)

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
        return max(self.steps, default=None)

    @property
    def steps(self) -> list[int]:
        """Of all complete checkpoints on the disk."""
        return complete_steps(self.folder)

    def save(self, state: dict[str, Any], step: int, meta: dict[str, Any]) -> None:
        """Starts saving the state reached after `step` steps; returns before it is on disk.

        Args:
            state: the training state.
            step: the number of steps it has seen.
            meta: what the arrays belong to, as plain JSON values, stored beside them.

        Raises:
            UserError: this checkpoint or the one before it cannot be written.
        """
        self.wait()  # for the one before, which takes space
        self._check_space(state)
        stored = {**meta, "digests": digests_of({name: state[name] for name in ARRAYS})}
        stored["crc32"] = _meta_checksum(stored)
        # The storage library fails on what is empty, as batch statistics are without a batch norm.
        items = {name: ocp.args.StandardSave(state[name]) for name in ARRAYS if state[name]}
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(stored)),
                force=True,
            )
        except Exception as failure:  # whatever the storage library makes of a full disk
            raise self._unwritten(failure) from failure

    def _check_space(self, state: dict[str, Any]) -> None:
        """Raises UserError where the disk is too full: half-written arrays would fill it up."""
        needed = LEAST_SHARE * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        problem = None
        if parallel.is_main():
            try:
                free = shutil.disk_usage(self.folder).free
            except OSError as error:
                free, problem = math.inf, f"{error.strerror}"
            if free < needed:
                problem = f"{free / 1e6:.3g} of at least {needed / 1e6:.3g} MB are free"
        problem = parallel.gather([problem])[0]
        if problem is not None:
            raise self._unwritten(OSError(problem))

    def record_score(self, step: int, score: float | None) -> None:
        """Says that a checkpoint was evaluated, and removes those that need not be kept any more.

        Args:
            step: of a checkpoint that was saved.
            score: what checkpoints are ranked by; None where the evaluation found none.

        Raises:
            UserError: see `wait`; the score cannot be written.
        """
        self.wait()
        if parallel.is_main():
            write_json(self._score_file(step), {"score": score})
        self._scores[step] = score
        for each in set(self._manager.all_steps()) - self._kept(self._manager.all_steps()):
            self._manager.delete(each)

    def is_evaluated(self, step: int) -> bool:
        """Whether a score was recorded for the checkpoint of a step, be it that there was none."""
        return self._score_file(step).is_file()

    def _score_file(self, step: int) -> Path:
        return self.folder / str(step) / "metrics" / "metrics"

    def _kept(self, steps: Sequence[int]) -> set[int]:
        """The latest of some steps and the one of the best score; of equals the later one."""
        best = self._best(steps)
        return {max(steps), max(steps) if best is None else best}

    @property
    def best(self) -> int | None:
        """Step of the best score, of equals the later one; None where there is no score."""
        return self._best(self._scores)

    def _best(self, steps: Iterable[int]) -> int | None:
        scored = [step for step in steps if self._scores.get(step) is not None]
        return max(scored, key=lambda step: (self._scores[step], step), default=None)

    def set_aside(self, step: int) -> None:
        """Gives a damaged checkpoint a name by which it is none; every process must ask for it."""
        if parallel.is_main():
            folder = self.folder / str(step)
            taken = {path.name for path in self.folder.iterdir()}
            names = (f"{step}.damaged{number or ''}" for number in range(len(taken) + 1))
            try:
                folder.rename(self.folder / next(name for name in names if name not in taken))
            except OSError as error:
                raise UserError(f"{folder} cannot be renamed ({error}); remove it") from error
        parallel.gather([])  # the others wait for it
        self._scores.pop(step, None)
        self._manager.close()
        self._manager = self._open()

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
        reason = _brief(failure)
        kept = (
            "there is no earlier one" if self.latest is None else f"step {self.latest} is complete"
        )
        return UserError(
            f"a checkpoint could not be written to {self.folder} "
            f"({reason}); free space or rights there and "
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
        items = {name: target[name] for name in names if target[name]}
        digests = self._stored_meta(step).get("digests")
        reason = digests and misfit(digests, {name: target[name] for name in names})
        if reason:
            raise UserError(
                f"checkpoint {self.folder / str(step)} does not fit this config ({reason}); use "
                "the config it was trained with, or another --workdir"
            )
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
        restored = self._read(step, arguments, is_known_to_fit=bool(digests)) if items else {}
        found = {name: restored[name] if name in items else {} for name in names}
        damaged = damaged_arrays(digests, found) if digests else []
        if damaged:
            raise self._damaged(step, f"{damaged[0]} is not what was saved")
        return found

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
        meta = {
            name: value
            for name, value in self._stored_meta(step).items()
            if name not in ("digests", "crc32")
        }
        has_config = isinstance(meta.get("config"), dict)
        return {**meta, "config": completed(meta["config"])} if has_config else meta

    def _stored_meta(self, step: int) -> dict[str, Any]:
        meta = self._read(step, {"meta": ocp.args.JsonRestore()}, is_known_to_fit=True)["meta"]
        if not isinstance(meta, dict) or meta.get("crc32") not in (None, _meta_checksum(meta)):
            raise self._damaged(step, "its meta/metadata is not what was saved")
        return meta

    def _read(self, step: int, arguments: dict[str, Any], *, is_known_to_fit: bool) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**arguments))
        except Exception as error:  # damage surfaces in whichever reader meets it first
            reason = _brief(error)
            if is_known_to_fit:
                raise self._damaged(step, reason) from error
            raise UserError(
                f"checkpoint {self.folder / str(step)} does not fit this config or is damaged "
                f"({reason}); use the config it was trained with, or another --workdir"
            ) from error

    def _damaged(self, step: int, reason: str) -> DamagedCheckpointError:
        older = [each for each in self.steps if each < step]
        fix = (
            f"`jaxdet train` falls back to that of step {max(older)}"
            if older
            else "put back a copy of it, or train in another --workdir"
        )
        return DamagedCheckpointError(
            f"checkpoint {self.folder / str(step)} is damaged ({reason})", fix
        )


class _Preserved:
    """Orbax's policy of which checkpoints are kept, given a function that says it of steps."""

    def __init__(self, kept: Callable[[Sequence[int]], set[int]]):
        self._kept = kept

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        kept = self._kept([each.step for each in checkpoints]) if checkpoints else set()
        return [each.step in kept for each in checkpoints]


def _read_score(path: Path) -> float | None:
    """None where there is none that is readable, as without it the checkpoint is still good."""
    try:
        score = json.loads(read_file(path))["score"] if path.exists() else None
        return float(score) if score is not None and math.isfinite(score) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        if parallel.is_main():
            print(
                f"note: {path} holds no score ({_brief(error)}); the checkpoint is sound but never "
                "the best",
                file=sys.stderr,
            )
        return None


def _brief(error: Exception) -> str:
    """What the system says of a file in a storage library's error, else the start of the error."""
    said = re.search(r"[^:\[\]]+(?= \[os_error_code)", str(error))
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return said[0].strip() if said else first_line[:200]


def _meta_checksum(meta: dict[str, Any]) -> int:
    """Of all that is stored beside the arrays, but for this number."""
    rest = {name: value for name, value in meta.items() if name != "crc32"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def complete_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, in order; the folder may be missing."""
    # Read from the disk: what a manager remembers may be under way, or have failed. A folder gets
    # its number when it is complete.
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def latest_step(folder: Path) -> int | None:
    """Step of the newest complete checkpoint in a folder, or None; the folder may be missing."""
    return max(complete_steps(folder), default=None)


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
    arrays = leaves_by_name(*trees)
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = parallel.to_host(arrays[name])
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()
