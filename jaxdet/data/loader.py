"""Batches of static shape from a dataset, decoded and placed by grain's threads or processes.

Row r of global batch k is always element k * batch_size + r of one endless stream, and its random
numbers hang on the seed and on this position alone. So a run resumes by naming its step, and the
number of threads, worker processes or hosts changes nothing.

Worker processes start anew from the main module, so a script that asks for them needs
`if __name__ == "__main__":`. Finished batches come through shared memory (/dev/shm): room for two a
worker is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from jaxdet.data.dataset import DetectionDataset, Example
from jaxdet.data.image import ArrayImage
from jaxdet.data.lsj import fit_placement, place_image, place_objects, sample_placement
from jaxdet.data.multiscale import Multiscale
from jaxdet.errors import UserError
from jaxdet.processes import leave_with_parent

Batch = dict[str, np.ndarray]

TRAINING_PAD = 128
EVALUATION_PAD = 0
PADDING_IMAGE_ID = -1

_ENDLESS = 2**48


def train_batches(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    image_size: int,
    max_instances: int,
    mask_size: int,
    scale_range: tuple[float, float] = (0.1, 2.0),
    flip: bool = True,
    multiscale: Multiscale | None = None,
    seed: int,
    start_step: int = 0,
    threads: int = 8,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless training batches, augmented, in a new order every epoch.

    Images without an object to train on are never drawn. Of an image that shows more than `slots`
    objects, a random choice of `slots` is kept.

    Args:
        batch_size: images of all hosts together.
        canvas: side S of the square canvas in pixels.
        slots: objects per image, N.
        mask_size: side M of the mask crops.
        scale_range: of large-scale jitter, see `jaxdet.data.lsj.sample_placement`.
        flip: whether half of the images are mirrored.
        multiscale: augmentation in place of large-scale jitter; must fit the canvas.
        seed: of order, jitter and choice; 0 to 2**32 - 1.
        start_step: the first batch to give; equal to skipping that many batches.
        threads: that read and place images beside the caller; 0 for none.
        workers: processes that each make whole batches, instead of threads; 0 for none.
        process_index: this host's rank.
        process_count: number of hosts; each gets an equal run of rows of every batch.

    Returns:
        An iterator of dicts, B = batch_size / process_count: image uint8 [B, S, S, 3], image_hw
        int32 [B, 2] (S, S under large-scale jitter), boxes float32 [B, N, 4] in canvas pixels,
        labels int32 [B, N], masks uint8 [B, N, M, M] in the frame of their box, valid bool [B, N],
        image_id int64 [B].

    Raises:
        UserError: no image has an object, or the batch cannot be shared out evenly; from the
            iterator, whatever the dataset raises for an unreadable image.
    """
    indices = _trainable_indices(dataset)
    if not len(indices):
        raise UserError(
            "no image of the training set has an object to train on; "
            "check that its annotations carry segmentations and are not all crowds"
        )
    stream = (
        grain.MapDataset.source(_Subset(dataset, indices))
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(
            _TrainingExample(image_size, max_instances, mask_size, scale_range, flip, multiscale)
        )
    )
    return endless_batches(
        stream,
        batch_size=batch_size,
        start_step=start_step,
        threads=threads,
        workers=workers,
        process_index=process_index,
        process_count=process_count,
    )


def endless_batches(
    stream: grain.MapDataset,
    *,
    batch_size: int,
    start_step: int,
    threads: int,
    workers: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This host's rows of the batches of an endless stream of examples; see `train_batches`."""
    local_batch = _local_batch(batch_size, process_count)
    rows = grain.MapDataset.range(start_step * local_batch, _ENDLESS).map(
        _HostRow(stream, batch_size, process_index, process_count)
    )
    return _batches(rows, local_batch, threads, workers)


def trained_images(dataset: DetectionDataset) -> int:
    """How many images have an object to train on: those an epoch draws."""
    return len(_trainable_indices(dataset))


def eval_batches(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    image_size: int,
    multiscale: Multiscale | None = None,
    threads: int = 8,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every image once, in the dataset's order, its longer side as long as the canvas.

    All hosts get the same number of batches. Rows beyond the last image have is_real False and
    image_id -1.

    Args:
        batch_size: images of all hosts together.
        canvas: side S of the square canvas in pixels.
        multiscale: resizes by its rule instead; must fit the canvas.
        threads: that read and place images beside the caller; 0 for none.
        workers: processes that each make whole batches, instead of threads; 0 for none.
        process_index: this host's rank.
        process_count: number of hosts; each gets an equal run of rows of every batch.

    Returns:
        An iterator of dicts, B = batch_size / process_count: image uint8 [B, S, S, 3], image_hw
        int32 [B, 2] after resizing, original_hw int32 [B, 2], image_id int64 [B], is_real bool
        [B].

    Raises:
        UserError: the batch cannot be shared out evenly; from the iterator, whatever the dataset
            raises for an unreadable image.
    """
    local_batch = _local_batch(batch_size, process_count)
    steps = math.ceil(len(dataset) / batch_size)
    stream = grain.MapDataset.range(steps * batch_size).map(
        _EvaluationExample(dataset, image_size, multiscale)
    )
    rows = grain.MapDataset.range(steps * local_batch).map(
        _HostRow(stream, batch_size, process_index, process_count)
    )
    return _batches(rows, local_batch, threads, workers)


@dataclass(frozen=True)
class _Subset:
    dataset: DetectionDataset
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Example:
        return self.dataset[int(self.indices[position])]


@dataclass(frozen=True)
class _TrainingExample(grain.transforms.RandomMap):
    image_size: int
    max_instances: int
    mask_size: int
    scale_range: tuple[float, float]
    flip: bool
    multiscale: Multiscale | None = None

    def random_map(self, example: Example, rng: np.random.Generator) -> Batch:
        hw = example.lazy_image.hw
        # Detectron2 pads with a colour, and the padding belongs to the image; MMDetection pads
        # with nothing.
        image_hw = (self.image_size, self.image_size)
        if self.multiscale is None:
            placement = sample_placement(rng, *hw, self.image_size, self.scale_range, self.flip)
        else:
            placement = self.multiscale.sample(rng, *hw, self.flip)
            image_hw = placement.visible_hw(self.image_size)
        boxes, labels, masks = place_objects(example, placement, self.image_size, self.mask_size)
        if len(boxes) > self.max_instances:
            kept = rng.permutation(len(boxes))[: self.max_instances]
            boxes, labels, masks = boxes[kept], labels[kept], masks[kept]
        return {
            "image": place_image(example.lazy_image, placement, self.image_size, TRAINING_PAD),
            "image_hw": np.array(image_hw, np.int32),
            "boxes": _pad_rows(boxes, self.max_instances),
            "labels": _pad_rows(labels, self.max_instances),
            "masks": _pad_rows(masks, self.max_instances),
            "valid": np.arange(self.max_instances) < len(boxes),
            "image_id": np.int64(example.image_id),
        }


@dataclass(frozen=True)
class _EvaluationExample(grain.transforms.Map):
    dataset: DetectionDataset
    image_size: int
    multiscale: Multiscale | None = None

    def map(self, index: int) -> Batch:
        is_real = index < len(self.dataset)
        if is_real:
            example = self.dataset[int(index)]
            picture, image_id = example.lazy_image, example.image_id
        else:
            nothing = np.zeros((self.image_size, self.image_size, 3), np.uint8)
            picture, image_id = ArrayImage(nothing), PADDING_IMAGE_ID
        if self.multiscale is None:
            placement = fit_placement(*picture.hw, self.image_size)
        else:
            placement = self.multiscale.fit(*picture.hw)
        return {
            "image": place_image(picture, placement, self.image_size, EVALUATION_PAD),
            "image_hw": np.array(placement.resized_hw, np.int32),
            "original_hw": np.array(placement.image_hw, np.int32),
            "image_id": np.int64(image_id),
            "is_real": np.bool_(is_real),
        }


@dataclass(frozen=True)
class _HostRow(grain.transforms.Map):
    """Picks one host's rows out of the stream of all, keeping the rows of a batch in order."""

    stream: grain.MapDataset
    batch_size: int
    process_index: int
    process_count: int

    def map(self, position: int) -> Batch:
        local_batch = self.batch_size // self.process_count
        step, row = divmod(int(position), local_batch)
        return self.stream[step * self.batch_size + self.process_index * local_batch + row]


def _batches(
    rows: grain.MapDataset, local_batch: int, threads: int, workers: int
) -> Iterator[Batch]:
    """Threads work on single images, up to one batch ahead; processes each on a batch."""
    if workers:
        _declare_flags_parsed()
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        batches = rows.batch(local_batch, drop_remainder=True, batch_fn=_stack)
        batches = batches.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
            worker_init_fn=leave_with_parent,
        )
    else:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=local_batch + threads)
        examples = rows.to_iter_dataset(options)
        batches = examples.batch(local_batch, drop_remainder=True, batch_fn=_stack)
    return _until_closed(batches)


def _until_closed(batches: grain.IterDataset) -> Iterator[Batch]:
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()


def _declare_flags_parsed() -> None:
    # grain's workers are told the values of its absl flags, which may only be read once parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _stack(examples: list[Batch]) -> Batch:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _pad_rows(values: np.ndarray, rows: int) -> np.ndarray:
    padded = np.zeros((rows, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def _trainable_indices(dataset: DetectionDataset) -> np.ndarray:
    return np.flatnonzero([dataset.has_objects(index) for index in range(len(dataset))])


def _local_batch(batch_size: int, process_count: int) -> int:
    if batch_size <= 0 or batch_size % process_count:
        raise UserError(
            f"batch size {batch_size} cannot be shared out over {process_count} host(s); "
            "make it a positive multiple of the number of hosts"
        )
    return batch_size // process_count
