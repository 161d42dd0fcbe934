"""What a config stands for: the model, its optimizer and schedule, the devices they run on."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.data.dataset import DetectionDataset
from jaxdet.data.loader import trained_images
from jaxdet.data.source import open_dataset
from jaxdet.errors import UserError
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.training import optim


class Experiment:
    """A checked config and a working folder, and what follows from the two.

    Datasets are opened and the model's structure is worked out when first asked for.
    """

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config = config
        self.workdir = workdir
        self.checkpoint_folder = workdir / "checkpoints"

    @cached_property
    def train_set(self) -> DetectionDataset:
        dataset = open_dataset(self.config.data, "train")
        if [*dataset.categories] != [*self.val_set.categories]:
            raise UserError(
                "the training and validation annotations list different categories; "
                "give both files the same list"
            )
        return dataset

    @cached_property
    def val_set(self) -> DetectionDataset:
        return open_dataset(self.config.data, "val")

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        config = self.config
        return parallel.data_mesh(config.batch_size, config.eval_batch_size, config.accumulate)

    @cached_property
    def stateless(self) -> StatelessModel:
        num_classes = len(self.val_set.categories)
        return StatelessModel(
            lambda rngs: build_detector(self.config, num_classes, rngs, self.mesh)
        )

    @cached_property
    def trained_images(self) -> int:
        """Number of training images with objects."""
        return trained_images(self.train_set)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every training image with objects is drawn once; not a whole number.

        A batch may hold the end of one epoch and the start of the next.
        """
        return self.trained_images / self.config.batch_size

    @cached_property
    def total_steps(self) -> int:
        return self.steps_at(self.config.epochs)

    def steps_at(self, epochs: float) -> int:
        """Training steps in so many epochs, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))

    @cached_property
    def schedule(self) -> optax.Schedule:
        settings = self.config.optim
        return optim.lr_schedule(
            settings.schedule,
            peak=settings.lr,
            total_steps=self.total_steps,
            warmup_steps=round(settings.warmup_epochs * self.steps_per_epoch),
            warmup_factor=settings.warmup_factor,
            milestones=tuple(settings.milestones),
        )

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        return optim.build_optimizer(self.config, self.schedule)

    @property
    def plain_config(self) -> dict[str, Any]:
        """The complete config as JSON values."""
        return json.loads(self.config.to_json())

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint of this experiment belongs to, as JSON values."""
        categories = self.val_set.categories
        return {
            "config": self.plain_config,
            "categories": [category.name for category in categories],
            "category_ids": [category.id for category in categories],
        }
