"""The recipes of arXiv 2111.11429 and of ViTDet, and what a detector's config must satisfy.

A config is an `ml_collections.ConfigDict`. `benchmark()` returns the recipe of arXiv 2111.11429;
the files in `configs/` start from it and change what differs. All keys are in `jaxdet.config.keys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdet.config.keys import DetectorConfig
from jaxdet.config.published_weights import how_to_get, official_weights
from jaxdet.config.rules import detector_rules
from jaxdet.config.starts import is_on_hub, is_pushed
from jaxdet.config.values import build, check_keys, validate
from jaxdet.errors import UserError

VIT_SIZES = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "h": {"width": 1280, "depth": 32, "heads": 16},
}

POSITION = {
    "random": {"absolute_position": "random", "relative_start": "zero"},
    "beit": {"absolute_position": "random", "relative_start": "pretrained"},
}
"""What arXiv 2111.11429 starts the position information from; all others transfer the absolute
embedding and start the relative biases at zero."""

PIXELS = {"beit": {"pixel_mean": (127.5, 127.5, 127.5), "pixel_std": (127.5, 127.5, 127.5)}}
"""The normalisation a pre-training saw, where it is not ImageNet's."""


def benchmark(
    size: str,
    initialisation: str,
    *,
    lr: float,
    weight_decay: float,
    drop_path: float,
    epochs: float,
) -> ConfigDict:
    """The recipe of arXiv 2111.11429: Mask R-CNN on COCO at 1024 pixels, batch 64.

    Args:
        size: one of VIT_SIZES.
        initialisation: one of `jaxdet.config.INITIALISATIONS`, or a name of one's own, whose
            weights are taken as MAE's are; all but "random" need `config.init` to train.
        lr, weight_decay, drop_path, epochs: what the paper tunes per initialisation.

    Raises:
        UserError: there is no such size.
    """
    if size not in VIT_SIZES:
        raise UserError(f"there is no size {size!r} of ViT; give one of {', '.join(VIT_SIZES)}")
    ends = quarter_ends(VIT_SIZES[size]["depth"])
    config = build(DetectorConfig)
    config.initialisation = initialisation
    config.epochs = epochs
    config.weights.update(official_weights(initialisation, size))
    config.model.vit.update(
        **VIT_SIZES[size],
        global_blocks=ends,
        out_indices=ends,
        drop_path=drop_path,
        **POSITION.get(initialisation, {}),
    )
    config.model.detector.update(PIXELS.get(initialisation, {}))
    config.optim.update(lr=lr, weight_decay=weight_decay)
    return config


def vitdet(
    size: str,
    initialisation: str,
    *,
    lr: float,
    weight_decay: float,
    drop_path: float,
    epochs: float,
    layer_decay: float,
) -> ConfigDict:
    """The recipe of ViTDet (arXiv 2203.16527) with Mask R-CNN: what differs from `benchmark`.

    Args:
        layer_decay: factor on the learning rate from each block to the one before it.
    """
    config = benchmark(
        size, initialisation, lr=lr, weight_decay=weight_decay, drop_path=drop_path, epochs=epochs
    )
    config.model.vit.relative_position = "decomposed"
    config.model.pyramid.kind = "simple"
    config.model.heads.norm = "layer"
    config.optim.update(
        schedule="step",
        layer_decay=layer_decay,
        warmup_epochs=250 * 64 / 118_000,
        no_decay=("norm", "pos_embed"),
    )
    return config


def make_cascade(config: ConfigDict) -> None:
    """Turns a recipe of Mask R-CNN into that of Cascade Mask R-CNN, as ViTDet and Detectron2 have
    it: three stages, IoU .5, .6 and .7, one box for all classes."""
    config.model.heads.update(
        class_agnostic_boxes=True, cascade_thresholds=(0.6, 0.7), cascade_factors=(2.0, 3.0)
    )


def size_of(vit: Mapping[str, Any] | ConfigDict) -> str | None:
    """The size of VIT_SIZES that config.model.vit is of; None if it is of none."""
    for size, shape in VIT_SIZES.items():
        if all(vit[key] == value for key, value in shape.items()):
            return size
    return None


def quarter_ends(depth: int) -> tuple[int, ...]:
    """0-based positions of the last block of each quarter of the depth."""
    return tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))


def has_start(config: ConfigDict) -> bool:
    """Whether training starts from weights of any kind."""
    starts = (config.init, config.init_from, config.few_shot.base_run)
    return any(start is not None for start in starts)


def check(config: ConfigDict) -> None:
    """Raises UserError with what a key must be, for the first whose value is not."""
    check_keys(config, DetectorConfig)
    if config.init is not None and not (is_pushed(config.init) or Path(config.init).is_file()):
        is_folder = Path(config.init).is_dir()
        fix = "a run's folder is given as --init-from" if is_folder else how_to_get(config)
        raise UserError(f"config.init={config.init!r} is not a file; {fix}")
    if config.init_from is not None and not (
        is_on_hub(config.init_from) or Path(config.init_from).exists()
    ):
        raise UserError(
            f"config.init_from={config.init_from!r} does not exist; give the folder of a run, a "
            "converted detector (.npz), or hf://owner/name"
        )
    if config.init is not None and config.initialisation == "random":
        raise UserError(
            "config.init is given but config.initialisation is 'random'; name the pre-training the "
            "weights come from, or leave config.init out"
        )
    for name, holds, rule in detector_rules(config):
        validate(config, name, holds, rule)
