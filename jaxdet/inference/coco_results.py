"""A detector's outputs in COCO's result layout; imports no jax, for worker processes."""

from __future__ import annotations

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as mask_api

from jaxdet.processes import leave_with_parent

Results = list[dict[str, Any]]


def result_workers(count: int) -> ProcessPoolExecutor:
    """Processes to run `coco_results` in.

    They start from the main module (a fork of a process that runs JAX may hang), so a script
    that asks for them needs `if __name__ == "__main__":`.
    """
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=spawn, initializer=_start_worker)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, and that them
    leave_with_parent()


def coco_results(
    detections: dict[str, np.ndarray | None],
    batch: dict[str, np.ndarray],
    category_ids: list[int],
) -> Results:
    """Detections of one batch, mapped from the model's square input to the original images.

    Args:
        detections: the fields of `jaxdet.models.mask_rcnn.Detections` on the host, boxes in
            pixels of the input.
        batch: image_id, image_hw, original_hw and is_real of the evaluation batch they were made
            from.
        category_ids: the dataset's category id of each label.

    Returns:
        One dictionary a detection: image_id, category_id, bbox (x, y, width, height), score, and
        from a detector with masks segmentation (RLE whose counts are text).
    """
    results = []
    for i in np.flatnonzero(batch["is_real"]):
        height, width = (int(side) for side in batch["original_hw"][i])
        # Per axis, because the resized sides were rounded to whole pixels one by one.
        scale = np.array([height, width]) / batch["image_hw"][i]
        boxes = detections["boxes"][i] * np.tile(scale[::-1], 2)
        boxes = np.clip(boxes, 0, [width, height, width, height])
        for j in np.flatnonzero(detections["valid"][i]):
            x1, y1, x2, y2 = boxes[j]
            if x2 <= x1 or y2 <= y1:
                continue
            result = {
                "image_id": int(batch["image_id"][i]),
                "category_id": category_ids[detections["labels"][i, j]],
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(detections["scores"][i, j]),
            }
            if detections["masks"] is not None:
                encoded = encode_mask(detections["masks"][i, j], boxes[j], height, width)
                result["segmentation"] = {**encoded, "counts": encoded["counts"].decode("ascii")}
            results.append(result)
    return results


def encode_mask(
    mask: Float[np.ndarray, "side side"],
    box: Float[np.ndarray, " 4"],
    height: int,
    width: int,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """A predicted mask, resampled from its box into an image, as COCO's run-length code.

    Bilinear at pixel centers, zero outside the box, true from `threshold` up: Detectron2's
    paste_masks_in_image, then pycocotools' encode. It touches only the columns that the box
    reaches, which are one stretch of the code's order, and computes only inside the box.

    Args:
        mask: probabilities on a grid that fills the box.
        box: x1, y1, x2, y2 in pixels of the image; it may reach beyond it.
        height, width: of the image.

    Returns:
        {"size": [height, width], "counts": bytes}.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float32)
    runs = np.array([height * width])
    if x2 > x1 and y2 > y1:
        top, bottom, rows, row_weights = _neighbours(y1, y2, mask.shape[0], height)
        left, right, columns, column_weights = _neighbours(x1, x2, mask.shape[1], width)
        # Column by column, as the code runs; two products each, as BLAS would take all cores.
        by_column = np.asarray(mask, np.float32).T
        by_column = (by_column[columns] * column_weights[..., None]).sum(0)
        inside = (by_column[:, rows] * row_weights).sum(1) >= threshold
        strip = np.zeros((right - left, height), bool)
        strip[:, top:bottom] = inside
        runs = _runs(strip.reshape(-1), left * height, height * width)
    code = {"size": [height, width], "counts": runs.tolist()}
    return mask_api.frPyObjects(code, height, width)


def _neighbours(
    start: np.float32, end: np.float32, size: int, length: int
) -> tuple[int, int, np.ndarray, np.ndarray]:
    """Along one axis: the pixels a box reaches, from first to before last, and for each the two
    nearest of `size` cells of the box with their weights, [2, last - first].
    """
    first = max(int(np.floor(start)) - 1, 0)
    last = max(min(int(np.ceil(end)) + 1, length), first)
    pixels = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    positions = (pixels - start) / (end - start) * size - 0.5
    lower = np.floor(positions)
    cells = np.stack([lower, lower + 1])
    weights = np.stack([1 - (positions - lower), positions - lower])
    weights[(cells < 0) | (cells >= size)] = 0
    return first, last, np.clip(cells, 0, size - 1).astype(int), weights.astype(np.float32)


def _runs(strip: np.ndarray, start: int, length: int) -> np.ndarray:
    """The lengths of alternating runs of False and True, False first, in `length` values that are
    False but for a strip from `start` on.
    """
    changes = np.flatnonzero(np.diff(strip, prepend=False, append=False)) + start
    if len(changes) and changes[-1] == length:
        changes = changes[:-1]
    return np.diff(changes, prepend=0, append=length)
