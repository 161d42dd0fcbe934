"""The tiny detector on the built-in shapes, and the miniature of the benchmark made of it.

Patches of 8 pixels on images of 64, four blocks, 32 channels behind the backbone: minutes on two
CPU cores.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxdet.config.imted import few_shot, few_shot_base
from jaxdet.config.mae import mae
from jaxdet.config.mask_rcnn import benchmark

GRID = 8
"""Patches along a side of an image, the pre-training's too."""

ENCODER = {"width": 128, "depth": 4, "heads": 4, "patch": 8}

FINE_SIZE, FINE_GRID = 128, 16
"""Of images from which imTED's RoIs are pooled: a shape covers 3 to 8 cells of the map of a side,
as COCO's medium and large objects do, where on images of 64 it covers 1.6 to 4."""

LADDER = {
    "convs": "baseline",
    "pyramid_random": "pyramid",
    "pyramid": "pyramid",
    "encoder": "encoder",
    "modulated_random": "modulated",
    "modulated": "modulated",
    "scratch": "modulated",
}
"""imTED's parts at each step of the miniature's ladder; `_random` is a decoder of random weights,
`scratch` an encoder of such too."""

SHAPES_DETECTOR = {
    "strides": (2, 4, 8, 16, 32),
    "anchor_sizes": (8.0, 12.0, 18.0, 26.0, 36.0),
    "rpn_batch": 64,
    "train_pre_nms": 200,
    "train_post_nms": 100,
    "test_pre_nms": 100,
    "test_post_nms": 50,
    "roi_batch": 24,
    "roi_positive": 0.5,
    "sampling_ratio": 2,
    "canonical_size": 112.0,
    "detections": 20,
}
"""The detector's numbers for the built-in shapes: patches of 8 pixels on images of 64."""


def shapes_detector(initialisation: str, *, epochs: float) -> ConfigDict:
    """The benchmark's parts and recipe, smaller: what differs from `benchmark`."""
    config = benchmark(
        "tiny", initialisation, lr=3e-3, weight_decay=0.05, drop_path=0.0, epochs=epochs
    )
    _shrink(config)
    config.data.name = "shapes"
    config.data.shapes.update(train_images=2000, val_images=100, image_size=96)
    config.model.vit.update(window=4, global_blocks=(1, 3), out_indices=(0, 1, 2, 3))
    config.model.heads.update(
        rpn_convs=1, box_convs=2, box_conv_dim=32, box_fc_dim=128, mask_convs=2, mask_conv_dim=32
    )
    config.model.detector.mask_roi_size = 7
    return config


def _shrink(config: ConfigDict) -> None:
    """The sizes and the sampling that all detectors on shapes have."""
    config.image_size = 64
    config.batch_size = 8
    config.eval_batch_size = 20
    config.log_every_seconds = 15.0
    config.data.update(max_instances=8, mask_size=28, scale_range=(0.75, 1.25), threads=1)
    config.model.dtype = "float32"
    config.model.vit.update(ENCODER, pretrain_grid=GRID)
    config.model.pyramid.channels = 32
    config.model.detector.update(SHAPES_DETECTOR)


def shrink_for_shapes(config: ConfigDict) -> None:
    """Makes a config of imTED one of a tiny detector on the built-in shapes, from random weights.

    The parts are the recipe's, smaller: two blocks in the decoder, the rest as in
    `shapes_detector`.
    """
    _shrink(config)
    config.initialisation = "random"
    config.data.augmentation = "lsj"
    config.model.vit.update(
        global_blocks=(0, 1, 2, 3),
        out_indices=(3,),
        absolute_position="random",
        drop_path=0.0,
        remat="none",
    )
    config.model.decoder.update(width=64, depth=2, heads=2, start="random")
    config.model.heads.roi_chunks = 1
    config.optim.update(lr=3e-3, layer_decay=1.0, warmup_epochs=0.25)
    config.few_shot.novel = ("star",)


def mini(initialisation: str) -> ConfigDict:
    """A detector of the miniature benchmark: 400 images with objects, the same recipe for all."""
    config = shapes_detector(initialisation, epochs=24.0)
    config.eval_every = config.checkpoint_every = 6.0
    config.data.shapes.update(train_images=400, val_images=200)
    if initialisation == "mae":
        _name_weights(config)
    return config


def start_from_pretraining(config: ConfigDict, name: str = "pretrain") -> None:
    """Makes imTED on shapes start from the encoder and decoder of a pre-training.

    Args:
        name: of its config in configs/mini.
    """
    config.initialisation = "mae"
    config.model.vit.absolute_position = "pretrained"
    config.model.decoder.update(start="pretrained", pretrain_grid=config.model.vit.pretrain_grid)
    _name_weights(config, name)


def _name_weights(config: ConfigDict, name: str = "pretrain") -> None:
    config.init = f"runs/mini/{name}/weights.npz"
    config.weights.update({key: None for key, value in config.weights.items() if value is not None})
    config.weights.source = (
        f"python -m jaxdet.pretrain --config=configs/mini/{name}.py --workdir=runs/mini/{name}"
    )


def ladder_base(step: str) -> ConfigDict:
    """imTED on the base classes of larger shapes, from `pretraining(FINE_SIZE)`.

    Args:
        step: one of LADDER.
    """
    config = few_shot_base("s", drop_path=0.0, parts=LADDER[step])
    _make_ladder(config, step)
    config.epochs = config.eval_every = config.checkpoint_every = 12.0
    config.optim.lr = 1e-3
    return config


def ladder_few(step: str) -> ConfigDict:
    """Fine-tuning of a detector of `ladder_base` on a few objects of every class."""
    config = few_shot("s", shots=10, drop_path=0.0, parts=LADDER[step])
    _make_ladder(config, step)
    config.init = None  # the base run gives all weights
    config.epochs = config.eval_every = config.checkpoint_every = 240.0
    config.optim.update(lr=1e-3, layer_decay=1.0, warmup_epochs=20.0)
    return config


def _make_ladder(config: ConfigDict, step: str) -> None:
    shrink_for_shapes(config)
    config.image_size = FINE_SIZE
    config.batch_size = 16
    config.model.vit.pretrain_grid = config.model.decoder.pretrain_grid = FINE_GRID
    sizes = SHAPES_DETECTOR["anchor_sizes"]
    config.model.detector.anchor_sizes = tuple(2 * size for size in sizes)
    config.optim.layer_decay = 0.75
    if step == "scratch":
        return
    start_from_pretraining(config, "pretrain_fine")
    if step.endswith("_random"):
        config.model.decoder.start = "random"


def pretraining(image_size: int = 64) -> ConfigDict:
    """MAE for the detectors of `mini`, with the decoder of `jaxdet.config.imted`'s on shapes.

    Args:
        image_size: 64, or FINE_SIZE for the detectors of `ladder_base`.
    """
    config = mae("s", epochs=16.0)
    config.image_size = image_size
    config.batch_size = 64
    config.data.shapes.update(images=10_000, image_size=max(96, image_size))
    config.data.threads = 1
    config.model.dtype = "float32"
    config.model.vit.update(ENCODER)
    config.model.decoder.update(width=64, depth=2, heads=2)
    config.optim.update(lr=4e-3, warmup_epochs=1.0)
    config.checkpoint_every = 4.0
    config.log_every_seconds = 15.0
    return config
