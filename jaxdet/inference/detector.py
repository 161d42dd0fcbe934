"""A trained detector on images of any kind; it needs a run's checkpoint, not its data set.

detector = load("runs/shapes_tiny")
detector.predict("street.jpg").show()
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdet import parallel
from jaxdet.config.keys import keys_with
from jaxdet.config.mask_rcnn import benchmark, check
from jaxdet.config.roles import difference
from jaxdet.config.values import override
from jaxdet.data.canvases import rows_of
from jaxdet.data.dataset import Category, Example, LazyImage
from jaxdet.data.image import Source, as_image
from jaxdet.data.loader import Batch, LoaderSettings, eval_batches
from jaxdet.data.source import augmentation_of
from jaxdet.errors import UserError
from jaxdet.inference.batches import detect_function, inputs_of
from jaxdet.inference.coco_results import Results, coco_results
from jaxdet.inference.prediction import Prediction
from jaxdet.models.build import StatelessModel, Tree, build_detector
from jaxdet.training.checkpoint import open_latest
from jaxdet.weights.load import load_detector
from jaxdet.weights.pushed import local_folder, read_description, weights_at


class Detector:
    """A detector with its weights; compiled at the first image, and once for each shape of batches.

    Args:
        config: a complete config; of its data only how evaluation reads and resizes images is used.
        categories: what each label means.
        params, stats: parameters and batch statistics.
        stateless, mesh: the model they belong to, and the devices that it is made for.
        batch: images at a time, a multiple of the number of devices.
    """

    def __init__(
        self,
        config: ConfigDict,
        categories: Sequence[Category],
        params: Tree,
        stats: Tree,
        stateless: StatelessModel,
        mesh: jax.sharding.Mesh,
        batch: int,
    ):
        self.config = config
        self.categories = tuple(categories)
        self.params, self.stats = params, stats
        self.stateless, self.mesh = stateless, mesh
        self.batch = batch
        self._detect = detect_function(config, stateless, mesh)

    @property
    def orientation(self) -> str:
        """How images lie that were annotated for it, see `EncodedImage`."""
        return self.config.data.orientation

    @property
    def at_once(self) -> int:
        """How many images `predict` is best given together: several batches where only images of
        one shape share one."""
        return self.batch * (8 if self.config.model.detector.pad_multiple else 1)

    def predict(
        self, images: Source | Sequence[Source], *, orientation: str | None = None
    ) -> Prediction | list[Prediction]:
        """What is found on an image, or on each of a list of them.

        Everything above the model's own score threshold is returned; `Prediction.above` filters,
        and drawings show less.

        Args:
            orientation: "exif" to turn files and Pillow's images upright as the camera noted,
                "stored" to take the pixels as they are stored; None for that of the training data.

        Raises:
            UserError: an image cannot be read.
        """
        if not isinstance(images, list | tuple):
            return self.predict([images], orientation=orientation)[0]
        lazy_images = [as_image(image, orientation or self.orientation) for image in images]
        pixels = [image.pixels() for image in lazy_images]
        found: list[Results] = [[] for _ in lazy_images]
        for result in self._results(lazy_images):
            found[result["image_id"]].append(result)
        return [
            Prediction(image, results, self.categories)
            for image, results in zip(pixels, found, strict=True)
        ]

    def prepare(self, image: Source) -> Batch:
        """An image as the model takes it: image uint8 [1, S, S, 3], S = config.image_size (or a
        smaller rectangle, by config.model.detector.pad_multiple), resized to fit the top left
        corner, and image_hw int32 [1, 2], the height and width it has there.
        """
        images = _Unlabelled([as_image(image, self.orientation)])
        augmentation = augmentation_of(self.config)
        multiple = self.config.model.detector.pad_multiple
        (rows,) = rows_of(images, [augmentation], 1, multiple)
        settings = LoaderSettings(1, self.config.data.threads)
        (host,) = eval_batches(images, augmentation, settings, rows)
        return {name: host[name] for name in ("image", "image_hw")}

    def _results(self, images: list[LazyImage]) -> Iterator[dict[str, Any]]:
        """Detections in COCO's result layout; image_id is the position of the image."""
        category_ids = [category.id for category in self.categories]
        settings = LoaderSettings(self.batch, self.config.data.threads)
        for host, inputs in inputs_of(self.config, _Unlabelled(images), settings):
            batch = parallel.shard_batch(inputs, self.mesh)
            detections = self._detect(self.params, self.stats, batch)
            rows = parallel.local_rows(detections)._asdict()
            yield from coco_results(rows, host, category_ids)


@dataclass(frozen=True)
class _Unlabelled:
    """Images as evaluation reads a dataset's; their ids are their positions."""

    images: list[LazyImage]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), ()
        return Example(self.images[index], index, *nothing)


def load(workdir: str | Path, *, batch: int = 1, keys: Mapping[str, str] | None = None) -> Detector:
    """The detector of a run's newest checkpoint, whose config and categories lie beside it; or one
    that `jaxdet push` uploaded.

    Args:
        workdir: where `jaxdet train` wrote; or hf://owner/name, or a folder as it lies there.
        batch: images at a time; is raised to a multiple of the number of devices.
        keys: values of keys of config.model.detector that are of use at test time, as on the
            command line, such as {"nms": "soft_linear", "tta_sizes": "896,1024"}.

    Raises:
        UserError: there is no checkpoint, it cannot be read, or another version wrote it.
    """
    pushed = local_folder(workdir)
    if pushed is not None:
        return _load_pushed(pushed, batch, keys or {})
    folder = Path(workdir) / "checkpoints"
    with open_latest(folder) as (checkpoints, step):
        config, categories = _described(checkpoints.meta(step), folder / str(step))
        _set_test_keys(config, keys or {})
        stateless, mesh, batch = _build(config, len(categories), batch)
        params, stats = checkpoints.restore_model(step, stateless, mesh)
    return Detector(config, categories, params, stats, stateless, mesh, batch)


def _load_pushed(folder: Path, batch: int, keys: Mapping[str, str]) -> Detector:
    config, categories = _described(read_description(folder), folder)
    _set_test_keys(config, keys)
    stateless, mesh, batch = _build(config, len(categories), batch)
    # No file of a recipe's own: these are what became of it.
    of_file = config.copy_and_resolve_references()
    of_file.update(init=str(folder), weights={"sha256": None})
    params, stats, _ = load_detector(of_file, *stateless.abstract)
    params, stats = jax.device_put((params, stats), parallel.replicated(mesh))
    return Detector(config, categories, params, stats, stateless, mesh, batch)


def load_converted(
    init: str | Path,
    config: ConfigDict,
    categories: Sequence[Category] | None = None,
    *,
    batch: int = 1,
    keys: Mapping[str, str] | None = None,
) -> Detector:
    """A whole detector as `checkpoints_convert` wrote it.

    Args:
        init: the converted file.
        config: of the detector.
        categories: in the order of the detector's labels; None to number them from 1.
        batch, keys: as in `load`.

    Raises:
        UserError: the file holds no whole detector or another one than the config describes.
    """
    config = config.copy_and_resolve_references()
    config.init = str(init)
    _without_gpu(config)
    _set_test_keys(config, keys or {})
    count = _class_count(init)
    if categories is None:
        categories = [Category(number, f"class {number}") for number in range(1, count + 1)]
    if len(categories) != count:
        raise UserError(
            f"{init} has {count} classes, but {len(categories)} categories are given; give the "
            "list that it was trained on"
        )
    stateless, mesh, batch = _build(config, len(categories), batch)
    params, stats, _ = load_detector(config, *stateless.abstract)
    params, stats = jax.device_put((params, stats), parallel.replicated(mesh))
    return Detector(config, categories, params, stats, stateless, mesh, batch)


def _build(
    config: ConfigDict, num_classes: int, batch: int
) -> tuple[StatelessModel, jax.sharding.Mesh, int]:
    """The model on all devices, and the batch as a multiple of their number."""
    if batch < 1:
        raise UserError(f"batch={batch} must be at least 1 image")
    batch = -(-batch // jax.device_count()) * jax.device_count()
    mesh = parallel.data_mesh(batch, batch)
    return build_stateless(config, num_classes, mesh), mesh, batch


def build_stateless(
    config: ConfigDict, num_classes: int, mesh: jax.sharding.Mesh
) -> StatelessModel:
    """The config's detector as pure functions, for batches that are split over the devices."""
    return StatelessModel(lambda rngs: build_detector(config, num_classes, rngs, mesh))


def _described(meta: Any, checkpoint: Path) -> tuple[ConfigDict, list[Category]]:
    """The config and the categories in a checkpoint's meta."""
    # Any complete config gives the keys and their types.
    config = benchmark("tiny", "random", lr=1.0, weight_decay=0.0, drop_path=0.0, epochs=1.0)
    if isinstance(meta, dict) and "images" in meta and "categories" not in meta:
        raise UserError(f"{checkpoint} holds a pre-training; train a detector from its weights.npz")
    try:
        config.update(meta["config"])
        changed = difference(meta["config"], json.loads(config.to_json()))
        names, ids = meta["categories"], meta["category_ids"]
        if len(names) != len(ids):
            raise ValueError("categories and category_ids differ in length")
        categories = [Category(int(i), str(name)) for i, name in zip(ids, names, strict=True)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        changed = str(error).splitlines()[0]
    if changed:
        raise UserError(
            f"{checkpoint} was written by another version of jaxdet ({changed}); use that version"
        )
    config.init = config.init_from = config.few_shot.base_run = None  # training started there
    _without_gpu(config)
    check(config)
    return config, categories


def _set_test_keys(config: ConfigDict, keys: Mapping[str, str]) -> None:
    """Sets keys of config.model.detector, see `load`."""
    allowed = [name.removeprefix("model.detector.") for name in keys_with("test")]
    for key, text in keys.items():
        if key not in allowed:
            raise UserError(
                f"{key!r} must be a key that a trained detector may be used with another value of: "
                f"{', '.join(allowed)}"
            )
        override(config, f"model.detector.{key}", text)
    check(config)


def _without_gpu(config: ConfigDict) -> None:
    """Takes what attention there is, which computes the same, where there is no GPU for cuDNN's."""
    if config.model.vit.attention == "cudnn" and jax.default_backend() != "gpu":
        config.model.vit.attention = "auto"


def _class_count(init: str | Path) -> int:
    arrays = weights_at(init).arrays
    logits = arrays.get("box_head.logits.bias", arrays.get("box_head.0.logits.bias"))
    if logits is None:
        raise UserError(f"{init} must hold a whole detector; give a converted detector")
    return len(logits) - 1  # the last is the background
