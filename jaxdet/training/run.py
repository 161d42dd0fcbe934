"""A training run, of a detector or of a pre-training: what its config and its folder stand for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdet import __version__
from jaxdet.models.build import StatelessModel


class Run:
    """A checked config and a working folder, and what follows from the two.

    Datasets are opened and the model's structure is worked out when first asked for.

    Attributes:
        mesh: the devices, over which batches are split.
        stateless: the model as pure functions.
        schedule: the learning rate at a step, counted from 0.
        optimizer: under the schedule; it leaves alone what is frozen.
        frozen: patterns of the parameters that are not trained.
        batch_statistics: see `jaxdet.training.step.gradient_function`.
        trained_images: number of images in an epoch.
        summary: a line about each data set, and what computes.
        identity: what a checkpoint belongs to, as JSON values; among them the config.
        compared: what of `record`, where it is known, must be the same on resume besides the
            config: key and name.
    """

    mesh: Mesh
    stateless: StatelessModel
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    frozen: Sequence[str]
    batch_statistics = "batch"
    trained_images: int
    summary: Sequence[str]
    identity: dict[str, Any]
    compared: ClassVar[Mapping[str, str]]

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config = config
        self.workdir = workdir
        self.checkpoint_folder = workdir / "checkpoints"

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every training image is sampled once; not a whole number.

        A batch may hold the end of one epoch and the start of the next.
        """
        return self.trained_images / self.config.batch_size

    @cached_property
    def total_steps(self) -> int:
        return self.steps_at(self.config.epochs)

    def steps_at(self, epochs: float) -> int:
        """Training steps in so many epochs, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))

    def steps_every(self, epochs: float) -> set[int]:
        """The steps at which so many epochs have passed again, and the last one."""
        times = math.ceil(self.config.epochs / epochs)
        steps = {self.steps_at(epochs * i) for i in range(1, times + 1)}
        return {step for step in steps if step <= self.total_steps} | {self.total_steps}

    def scalars(self, step: int) -> dict[str, float]:
        """What is written beside a step's own metrics."""
        return {
            "learning_rate": float(self.schedule(step - 1)),
            "epoch": step / self.steps_per_epoch,
        }

    @property
    def plain_config(self) -> dict[str, Any]:
        """The complete config as JSON values."""
        return json.loads(self.config.to_json())

    def record(self, step: int) -> dict[str, Any]:
        """What is stored beside the arrays of a checkpoint, as JSON values.

        Randomness and data follow from the config's seed and the position; the schedule from the
        config, the position and the number of images.
        """
        return {
            **self.identity,
            "position": {"step": step, "images": step * self.config.batch_size},
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Of this package and of what a result depends on."""
    return {
        "jaxdet": __version__,
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")},
    }
