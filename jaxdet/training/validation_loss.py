"""The training losses of the validation images."""

from __future__ import annotations

import jax
import numpy as np

from jaxdet import parallel
from jaxdet.data.loader import fitted_batches
from jaxdet.data.source import augmentation_of, loader_settings
from jaxdet.errors import UserError
from jaxdet.models.build import Tree
from jaxdet.training.experiment import Experiment
from jaxdet.training.step import make_loss_function


class ValidationLoss:
    """The mean losses of the validation images that show objects, without augmentation.

    Each image counts once. Where their number is no multiple of config.eval_batch_size, the first
    of them fill up the last batch, for its batch norm alone.

    Compiled at the first call. The same RoIs are sampled from the same proposals each time.

    Raises:
        UserError: no validation image has an object.
    """

    def __init__(self, experiment: Experiment):
        val_set = experiment.val_set
        if not any(val_set.has_objects(index) for index in range(len(val_set))):
            raise UserError(
                "config.eval_loss needs validation images with objects, and there are none; set it "
                "to False, or check config.data"
            )
        self._experiment = experiment
        self._losses = make_loss_function(experiment.stateless, experiment.mesh)

    def __call__(self, params: Tree, stats: Tree) -> dict[str, float]:
        """The losses by name, "loss" their sum; the same numbers in every process."""
        config, mesh = self._experiment.config, self._experiment.mesh
        settings = loader_settings(
            config.data, config.eval_batch_size, jax.process_index(), jax.process_count()
        )
        batches = fitted_batches(
            self._experiment.val_set,
            augmentation_of(config),
            settings,
            max_instances=config.data.max_instances,
            mask_size=config.data.mask_size,
        )
        found = []
        for number, host in enumerate(batches):
            host.pop("image_id")
            key = jax.random.fold_in(jax.random.key(config.seed), number)
            found.append(self._losses(params, stats, parallel.shard_batch(host, mesh), key))
        losses, shares = zip(*jax.device_get(found), strict=True)
        return {
            name: float(np.mean([each[name] for each in losses]) / np.mean(shares))
            for name in losses[0]
        }
