"""Batches of static shape from a dataset, decoded and transformed by grain's threads or processes.

Row r of global batch k is always element k * batch_size + r of one endless stream, and its random
numbers hang on the seed and on this position alone. So a run resumes by naming its step, and the
number of threads, worker processes or hosts changes nothing.

Worker processes start anew from the main module, so a script that asks for them needs
`if __name__ == "__main__":`. Finished batches come through shared memory (/dev/shm): room for two a
worker is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from jaxdet.data.canvases import Augmentation, Row, rows_of
from jaxdet.data.dataset import DetectionDataset, Example
from jaxdet.data.image import ArrayImage
from jaxdet.data.repeats import RepeatedImages, image_counts, repeat_factors
from jaxdet.data.transform import Transform, transform_image
from jaxdet.data.transform_objects import Objects, transform_objects
from jaxdet.errors import UserError
from jaxdet.processes import leave_with_parent

Batch = dict[str, np.ndarray]

TRAINING_PAD = 128
EVALUATION_PAD = 0
PADDING_IMAGE_ID = -1

WORKER_DIED = "Worker process was terminated"
"""What grain's error says then."""

_ENDLESS = 2**48


@dataclass(frozen=True)
class LoaderSettings:
    """Who makes batches, and of what size; changes nothing about the images.

    Attributes:
        batch_size: images of all hosts together.
        threads: that read and transform images beside the caller; 0 for none.
        workers: processes that each make whole batches, instead of threads; 0 for none.
        process_index: this host's rank.
        process_count: number of hosts; each gets an equal run of rows of every batch.

    Raises:
        UserError: the batch cannot be split evenly.
    """

    batch_size: int
    threads: int = 8
    workers: int = 0
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        if self.batch_size <= 0 or self.batch_size % self.process_count:
            raise UserError(
                f"batch size {self.batch_size} must be a positive multiple of the number of hosts, "
                f"{self.process_count}, so that it can be split evenly"
            )

    @property
    def local_batch(self) -> int:
        """Images of this host in a batch."""
        return self.batch_size // self.process_count


def train_batches(
    dataset: DetectionDataset,
    augmentation: Augmentation,
    settings: LoaderSettings,
    *,
    max_instances: int,
    mask_size: int,
    seed: int,
    empty_images: float = 0.0,
    repeat_threshold: float = 0.0,
    start_step: int = 0,
) -> Iterator[Batch]:
    """Endless training batches, augmented, in a new order every epoch.

    Images without an object to train on are never sampled, but for a share of those without any
    annotation. Of an image that shows more than
    `max_instances` objects, a random choice of `max_instances` is kept.

    Args:
        augmentation: gives the side S of the square canvas in pixels.
        max_instances: objects per image, N.
        mask_size: M; an object's mask takes M x M bytes, see `jaxdet.mask_format`.
        seed: of order, augmentation and choice; 0 to 2**32 - 1.
        empty_images: that share, see `trained_images`.
        repeat_threshold: that of `repeat_factors`; 0 for no image to come more often than others.
        start_step: the first batch to give; equal to skipping that many batches.

    Returns:
        An iterator of dicts, B = batch_size / process_count: image uint8 [B, S, S, 3], image_hw
        int32 [B, 2] (S, S under large-scale jitter), boxes float32 [B, N, 4] in canvas pixels,
        labels int32 [B, N], masks uint8 [B, N, M, M] and outlined bool [B, N] (see
        `jaxdet.mask_format`), valid bool [B, N], image_id int64 [B].

    Raises:
        UserError: no image has an object; from the iterator, whatever the dataset raises for an
            unreadable image.
    """
    indices = _trainable_indices(dataset, empty_images)
    if not any(dataset.has_objects(index) for index in indices.tolist()):
        reasons = [str(doubt) for doubt in dataset.doubts() if doubt.is_error]
        raise UserError(
            "no image of the training set has an object to train on; "
            + (reasons[0] if reasons else "check that its annotations carry segmentations")
        )
    images = _Subset(dataset, indices)
    if repeat_threshold:
        factors = repeat_factors(images.labels(), len(dataset.categories), repeat_threshold)
        stream = grain.MapDataset.source(RepeatedImages(images, factors, seed)).seed(seed)
    else:
        stream = grain.MapDataset.source(images).seed(seed).shuffle().repeat()
    stream = stream.random_map(_TrainingExample(augmentation, max_instances, mask_size))
    return endless_batches(stream, settings, start_step)


def endless_batches(
    stream: grain.MapDataset, settings: LoaderSettings, start_step: int
) -> Iterator[Batch]:
    """This host's rows of the batches of an endless stream of examples; see `train_batches`."""
    rows = grain.MapDataset.range(start_step * settings.local_batch, _ENDLESS)
    return _batches(rows.map(_HostRow(stream, settings)), settings)


def trained_images(dataset: DetectionDataset, empty_images: float = 0.0) -> int:
    """How many images are trained on in an epoch.

    Args:
        empty_images: share of the images without any annotation that are among them.
    """
    return len(_trainable_indices(dataset, empty_images))


def trained_image_counts(dataset: DetectionDataset, empty_images: float = 0.0) -> np.ndarray:
    """How many of these images show each category, int64 [categories]."""
    images = _Subset(dataset, _trainable_indices(dataset, empty_images))
    return image_counts(images.labels(), len(dataset.categories))


def eval_batches(
    dataset: DetectionDataset,
    augmentation: Augmentation,
    settings: LoaderSettings,
    rows: Sequence[Row] | None = None,
) -> Iterator[Batch]:
    """Every image once, resized as `augmentation.fit` says.

    All hosts get the same number of batches. Rows without an image have is_real False and
    image_id -1.

    Args:
        augmentation: gives the side of the square canvas in pixels.
        rows: of all batches, see `rows_of`; None for squares in the dataset's order.

    Returns:
        An iterator of dicts, B = batch_size / process_count, H x W the canvas of the batch: image
        uint8 [B, H, W, 3], image_hw int32 [B, 2] after resizing, original_hw int32 [B, 2], image_id
        int64 [B], is_real bool [B]. It raises whatever the dataset raises for an unreadable image.
    """
    if rows is None:
        (rows,) = rows_of(dataset, [augmentation], settings.batch_size)
    stream = grain.MapDataset.range(len(rows)).map(_EvaluationExample(dataset, augmentation, rows))
    local = grain.MapDataset.range(len(rows) // settings.process_count)
    return _batches(local.map(_HostRow(stream, settings)), settings)


def fitted_batches(
    dataset: DetectionDataset,
    augmentation: Augmentation,
    settings: LoaderSettings,
    *,
    max_instances: int,
    mask_size: int,
) -> Iterator[Batch]:
    """Batches as `train_batches` makes them of every image that shows objects, once and without
    augmentation, in the dataset's order, with is_real bool [B]: False where the first images fill
    up the last batch."""
    images = _Subset(dataset, _trainable_indices(dataset, 0.0))
    steps = math.ceil(len(images) / settings.batch_size)
    training = _TrainingExample(augmentation, max_instances, mask_size)
    stream = grain.MapDataset.range(steps * settings.batch_size)
    stream = stream.map(_FittedExample(images, training))
    rows = grain.MapDataset.range(steps * settings.local_batch)
    return _batches(rows.map(_HostRow(stream, settings)), settings)


@dataclass(frozen=True)
class _Subset:
    dataset: DetectionDataset
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Example:
        return self.dataset[int(self.indices[position])]

    def labels(self) -> list[np.ndarray]:
        """Of each image's objects."""
        return [self.dataset.labels(index) for index in self.indices.tolist()]


@dataclass(frozen=True)
class _TrainingExample(grain.transforms.RandomMap):
    augmentation: Augmentation
    max_instances: int
    mask_size: int

    def random_map(self, example: Example, rng: np.random.Generator) -> Batch:
        return self.transformed(example, self.augmentation.sample(rng, *example.lazy_image.hw), rng)

    def transformed(
        self, example: Example, transform: Transform, rng: np.random.Generator
    ) -> Batch:
        """The example on its canvas; `rng` chooses among too many objects."""
        image_size = self.augmentation.image_size
        objects = transform_objects(example, transform, image_size, self.mask_size)
        if len(objects.boxes) > self.max_instances:
            kept = rng.permutation(len(objects.boxes))[: self.max_instances]
            objects = Objects(*(values[kept] for values in objects))
        return {
            "image": transform_image(example.lazy_image, transform, image_size, TRAINING_PAD),
            "image_hw": np.array(self.augmentation.image_hw(transform), np.int32),
            **{
                name: _pad_rows(values, self.max_instances)
                for name, values in objects._asdict().items()
            },
            "valid": np.arange(self.max_instances) < len(objects.boxes),
            "image_id": np.int64(example.image_id),
        }


@dataclass(frozen=True)
class _FittedExample(grain.transforms.Map):
    """As in training but for the augmentation: the image as evaluation has it."""

    images: _Subset
    training: _TrainingExample

    def map(self, index: int) -> Batch:
        is_real, index = index < len(self.images), int(index) % len(self.images)
        example = self.images[index]
        transform = self.training.augmentation.fit(*example.lazy_image.hw)
        batch = self.training.transformed(example, transform, np.random.default_rng(index))
        return {**batch, "is_real": np.bool_(is_real)}


@dataclass(frozen=True)
class _EvaluationExample(grain.transforms.Map):
    dataset: DetectionDataset
    augmentation: Augmentation
    rows: Sequence[Row]

    def map(self, position: int) -> Batch:
        index, (height, width) = self.rows[int(position)]
        if index is None:
            image = ArrayImage(np.zeros((height, width, 3), np.uint8))
            image_id = PADDING_IMAGE_ID
        else:
            example = self.dataset[index]
            image, image_id = example.lazy_image, example.image_id
        transform = self.augmentation.fit(*image.hw)
        canvas = transform_image(image, transform, self.augmentation.image_size, EVALUATION_PAD)
        return {
            "image": canvas[:height, :width],
            "image_hw": np.array(transform.resized_hw, np.int32),
            "original_hw": np.array(transform.image_hw, np.int32),
            "image_id": np.int64(image_id),
            "is_real": np.bool_(index is not None),
        }


@dataclass(frozen=True)
class _HostRow(grain.transforms.Map):
    """Picks one host's rows out of the stream of all, keeping the rows of a batch in order."""

    stream: grain.MapDataset
    settings: LoaderSettings

    def map(self, position: int) -> Batch:
        settings = self.settings
        step, row = divmod(int(position), settings.local_batch)
        first = step * settings.batch_size + settings.process_index * settings.local_batch
        return self.stream[first + row]


def _batches(rows: grain.MapDataset, settings: LoaderSettings) -> Iterator[Batch]:
    """Threads work on single images, up to one batch ahead; processes each on a batch."""
    size, threads = settings.local_batch, settings.threads
    if settings.workers:
        _declare_flags_parsed()
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        batches = rows.batch(size, drop_remainder=True, batch_fn=_stack)
        batches = batches.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=settings.workers, per_worker_buffer_size=1),
            worker_init_fn=leave_with_parent,
        )
    else:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=size + threads)
        examples = rows.to_iter_dataset(options)
        batches = examples.batch(size, drop_remainder=True, batch_fn=_stack)
    return _until_closed(batches)


def _until_closed(batches: grain.IterDataset) -> Iterator[Batch]:
    iterator = iter(batches)
    try:
        yield from iterator
    except RuntimeError as error:
        if WORKER_DIED not in str(error):
            raise
        raise UserError(
            "a process that prepares images died (out of memory?); give the same command again "
            "with a lower --config.data.workers, 0 for none"
        ) from error
    finally:
        iterator.close()


def _declare_flags_parsed() -> None:
    # grain's workers are given the values of its absl flags, which may only be read once parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _stack(examples: list[Batch]) -> Batch:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _pad_rows(values: np.ndarray, rows: int) -> np.ndarray:
    padded = np.zeros((rows, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def _trainable_indices(dataset: DetectionDataset, empty_images: float) -> np.ndarray:
    """Images with an object to train on, and the same share of those of background each time."""
    indices = range(len(dataset))
    kept = np.flatnonzero([dataset.has_objects(index) for index in indices])
    if not empty_images:
        return kept
    background = np.flatnonzero([dataset.is_background(index) for index in indices])
    chosen = np.random.default_rng(0).permutation(background)
    return np.sort(np.concatenate([kept, chosen[: round(empty_images * len(background))]]))
