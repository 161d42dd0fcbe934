"""What a detector's config stands for: the model, its optimizer and schedule, data and devices."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import jax
import numpy as np
import optax

from jaxdet import parallel
from jaxdet.data.dataset import DetectionDataset, category_difference
from jaxdet.data.doubts import SAME_IMAGES
from jaxdet.data.loader import trained_image_counts, trained_images
from jaxdet.data.source import open_dataset, trains_on_validation
from jaxdet.errors import UserError
from jaxdet.models.attention import Choice, choose_for
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.settings import is_backbone_frozen
from jaxdet.training import optim
from jaxdet.training.run import Run
from jaxdet.weights.pushed import original_sha256

FROZEN_BACKBONE = (
    "the ViT stays as it starts (config.optim.train): config.optim.layer_decay, "
    "config.model.vit.drop_path and config.model.vit.remat have no effect"
)


class Experiment(Run):
    """The training and evaluation of a detector."""

    compared: ClassVar = {
        "categories": "categories",
        "train_images": "the number of training images",
        "train_annotations_sha256": "the SHA-256 of the training annotations",
        "val_annotations_sha256": "the SHA-256 of the validation annotations",
        "init_sha256": "the SHA-256 of the weights that config.init was converted from",
    }

    @cached_property
    def train_set(self) -> DetectionDataset:
        dataset = self._open("train")
        difference = category_difference(dataset.categories, self.val_set.categories)
        if difference is not None:
            raise UserError(difference)
        return dataset

    @cached_property
    def val_set(self) -> DetectionDataset:
        return self._open("val")

    def _open(self, split: str) -> DetectionDataset:
        has_masks = self.config.model.heads.mask
        return open_dataset(self.config.data, split, masks=has_masks)

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        config = self.config
        return parallel.data_mesh(config.batch_size, config.eval_batch_size, config.accumulate)

    @property
    def attention(self) -> Choice:
        """What computes the ViT's attention on these devices."""
        return choose_for(self.config, self.mesh)

    @cached_property
    def stateless(self) -> StatelessModel:
        num_classes = len(self.val_set.categories)
        return StatelessModel(
            lambda rngs: build_detector(
                self.config, num_classes, rngs, self.mesh, self._image_counts
            )
        )

    def _image_counts(self) -> np.ndarray:
        return trained_image_counts(self.train_set, self.config.data.empty_images)

    @cached_property
    def trained_images(self) -> int:
        """Number of training images with objects, and of those kept as background."""
        return trained_images(self.train_set, self.config.data.empty_images)

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
    def frozen(self) -> tuple[str, ...]:
        return optim.frozen_parameters(self.config)

    @property
    def batch_statistics(self) -> str:
        return self.config.batch_statistics

    @property
    def identity(self) -> dict[str, Any]:
        categories = self.val_set.categories
        return {
            "config": self.plain_config,
            "categories": [category.name for category in categories],
            "category_ids": [category.id for category in categories],
        }

    def record(self, step: int) -> dict[str, Any]:
        return {
            **super().record(step),
            "train_images": self.trained_images,
            "train_annotations_sha256": self.train_set.annotations_sha256,
            "val_annotations_sha256": self.val_set.annotations_sha256,
            "init_sha256": self._init_sha256,
        }

    @cached_property
    def _init_sha256(self) -> str | None:
        init = self.config.init
        return None if init is None else original_sha256(init)

    def scalars(self, step: int) -> dict[str, float]:
        scalars = super().scalars(step)
        decay = 1.0 if is_backbone_frozen(self.config) else self.config.optim.layer_decay
        lowest = decay ** (self.config.model.vit.depth + 1)
        return {**scalars, "learning_rate_lowest": scalars["learning_rate"] * lowest}

    @property
    def summary(self) -> list[str]:
        lines = [self.train_set.summary(), self.val_set.summary(), str(self.attention)]
        lines += [FROZEN_BACKBONE] if is_backbone_frozen(self.config) else []
        lines += [f"warning: {doubt}" for doubt in self._doubts()]
        return list(dict.fromkeys(lines))

    @property
    def val_summary(self) -> list[str]:
        """Lines about the validation data alone."""
        claims = [doubt.what for doubt in self.val_set.doubts()]
        warning = [f"warning: validation data: {'; '.join(claims)}"] if claims else []
        return [self.val_set.summary(), *warning]

    def _doubts(self) -> Iterator[str]:
        if trains_on_validation(self.config.data):
            yield SAME_IMAGES
        for split, dataset in (("training", self.train_set), ("validation", self.val_set)):
            claims = [doubt.what for doubt in dataset.doubts()]
            if claims:
                yield f"{split} data: {'; '.join(claims)} (jaxdet data check says more)"
