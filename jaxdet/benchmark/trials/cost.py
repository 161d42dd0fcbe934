"""What trials cost in device-hours, from images/s or from the FLOPs their layers need.

Of training alone: compilation, evaluation and what rematerialisation computes again come on top.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from jaxdet.benchmark.cost.analytic import COCO_CLASSES, needed_flops
from jaxdet.benchmark.cost.class_count import usual_classes
from jaxdet.benchmark.cost.devices import peak_of
from jaxdet.benchmark.reference import COCO_VAL, LEAST_TRAIN_IMAGES
from jaxdet.errors import UserError

TRAIN_IMAGES = {
    "COCO": (117_266, "COCO train2017"),
    "LVIS": (99_388, "LVIS v1 train"),
}
"""Images with objects of the training sets, by the names of `usual_classes`."""


class Data(NamedTuple):
    """How much an epoch is, and where that is known from."""

    train_images: int
    classes: int
    source: str

    @property
    def is_coco(self) -> bool:
        """Whether they can be all of COCO, which published results are of."""
        least, _ = LEAST_TRAIN_IMAGES[COCO_VAL]
        return self.classes == COCO_CLASSES and self.train_images >= least


class Speed(NamedTuple):
    """FLOPs of `needed_flops` that one device computes a second, or None, and where from."""

    flops: float | None
    source: str


class StageCost(NamedTuple):
    """Trials of one stage and length; `hours` of devices for all of them, None if unknown."""

    stage: str
    count: int
    epochs: float
    hours: float | None


def data_of(config: ConfigDict) -> Data:
    """Counts the data a config names; where it cannot be opened, COCO's numbers or LVIS's."""
    from jaxdet.training.experiment import Experiment  # late: it takes jax along

    experiment = Experiment(config, Path())
    try:
        return Data(experiment.trained_images, len(experiment.val_set.categories), "counted")
    except UserError:
        classes, name = usual_classes(config)
        images, source = TRAIN_IMAGES[name]
        return Data(images, classes, f"as in {source}: the data cannot be opened")


def stated_speed(images_per_second: float, config: ConfigDict, classes: int) -> Speed:
    """A device's speed from the images/s of one device that trains this config."""
    return Speed(
        images_per_second * needed_flops(config, classes),
        f"{images_per_second:g} images/s a device, as given",
    )


def expected_speed(
    kind: str | None, dtype: str, peak_tflops: float | None, utilisation: float
) -> Speed:
    """A device's speed from its peak and the share of it that training is expected to reach."""
    peak, source = peak_of(kind, dtype, peak_tflops)
    if peak is None:
        return Speed(None, source)
    return Speed(
        utilisation * peak,
        f"expected at a utilisation of {utilisation:g} of {peak / 1e12:g} TFLOP/s a device "
        f"({source}); --images-per-second takes a measured one",
    )


def device_kind() -> str | None:
    """What JAX calls the devices here; None if it cannot say.

    Asked in another process, because a process that asks takes the devices for itself.
    """
    code = "import jax; print(jax.devices()[0].device_kind)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return asked.stdout.strip().split("\n")[-1] if asked.returncode == 0 else None


def device_hours(config: ConfigDict, data: Data, speed: Speed) -> float | None:
    """Hours of one device that training a config takes; None if the speed is unknown."""
    if speed.flops is None:
        return None
    images = config.epochs * data.train_images
    return images * needed_flops(config, data.classes) / speed.flops / 3600


def stage_cost(stage: str, configs: Sequence[ConfigDict], data: Data, speed: Speed) -> StageCost:
    """The cost of a stage's trials, all of the same length."""
    hours = [device_hours(config, data, speed) for config in configs]
    return StageCost(stage, len(configs), configs[0].epochs, None if None in hours else sum(hours))


def plan_text(rows: Sequence[StageCost], data: Data, speed: Speed) -> str:
    """A plan in lines a person reads."""
    width = max(len("stage"), *(len(row.stage) for row in rows))
    lines = [f"{'stage':<{width}}  trials  epochs each  device-hours"]
    for row in rows:
        lines.append(
            f"{row.stage:<{width}}  {row.count:>6}  {row.epochs:>11g}  {hours_text(row.hours):>12}"
        )
    hours = [row.hours for row in rows]
    total = None if None in hours else sum(hours)
    trials = sum(row.count for row in rows)
    lines += [
        f"{'in all':<{width}}  {trials:>6}  {'':>11}  {hours_text(total):>12}",
        f"an epoch is {data.train_images:,} images ({data.source})",
        f"device-hours without compilation, evaluation and rematerialisation: {speed.source}",
    ]
    return "\n".join(lines)


def hours_text(hours: float | None) -> str:
    """Device-hours to three digits."""
    return "unknown" if hours is None else f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
