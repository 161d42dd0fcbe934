"""Measures the input pipeline on a COCO-format folder and writes down what it saw.

    python benchmarks/input_pipeline.py /data/coco_train128

One training sample (1024 px canvas, masks included) is compared with Pillow decoding the same
files to RGB: process CPU time on one core, the two in turn for every image, the best of several
rounds for each. Then whole batches: their size, and images per second with threads and with worker
processes. Writes benchmarks/input_pipeline.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdet.data.coco import CocoDataset, find_coco
from jaxdet.data.loader import _TrainingExample, train_batches

IMAGE_SIZE, MAX_INSTANCES, MASK_SIZE = 1024, 100, 112
ROUNDS = 8
BATCH = 16
BATCHES = 10
REPETITIONS = 4
IMAGES_PER_SECOND = 40
"""What one H100 is to be fed with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a folder in COCO's layout")
    options = parser.parse_args()
    dataset = CocoDataset(*find_coco(options.folder, "train"))

    decode, sample = sample_times(dataset)
    ratios = sample.sum(axis=1) / decode.sum(axis=1)
    best = sample.min(axis=0).mean(), decode.min(axis=0).mean()
    gigabytes = batch_size(dataset)
    speeds = {
        name: [] for name in ("no threads", "2 threads", "1 worker process", "2 worker processes")
    }
    costs: dict[str, list[float]] = {name: [] for name in speeds}
    settings = ({"threads": 0}, {"threads": 2}, {"workers": 1}, {"workers": 2})
    for _ in range(REPETITIONS):
        for name, options in zip(speeds, settings, strict=True):
            speed, cost = loader_speed(dataset, **options)
            speeds[name].append(speed)
            costs[name].append(cost)
    worker_ratios = [
        two / one
        for one, two in zip(speeds["1 worker process"], speeds["2 worker processes"], strict=True)
    ]
    cost = min(costs["2 worker processes"])

    rows = [
        ("Pillow: decoding one file to RGB", f"{1e3 * best[1]:.2f} ms"),
        ("one training sample", f"{1e3 * best[0]:.2f} ms"),
        (
            "ratio: of the best; of each round",
            f"{best[0] / best[1]:.2f}; {ratios.min():.2f} to {ratios.max():.2f}, "
            f"median {np.median(ratios):.2f}",
        ),
        (f"a batch of 64 at {IMAGE_SIZE} px with {MAX_INSTANCES} instances", f"{gigabytes:.3f} GB"),
        *((f"loader alone, {name}", seen(values, "images/s")) for name, values in speeds.items()),
        ("two worker processes against one, pair by pair", seen(worker_ratios, "x")),
        *(
            (f"CPU time per image, {name}", f"{1e3 * min(values):.1f} ms at the least")
            for name, values in costs.items()
        ),
        (
            f"cores to feed one H100 at {IMAGES_PER_SECOND} images/s",
            f"{IMAGES_PER_SECOND * cost:.2f} (CPU time per image with worker processes)",
        ),
    ]
    text = f"""# The input pipeline

`python benchmarks/input_pipeline.py` on {len(dataset)} COCO images: large-scale jitter (0.1 to 2.0)
on {IMAGE_SIZE} px, masks at {MASK_SIZE} px. Sample times are process CPU time, one core,
best of {ROUNDS} rounds; the loader's speeds are by the clock, {BATCHES} batches of {BATCH},
{REPETITIONS} times. The load average of the machine was
{os.getloadavg()[0]:.1f} at the end.

{os.cpu_count()} cores, {cpu_model()}, Python {platform.python_version()}, Pillow
{version("pillow")}, OpenCV {version("opencv-python-headless")}, {time.strftime("%Y-%m-%d")}.

| what | value |
| --- | --- |
"""
    text += "".join(f"| {name} | {value} |\n" for name, value in rows)
    path = Path(__file__).with_suffix(".md")
    path.write_text(text, encoding="utf-8")
    print(text)


def sample_times(dataset: CocoDataset) -> tuple[np.ndarray, np.ndarray]:
    """CPU seconds [rounds, images] of Pillow's decoding and of whole training samples."""
    indices = [index for index in range(len(dataset)) if dataset.has_objects(index)]
    transform = _TrainingExample(IMAGE_SIZE, MAX_INSTANCES, MASK_SIZE, (0.1, 2.0), True)
    decode, sample = np.zeros((2, ROUNDS, len(indices)))
    for round_number in range(ROUNDS):
        for i, index in enumerate(indices):
            path, _ = dataset.file(index)
            started = time.process_time()
            with Image.open(path) as image:
                image.convert("RGB")
            decoded = time.process_time()
            transform.random_map(dataset[index], np.random.default_rng([0, i]))
            decode[round_number, i] = decoded - started
            sample[round_number, i] = time.process_time() - decoded
    return decode, sample


def batch_size(dataset: CocoDataset) -> float:
    batches = train_batches(dataset, **batch_settings(64), threads=0)
    return sum(array.nbytes for array in next(batches).values()) / 1e9


def loader_speed(dataset: CocoDataset, **options: int) -> tuple[float, float]:
    """Images per second by the clock, and CPU seconds per image over all processes."""
    batches = train_batches(dataset, **batch_settings(BATCH), **options)
    for _ in range(3):  # start-up, and what was made ahead of time
        next(batches)
    before, started = tree_cpu_time(), time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    elapsed, spent = time.perf_counter() - started, tree_cpu_time() - before
    batches.close()
    return BATCH * BATCHES / elapsed, spent / (BATCH * BATCHES)


def batch_settings(batch_size: int) -> dict[str, int]:
    return {
        "batch_size": batch_size,
        "image_size": IMAGE_SIZE,
        "max_instances": MAX_INSTANCES,
        "mask_size": MASK_SIZE,
        "seed": 0,
    }


def tree_cpu_time() -> float:
    """CPU seconds of this process and its running children, read from /proc."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    total = own.ru_utime + own.ru_stime
    ticks = os.sysconf("SC_CLK_TCK")
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def seen(values: list[float], unit: str) -> str:
    return f"{max(values):.2f} {unit} at best, median {np.median(values):.2f}"


if __name__ == "__main__":
    main()
