"""Pre-trains a ViT by masked autoencoding (MAE, arXiv 2111.06377) for detectors to start from.

    python -m jaxdet.pretrain --config=configs/mini/pretrain.py --workdir=runs/mini/pretrain

Images are the drawn shapes, or those of any folder: --config.data.root=/data/images. Writes
<workdir>/weights.npz for `config.init` of a detector, imTED's with its decoder among them, and
<workdir>/reconstructions.png to look at. The same command resumes a run that was interrupted.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags, logging
from flax import nnx
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image

from jaxdet import __version__, parallel
from jaxdet.config.mae import check_pretraining
from jaxdet.config.roles import difference
from jaxdet.data.dataset import LazyImage
from jaxdet.data.unlabelled import crop_batches, open_images
from jaxdet.errors import UserError
from jaxdet.evaluation.result_files import versions
from jaxdet.files import atomic_write, write_json
from jaxdet.flags import config_path, parse_with_config, run_main
from jaxdet.models.build import StatelessModel, Tree, parameter_count
from jaxdet.models.mae import FROZEN, MAE, patch_statistics, random_orders, unpatchify
from jaxdet.models.paths import path_name
from jaxdet.models.vit import patchify
from jaxdet.training.checkpoint import Checkpoints, abstract, digest
from jaxdet.training.metric_writer import MetricWriter, Progress
from jaxdet.training.optim import adamw
from jaxdet.training.step import Metrics, State, abstract_state, initial_state, make_train_step
from jaxdet.visualize import contact_sheet
from jaxdet.weights.file import write_weights

DEFAULT_CONFIG = "mini/pretrain"

NO_DECAY = ("norm", r"\.bias$", "pos_embed")

NEUTRAL_KEYS = tuple(
    f"config.{word}"
    for word in (
        "data.root",
        "data.threads",
        "data.workers",
        "checkpoint_every",
        "log_every_steps",
        "log_every_seconds",
    )
)
"""Words a resumed run may change."""

DETECTOR_PATHS = {
    "encoder.": "backbone.",
    "norm.": "box_head.norm.",
    "decoder.embed.": "box_head.embed.",
    "decoder.pos_embed": "box_head.pos_embed",
    "decoder.blocks.": "box_head.blocks.",
}
"""Where a detector has the parameters of a pre-training: all in imTED, the encoder's in others."""

SHOWN = 8
"""Images in the picture of reconstructions."""


@dataclass(frozen=True)
class Pretraining:
    """A checked config, and what follows from it."""

    config: ConfigDict

    @cached_property
    def pictures(self) -> Sequence[LazyImage]:
        """All images there are to learn from."""
        return open_images(self.config.data)

    @cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices, over which batches are spread."""
        return parallel.data_mesh(self.config.batch_size, self.config.batch_size)

    @cached_property
    def stateless(self) -> StatelessModel:
        """The model as pure functions."""
        return StatelessModel(lambda rngs: build_mae(self.config, rngs))

    def steps_at(self, epochs: float) -> int:
        """Training steps in so many epochs, at least one."""
        return max(1, round(epochs * len(self.pictures) / self.config.batch_size))

    @cached_property
    def total_steps(self) -> int:
        """Of the whole pre-training."""
        return self.steps_at(self.config.epochs)

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
        """What a checkpoint belongs to, as JSON values."""
        return {"config": json.loads(self.config.to_json()), "images": len(self.pictures)}


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
    """Trains to the config's last epoch, or goes on from the newest checkpoint of the workdir.

    Returns:
        The file of weights for a detector.

    Raises:
        UserError: the images are missing or broken, the workdir holds a run of another config or
            cannot be written, or the loss is no longer finite.
    """
    run = Pretraining(config)
    total = run.total_steps
    saves = math.ceil(config.epochs / config.checkpoint_every)
    save_steps = {run.steps_at(config.checkpoint_every * i) for i in range(1, saves)} | {total}
    train_step = make_train_step(run.stateless, run.optimizer, run.mesh, frozen=FROZEN)
    run_key = jax.random.key(config.seed)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(workdir / "checkpoints"))
        _claim_workdir(run, workdir, checkpoints)
        state, start_step = _start(run, checkpoints)
        _introduce(run, start_step)
        writer = stack.enter_context(MetricWriter(workdir, start_step))
        progress = stack.enter_context(
            Progress(
                total,
                start_step,
                images_per_step=config.batch_size,
                log_every_seconds=config.log_every_seconds,
            )
        )

        def read(step: int, metrics: Metrics) -> None:
            if metrics.pop("skipped"):
                raise UserError(
                    f"pre-training diverged: the loss or its gradient is not finite at step {step}"
                    "; lower config.optim.lr and use a new --workdir"
                )
            if step % config.log_every_steps == 0 or step == total:
                rate = run.schedule(step - 1)
                writer.write(step, {**metrics, "learning_rate": rate})
            progress.update(step, {"loss": metrics["loss"]})

        batches = _batches(run, start_step)
        unread = None
        for step in range(start_step + 1, total + 1):
            state, metrics = train_step(state, next(batches), run_key)
            # Reading waits for the device: by now it has the next step to work on.
            if unread is not None:
                read(*unread)
            unread = step, metrics
            if step in save_steps:
                read(*unread)
                unread = None
                checkpoints.save(state, step, {**run.identity, "versions": versions()})
        images = jax.device_get(next(batches)["image"][:SHOWN])
        batches.close()
    params = jax.device_get(state["params"])
    sheet = reconstructions(run.stateless, params, images, jax.random.key(config.seed))
    path = workdir / "weights.npz"
    write_weights(path, detector_arrays(params).items(), weights_report(run, params))
    with atomic_write(workdir / "reconstructions.png") as partial:
        Image.fromarray(sheet).save(partial, "PNG")
    return path


def _claim_workdir(run: Pretraining, workdir: Path, checkpoints: Checkpoints) -> None:
    """Refuses the checkpoints of another config; writes config.json."""
    identity = run.identity
    if checkpoints.latest is not None:
        stored = checkpoints.meta(checkpoints.latest)
        changed = difference(stored["config"], identity["config"], ignored=NEUTRAL_KEYS)
        changed = changed or difference(stored["images"], identity["images"], "number of images")
        if changed:
            raise UserError(
                f"{workdir} holds a pre-training of another config ({changed}); "
                "use another --workdir, or the config of that run"
            )
    write_json(workdir / "config.json", identity["config"], indent=2)


def _start(run: Pretraining, checkpoints: Checkpoints) -> tuple[State, int]:
    """The newest checkpoint's state, or a fresh one, and the number of steps it has seen."""
    placement = parallel.replicated(run.mesh)
    step = checkpoints.latest
    if step is None:

        def init() -> State:
            key = jax.random.key(run.config.seed)
            return initial_state(run.stateless, run.optimizer, key)

        return jax.jit(init, out_shardings=placement)(), 0
    shapes = abstract_state(run.stateless, run.optimizer)
    restored = checkpoints.restore(step, abstract(shapes, placement))
    return {**restored, "step": jax.device_put(np.int32(step), placement)}, step


def _introduce(run: Pretraining, start_step: int) -> None:
    """Says in a few lines what is about to run."""
    parameters = parameter_count(run.stateless.abstract[0])
    print(
        f"{parameters / 1e6:.1f} M parameters, {run.total_steps} steps of "
        f"{run.config.batch_size} of {len(run.pictures)} images on {jax.device_count()} "
        f"{jax.devices()[0].device_kind} device(s)"
    )
    if start_step:
        print(f"resuming after step {start_step}")


def _batches(run: Pretraining, start_step: int) -> Iterator[dict[str, jax.Array]]:
    config = run.config
    batches = crop_batches(
        run.pictures,
        batch_size=config.batch_size,
        image_size=config.image_size,
        crop_area=tuple(config.data.crop_area),
        flip=config.data.flip,
        seed=config.seed,
        start_step=start_step,
        threads=config.data.threads,
        workers=config.data.workers,
    )
    for batch in batches:
        yield parallel.place_batch(batch, run.mesh)


def reconstructions(
    stateless: StatelessModel,
    params: Tree,
    images: UInt8[np.ndarray, "n s s 3"],
    key: jax.Array,
) -> UInt8[np.ndarray, "h w 3"]:
    """A sheet of images: what the encoder saw, what the decoder painted, and the original.

    The decoder predicts patches without their mean and contrast; these are the original's here.
    """

    @jax.jit
    def paint(params: Tree, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = stateless.bind(params, {})
        patch = model.encoder.patch
        order = random_orders(jax.random.split(key, len(images)), model.patches)
        hidden = model.is_masked(order)[..., None]
        normalised = model.normalise(images)
        predicted = model(normalised, order)
        patches = patchify(normalised, patch).reshape(predicted.shape)
        mean, std = patch_statistics(patches)
        seen = jnp.where(hidden, 0.0, patches)  # the mean colour
        painted = jnp.where(hidden, predicted * std + mean, patches)
        return tuple(model.to_pixels(unpatchify(x, patch)) for x in (seen, painted))

    triples = zip(*paint(params, images), images, strict=True)
    shown = [np.uint8(np.clip(image, 0, 255)) for triple in triples for image in triple]
    return contact_sheet(shown, 6, cell=128)


def detector_arrays(params: Tree) -> dict[str, np.ndarray]:
    """The parameters that detectors take, under their paths there."""
    return {theirs: value for _, theirs, value in _named(params) if theirs is not None}


def _named(params: Tree) -> list[tuple[str, str | None, np.ndarray]]:
    """Each parameter's path, its path in a detector or None, and its value."""
    named = []
    for key_path, value in jax.tree_util.tree_leaves_with_path(params):
        name = path_name(key_path)
        theirs = next(
            (
                path + name.removeprefix(own)
                for own, path in DETECTOR_PATHS.items()
                if name.startswith(own)
            ),
            None,
        )
        named.append((name, theirs, np.asarray(value)))
    return named


def weights_report(run: Pretraining, params: Tree) -> dict[str, Any]:
    """What a detector must know of the weights, as `checkpoints_convert` reports it of others."""
    config, model = run.config, run.config.model
    grid = config.image_size // model.vit.patch
    named = _named(params)
    used = {name: value for name, theirs, value in named if theirs is not None}
    reason = "paints masked patches, which no detector has"
    return {
        "jaxdet": __version__,
        "source": {
            "file": "a pre-training by jaxdet.pretrain",
            "bytes": sum(value.nbytes for _, _, value in named),
            "sha256": digest(params),
        },
        "layout": "MAE",
        "chosen": "pre-trained here",
        "kind": "backbone with a decoder",
        "vit": {
            **{word: model.vit[word] for word in ("width", "depth", "heads", "patch")},
            "position_grid": grid,
            **{f"decoder_{word}": model.decoder[word] for word in ("width", "depth", "heads")},
        },
        "config": {
            **{f"model.vit.{word}": value for word, value in model.vit.items()},
            "model.vit.qkv_bias": "qkv",
            "model.vit.layer_scale": False,
            "model.vit.activation": "gelu",
            "model.vit.pre_norm": False,
            "model.vit.class_token": True,
            **{f"model.decoder.{word}": value for word, value in model.decoder.items()},
            "model.decoder.pretrain_grid": grid,
        },
        "pixel_mean": list(model.pixel_mean),
        "pixel_std": list(model.pixel_std),
        "pixels_from": "the pre-training's config",
        "used": {
            "tensors": len(used),
            "parameters": sum(value.size for value in used.values()),
            "names": list(used),
        },
        "left_out": [{"name": name, "reason": reason} for name, _, _ in named if name not in used],
        "unknown": [],
        "notes": [
            f"{config.epochs:g} epochs of {len(run.pictures)} "
            f"{'drawn shapes' if config.data.root is None else 'images'}, seed {config.seed}"
        ],
        "pretraining": run.identity["config"],
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_main(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> None:
    values = parse_with_config(flags.FlagValues(), arguments, DEFAULT_CONFIG)
    if values.help:
        print(__doc__ + "\n" + values.main_module_help())
        return
    check_pretraining(values.config)
    name = config_path(arguments, DEFAULT_CONFIG).stem
    print(pretrain(values.config, Path(values.workdir or Path("runs") / name)))


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    sys.exit(main())
