"""The tiny detector on the built-in shapes, and the miniature of the benchmark made of it.

Patches of 8 pixels on images of 64, four blocks, 32 channels behind the backbone: minutes on two
CPU cores.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxdet.config.mae import mae
from jaxdet.config.mask_rcnn import SHAPES_DETECTOR, benchmark

GRID = 8
"""Patches along a side of an image, the pre-training's too."""

ENCODER = {"width": 128, "depth": 4, "heads": 4, "patch": 8}


def shapes_detector(initialisation: str, *, epochs: float) -> ConfigDict:
    """The benchmark's parts and recipe, smaller: what differs from `benchmark`."""
    config = benchmark(
        "tiny", initialisation, lr=3e-3, weight_decay=0.05, drop_path=0.0, epochs=epochs
    )
    config.image_size = 64
    config.batch_size = 8
    config.eval_batch_size = 20
    config.log_every_seconds = 15.0
    config.data.update(
        name="shapes", max_instances=8, mask_size=28, scale_range=(0.75, 1.25), threads=1
    )
    config.data.shapes.update(train_images=2000, val_images=100, image_size=96)
    config.model.dtype = "float32"
    config.model.vit.update(
        **ENCODER, pretrain_grid=GRID, window=4, global_blocks=(1, 3), out_indices=(0, 1, 2, 3)
    )
    config.model.pyramid.channels = 32
    config.model.heads.update(
        rpn_convs=1, box_convs=2, box_conv_dim=32, box_fc_dim=128, mask_convs=2, mask_conv_dim=32
    )
    config.model.detector.update(SHAPES_DETECTOR, mask_roi_size=7)
    return config


def mini(initialisation: str) -> ConfigDict:
    """A detector of the miniature benchmark: 400 images with objects, the same recipe for all."""
    config = shapes_detector(initialisation, epochs=24.0)
    config.eval_every = config.checkpoint_every = 6.0
    config.data.shapes.update(train_images=400, val_images=200)
    if initialisation == "mae":
        _name_weights(config)
    return config


def start_from_pretraining(config: ConfigDict) -> None:
    """Makes imTED on shapes start from the encoder and decoder of `pretraining`."""
    config.initialisation = "mae"
    config.model.vit.absolute_position = "pretrained"
    config.model.decoder.update(start="pretrained", pretrain_grid=GRID)
    _name_weights(config)


def _name_weights(config: ConfigDict) -> None:
    config.init = "runs/mini/pretrain/weights.npz"
    config.weights.update(
        {name: None for name, value in config.weights.items() if value is not None}
    )
    config.weights.source = (
        "python -m jaxdet.pretrain --config=configs/mini/pretrain.py --workdir=runs/mini/pretrain"
    )


def pretraining() -> ConfigDict:
    """MAE for the detectors of `mini`, with the decoder of `jaxdet.config.imted`'s on shapes."""
    config = mae("s", epochs=16.0)
    config.image_size = 64
    config.batch_size = 64
    config.data.shapes.update(images=10_000, image_size=96)
    config.data.threads = 1
    config.model.dtype = "float32"
    config.model.vit.update(ENCODER)
    config.model.decoder.update(width=64, depth=2, heads=2)
    config.optim.update(lr=4e-3, warmup_epochs=1.0)
    config.checkpoint_every = 4.0
    config.log_every_seconds = 15.0
    return config
