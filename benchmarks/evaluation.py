"""Measures what evaluation costs beside the detector, and writes down what it saw.

    python benchmarks/evaluation.py

Made-up detections, 100 an image of 640 x 480: boxes with sides of 10 to 400 pixels (uniform in the
logarithm), blobs for masks. Masks are pasted and encoded (`jaxdet.inference.coco_results`), then
ground truth and detections are checked once (`jaxdet.evaluation.inputs`), and COCO's AP and TIDE's
errors are computed, with seven objects an image. Times are CPU time of the
processes; what depends on the clock is given as a ratio of runs in turn. Writes
benchmarks/evaluation.md.
"""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np

from jaxdet.evaluation.coco import evaluate_coco
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.tide import evaluate_tide
from jaxdet.inference.coco_results import coco_results, result_workers

HEIGHT, WIDTH, SIDE = 480, 640, 28
DETECTIONS, OBJECTS, CATEGORIES = 100, 7, 80
BATCH, BATCHES, SCORED = 8, 12, 160
ROUNDS = 5
COCO_VAL = 5000

NOTE = """
Ratios by the clock need idle cores: at a load of many times the number of cores they say little.

The plain way, two matrix products and pycocotools' encode of the whole image, takes 3.6 times the
CPU time (BLAS's waiting threads count) and gives the same codes for 100 of 100 masks. The code that
`encode_mask` replaced computed the box alone by matrix products and encoded the whole image; on 300
such masks it took 2.7 ms each, 0.74 ms with OPENBLAS_NUM_THREADS=1, a draft of `encode_mask` 0.29
and 0.34 ms, with equal codes (2026-11-24, by a script that is not kept).

Encoding runs beside the detector and is hidden where it keeps pace with it; scoring comes after it
and remains, in the main process alone.

Scoring stays with pycocotools: faster-coco-eval takes an 11th (boxes) and a 5th (masks) of the CPU
time, but its arrays are not the same to the last digit, in 5 % of the precisions. Both comparisons
were made by this script as of commit a27dd8e.
Where one detection is right and none wrong, pycocotools' precision is 1 - 2.2e-16 (it adds the
spacing of floats at 1 to what it divides by), faster-coco-eval's is 1; recalls are equal. So it is
not the mean alone that differs, and the arrays do not tell which of their 1s would have to change.
"""


def detected(rng: np.random.Generator, images: int):
    """A batch and its detections, as the detector and the loader leave them."""
    sides = np.exp(rng.uniform(np.log(10), np.log(400), (images, DETECTIONS, 2)))
    corner = rng.uniform(size=sides.shape) * ([WIDTH, HEIGHT] - sides)
    distance = np.linalg.norm(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2, axis=0)
    noise = rng.normal(size=(images, DETECTIONS, SIDE, SIDE))
    detections = {
        "boxes": np.concatenate([corner, corner + sides], -1).astype(np.float32),
        "scores": np.sort(rng.uniform(0.05, 1, (images, DETECTIONS)).astype(np.float32))[:, ::-1],
        "labels": rng.integers(0, CATEGORIES, (images, DETECTIONS)),
        "valid": np.ones((images, DETECTIONS), bool),
        "masks": (1 / (1 + np.exp(distance + noise - 12))).astype(np.float32),
    }
    size = np.tile(np.array([HEIGHT, WIDTH]), (images, 1))
    batch = {
        "image_id": np.arange(1, images + 1),
        "image_hw": size,
        "original_hw": size,
        "is_real": np.ones(images, bool),
    }
    return detections, batch


def cpu_seconds(function) -> tuple[float, object]:
    started = time.process_time()
    outcome = function()
    return time.process_time() - started, outcome


def encoding() -> list[str]:
    """CPU time of pasting and encoding, and images/s by number of workers."""
    rng, ids = np.random.default_rng(0), list(range(1, CATEGORIES + 1))
    detections, batch = detected(rng, BATCH)
    best = min(
        cpu_seconds(lambda: coco_results(detections, batch, ids))[0] / BATCH for _ in range(ROUNDS)
    )
    speeds: dict[str, list[float]] = {"1 thread": [], "2 threads": [], "1 process": []}
    speeds["2 processes"] = []

    def speed(submit) -> float:
        submit(coco_results, detections, batch, ids).result()  # started and warm
        started = time.perf_counter()
        for future in [submit(coco_results, detections, batch, ids) for _ in range(BATCHES)]:
            future.result()
        return BATCH * BATCHES / (time.perf_counter() - started)

    for _ in range(ROUNDS):
        for name, make in (
            ("1 thread", lambda: ThreadPoolExecutor(1)),
            ("2 threads", lambda: ThreadPoolExecutor(2)),
            ("1 process", lambda: result_workers(1)),
            ("2 processes", lambda: result_workers(2)),
        ):
            with make() as pool:
                speeds[name].append(speed(pool.submit))
    ratios = {
        name: np.median(np.array(values) / speeds["1 thread"]) for name, values in speeds.items()
    }
    return [
        f"| pasting and encoding, CPU seconds an image of {DETECTIONS} | {best:.4f} |",
        f"| images/s that one core encodes | {1 / best:.0f} |",
        *(
            f"| images/s by the clock, {name} / 1 thread (median of {ROUNDS}) | {ratio:.2f} |"
            for name, ratio in ratios.items()
            if name != "1 thread"
        ),
        f"| CPU seconds of encoding for COCO val's {COCO_VAL} images | {COCO_VAL * best:.0f} |",
    ]


def scored_set() -> tuple[dict, list[dict]]:
    """Ground truth, and detections some of which find it."""
    rng, ids = np.random.default_rng(1), list(range(1, CATEGORIES + 1))
    detections, batch = detected(rng, SCORED)
    objects = {name: values[:, :OBJECTS].copy() for name, values in detections.items()}
    hit = detections["boxes"][:, :OBJECTS]
    hit += rng.normal(0, 0.08, hit.shape) * np.tile(hit[..., 2:] - hit[..., :2], 2)
    annotations = [
        {**entry, "id": number, "iscrowd": 0}
        for number, entry in enumerate(coco_results(objects, batch, ids), start=1)
    ]
    ground_truth = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in batch["image_id"].tolist()],
        "categories": [{"id": i, "name": str(i)} for i in ids],
        "annotations": annotations,
    }
    return ground_truth, coco_results(detections, batch, ids)


def scoring() -> list[str]:
    """CPU time of AP and TIDE, and how faster-coco-eval compares."""
    ground_truth, results = scored_set()
    check, inputs = cpu_seconds(lambda: EvalInputs(GroundTruth(ground_truth), results))
    ap, _ = cpu_seconds(lambda: evaluate_coco(inputs))
    tide, _ = cpu_seconds(lambda: evaluate_tide(inputs))
    val = COCO_VAL / SCORED
    return [
        f"| ground truth and detections checked and indexed, CPU seconds for {SCORED} images | "
        f"{check:.1f} |",
        f"| AP of boxes and masks, CPU seconds for {SCORED} images | {ap:.1f} |",
        f"| TIDE's errors of boxes and masks, CPU seconds for {SCORED} images | {tide:.1f} |",
        f"| CPU seconds of all three for {COCO_VAL} images, in proportion | "
        f"{val * (check + ap + tide):.0f} |",
    ]


def main() -> None:
    report = f"""# Evaluation beside the detector

`python benchmarks/evaluation.py`: {DETECTIONS} made-up detections on each image of {WIDTH} x \
{HEIGHT}, boxes with sides of 10 to 400 px; {OBJECTS} objects an image, {CATEGORIES} categories. \
CPU time of the processes (best of {ROUNDS} for encoding), ratios of runs in turn. The load \
average of the machine was {{load:.1f}} at the end.

{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, NumPy \
{version("numpy")}, pycocotools {version("pycocotools")}, {time.strftime("%Y-%m-%d")}.

| what | value |
| --- | --- |
"""
    lines = [*encoding(), *scoring()]
    report = report.format(load=os.getloadavg()[0]) + "\n".join(lines) + "\n" + NOTE
    path = Path(__file__).with_suffix(".md")
    path.write_text(report, encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
