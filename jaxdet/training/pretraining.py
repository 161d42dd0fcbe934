"""Pre-training by masked autoencoding (MAE, arXiv 2111.06377): the run, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from jaxdet import parallel
from jaxdet.data.dataset import LazyImage
from jaxdet.data.loader import Batch, LoaderSettings
from jaxdet.data.source import loader_settings
from jaxdet.data.unlabelled import crop_batches, open_images
from jaxdet.files import atomic_write
from jaxdet.models.build import StatelessModel, Tree
from jaxdet.models.mae import FROZEN, MAE, patch_statistics, random_orders, unpatchify
from jaxdet.models.vit import patchify
from jaxdet.training.loop import Task, fit
from jaxdet.training.optim import adamw
from jaxdet.training.pretrained_weights import detector_arrays, weights_report
from jaxdet.training.run import Run
from jaxdet.training.trackers.tracking import Trackers
from jaxdet.visualize import contact_sheet
from jaxdet.weights.file import write_weights

NO_DECAY = ("norm", r"\.bias$", "pos_embed")

SHOWN = 8
"""Images on the sheet of reconstructions."""


class Pretraining(Run):
    """The pre-training of a ViT by masked autoencoding."""

    compared: ClassVar = {"images": "number of images"}
    frozen = FROZEN

    @cached_property
    def images(self) -> Sequence[LazyImage]:
        """All images there are to learn from."""
        return open_images(self.config.data)

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        config = self.config
        return parallel.data_mesh(config.batch_size, config.batch_size, config.accumulate)

    @cached_property
    def stateless(self) -> StatelessModel:
        return StatelessModel(lambda rngs: build_mae(self.config, rngs))

    @property
    def trained_images(self) -> int:
        return len(self.images)

    @cached_property
    def schedule(self) -> optax.Schedule:
        """A linear warm-up from 0, then half a cosine to 0; the rate is meant for 256 images."""
        settings = self.config.optim
        share = settings.warmup_epochs / self.config.epochs
        return optax.warmup_cosine_decay_schedule(
            0.0,
            settings.lr * self.config.batch_size / 256,
            min(round(share * self.total_steps), self.total_steps - 1),
            self.total_steps,
        )

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """AdamW, without decay of what NO_DECAY names."""
        settings = self.config.optim
        return adamw(
            self.schedule,
            weight_decay=settings.weight_decay,
            betas=tuple(settings.betas),
            no_decay=NO_DECAY,
            frozen=FROZEN,
        )

    @property
    def identity(self) -> dict[str, Any]:
        return {"config": self.plain_config, "images": len(self.images)}

    @property
    def summary(self) -> list[str]:
        kind = "rendered shapes" if self.config.data.root is None else "images"
        return [f"{len(self.images)} {kind}"]

    def batches(self, start_step: int) -> Iterator[Batch]:
        """This process's rows of the batches from `start_step` on, on the host."""
        data, size = self.config.data, self.config.batch_size
        settings = loader_settings(data, size, jax.process_index(), jax.process_count())
        return self._crops(settings, start_step)

    def next_crops(self) -> UInt8[np.ndarray, "n s s 3"]:
        """The crops that would be next after the last step, SHOWN of them."""
        seen = self.total_steps * self.config.batch_size
        settings = LoaderSettings(SHOWN, self.config.data.threads)
        batches = self._crops(settings, seen // SHOWN)
        images = next(batches)["image"]
        batches.close()
        return images

    def _crops(self, settings: LoaderSettings, start_step: int) -> Iterator[Batch]:
        data = self.config.data
        return crop_batches(
            self.images,
            settings,
            image_size=self.config.image_size,
            crop_area=tuple(data.crop_area),
            flip=data.flip,
            seed=self.config.seed,
            start_step=start_step,
        )


def build_mae(config: ConfigDict, rngs: nnx.Rngs) -> MAE:
    """The model that a complete config describes, randomly initialised."""
    model = config.model
    return MAE(
        image_size=config.image_size,
        vit=dict(model.vit),
        decoder=dict(model.decoder),
        mask_ratio=model.mask_ratio,
        pixel_mean=tuple(model.pixel_mean),
        pixel_std=tuple(model.pixel_std),
        dtype=jnp.dtype(model.dtype),
        rngs=rngs,
    )


def pretrain(config: ConfigDict, workdir: Path) -> Path:
    """Trains to the config's last epoch, or resumes from the newest checkpoint of the workdir.

    Returns:
        The file of weights for a detector; <workdir>/reconstructions.png lies beside it.

    Raises:
        UserError: the images are missing or broken; or see `jaxdet.training.loop.fit`.
        PreemptedError: the process was asked to stop by SIGTERM, and has saved its state.
    """
    run = Pretraining(config, workdir)
    path, picture = workdir / "weights.npz", workdir / "reconstructions.png"
    with Trackers(config.trackers) as trackers:
        state = fit(Task(run, batches=run.batches, trackers=trackers))
        params = jax.tree.map(parallel.to_host, state["params"])
        if parallel.is_main():
            key = jax.random.key(config.seed)
            sheet = reconstructions(run.stateless, params, run.next_crops(), key)
            report = weights_report(run.plain_config, run.summary[0], params)
            write_weights(path, detector_arrays(params).items(), report)
            with atomic_write(picture) as unfinished:
                Image.fromarray(sheet).save(unfinished, "PNG")
            trackers.picture(int(state["step"]), picture.stem, picture)
    return path


def reconstructions(
    stateless: StatelessModel,
    params: Tree,
    images: UInt8[np.ndarray, "n s s 3"],
    key: jax.Array,
) -> UInt8[np.ndarray, "h w 3"]:
    """A sheet of images: what the encoder saw, what the decoder predicted, and the original.

    The decoder predicts patches without their mean and contrast; these are the original's here.
    """
    triples = zip(*_reconstruct(stateless, params, images, key), images, strict=True)
    shown = [np.uint8(np.clip(image, 0, 255)) for triple in triples for image in triple]
    return contact_sheet(shown, 6, cell=128)


@partial(jax.jit, static_argnums=0)
def _reconstruct(
    stateless: StatelessModel, params: Tree, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the encoder saw of each image, and with it what the decoder predicted, as pixels."""
    model = stateless.bind(params, {})
    patch = model.encoder.patch
    order = random_orders(jax.random.split(key, len(images)), model.patches)
    hidden = model.is_masked(order)[..., None]
    normalised = model.normalise(images)
    predicted = model(normalised, order)
    patches = patchify(normalised, patch).reshape(predicted.shape)
    mean, std = patch_statistics(patches)
    seen = jnp.where(hidden, 0.0, patches)  # the mean colour
    filled = jnp.where(hidden, predicted * std + mean, patches)
    return tuple(model.to_pixels(unpatchify(x, patch)) for x in (seen, filled))
