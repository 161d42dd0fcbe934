"""The complete experiment: every word a config may hold, its default, and what it must satisfy.

A config is an `ml_collections.ConfigDict`. `benchmark()` returns the recipe of arXiv 2111.11429;
the files in `configs/` start from it and change what differs. Lengths are in epochs, and
`batch_size` is the number of images per optimizer step over all devices.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from ml_collections import ConfigDict, config_dict

from jaxdet.errors import UserError

VIT_SIZES = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "h": {"width": 1280, "depth": 32, "heads": 16},
}

INITIALISATIONS = ("random", "supervised", "mocov3", "beit", "mae")

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


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
        initialisation: one of INITIALISATIONS; all but "random" need `config.init` to train.
        lr, weight_decay, drop_path, epochs: what the paper tunes per initialisation.
    """
    return ConfigDict(
        {
            "seed": 0,
            "initialisation": initialisation,
            "init": config_dict.placeholder(str),
            "canvas": 1024,
            "batch_size": 64,
            "epochs": epochs,
            "data": {
                "name": "coco",
                "root": config_dict.placeholder(str),
                "train_annotations": config_dict.placeholder(str),
                "train_images": config_dict.placeholder(str),
                "val_annotations": config_dict.placeholder(str),
                "val_images": config_dict.placeholder(str),
                "slots": 100,
                "mask_size": 112,
                "scale_range": (0.1, 2.0),
                "flip": True,
                "threads": 8,
                "shapes": {"train_images": 2000, "val_images": 100, "image_size": 128},
            },
            "model": {
                "dtype": "bfloat16",
                "vit": {
                    **VIT_SIZES[size],
                    "mlp_ratio": 4.0,
                    "patch": 16,
                    "pretrain_grid": 14,
                    "window": 14,
                    "global_blocks": quarter_ends(VIT_SIZES[size]["depth"]),
                    "taps": quarter_ends(VIT_SIZES[size]["depth"]),
                    "qkv_bias": "qkv",
                    "drop_path": drop_path,
                    "layer_scale": config_dict.placeholder(float),
                    "relative_position": "shared",
                },
                "pyramid": {"kind": "fpn", "channels": 256, "groups": 32},
                "heads": {
                    "norm": "batch",
                    "rpn_convs": 2,
                    "box_convs": 4,
                    "box_conv_dim": 256,
                    "box_fc_dim": 1024,
                    "mask_convs": 4,
                    "mask_conv_dim": 256,
                },
                "detector": {
                    "strides": (4, 8, 16, 32, 64),
                    "anchor_sizes": (32.0, 64.0, 128.0, 256.0, 512.0),
                    "aspect_ratios": (0.5, 1.0, 2.0),
                    "rpn_batch": 256,
                    "rpn_positive": 0.5,
                    "train_pre_nms": 2000,
                    "train_post_nms": 1000,
                    "test_pre_nms": 1000,
                    "test_post_nms": 1000,
                    "roi_batch": 512,
                    "roi_positive": 0.25,
                    "box_roi_size": 7,
                    "mask_roi_size": 14,
                    "sampling_ratio": 0,
                    "canonical_size": 224.0,
                    "score_threshold": 0.05,
                    "nms_threshold": 0.5,
                    "detections": 100,
                    "pixel_mean": IMAGENET_MEAN,
                    "pixel_std": IMAGENET_STD,
                },
            },
            "optim": {
                "lr": lr,
                "weight_decay": weight_decay,
                "betas": (0.9, 0.999),
                "schedule": "cosine",
                "milestones": (8 / 9, 26 / 27),
                "layer_decay": 1.0,
                "warmup_epochs": 0.25,
                "warmup_factor": 0.001,
                "no_decay": ("norm", "pos_embed", "rel_pos"),
            },
            "eval_batch_size": 8,
            "eval_every": 5.0,
            "checkpoint_every": 1.0,
            "log_every_steps": 20,
            "log_every_seconds": 10.0,
        }
    )


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
        size,
        initialisation,
        lr=lr,
        weight_decay=weight_decay,
        drop_path=drop_path,
        epochs=epochs,
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


def quarter_ends(depth: int) -> tuple[int, ...]:
    """0-based positions of the last block of each quarter of the depth."""
    return tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4))


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first word of a config that cannot be, and what it may be."""
    vit = config.model.vit
    rules = [
        ("data.name", config.data.name in ("coco", "shapes"), 'is "coco" or "shapes"'),
        (
            "initialisation",
            config.initialisation in INITIALISATIONS,
            f"is one of {', '.join(INITIALISATIONS)}",
        ),
        ("batch_size", config.batch_size >= 1, "is at least 1"),
        ("eval_batch_size", config.eval_batch_size >= 1, "is at least 1"),
        ("epochs", config.epochs > 0, "is above 0"),
        ("eval_every", config.eval_every > 0, "is above 0 epochs"),
        ("checkpoint_every", config.checkpoint_every > 0, "is above 0 epochs"),
        ("log_every_steps", config.log_every_steps >= 1, "is at least 1"),
        ("data.slots", config.data.slots >= 1, "is at least 1"),
        ("data.mask_size", config.data.mask_size >= 28, "is at least 28"),
        ("data.threads", config.data.threads >= 1, "is at least 1"),
        (
            "data.scale_range",
            len(config.data.scale_range) == 2
            and 0 < config.data.scale_range[0] <= config.data.scale_range[1],
            "is two numbers, 0 < smallest <= largest",
        ),
        (
            "model.dtype",
            config.model.dtype in ("float32", "bfloat16"),
            'is "float32" or "bfloat16"',
        ),
        ("model.vit.depth", vit.depth > 0, "is at least 1"),
        ("model.vit.heads", vit.heads > 0 and vit.width % vit.heads == 0, "divides the width"),
        ("model.vit.patch", vit.patch > 0 and vit.patch % 4 == 0, "is a multiple of 4"),
        ("model.vit.qkv_bias", vit.qkv_bias in ("qkv", "qv", "none"), 'is "qkv", "qv" or "none"'),
        (
            "model.vit.global_blocks",
            all(0 <= block < vit.depth for block in vit.global_blocks),
            f"names blocks 0 to {vit.depth - 1}",
        ),
        (
            "model.vit.taps",
            len(vit.taps) == 4
            and list(vit.taps) == sorted(set(vit.taps))
            and set(vit.taps) <= set(range(vit.depth)),
            f"names four blocks in ascending order, 0 to {vit.depth - 1}",
        ),
        ("model.vit.drop_path", 0 <= vit.drop_path < 1, "is at least 0 and below 1"),
        (
            "model.vit.relative_position",
            vit.relative_position in ("shared", "decomposed", "none"),
            'is "shared", "decomposed" or "none"',
        ),
        (
            "model.pyramid.kind",
            config.model.pyramid.kind in ("fpn", "simple"),
            'is "fpn" or "simple"',
        ),
        (
            "model.heads.norm",
            config.model.heads.norm in ("batch", "layer"),
            'is "batch" or "layer"',
        ),
        (
            "model.pyramid.groups",
            config.model.pyramid.groups > 0 and vit.width % config.model.pyramid.groups == 0,
            "divides the width",
        ),
        (
            "canvas",
            config.canvas > 0 and vit.patch > 0 and config.canvas % (4 * vit.patch) == 0,
            f"is a multiple of {4 * vit.patch} pixels (4 patches)",
        ),
        (
            "model.detector.strides",
            tuple(config.model.detector.strides)
            == tuple(vit.patch // 4 * 2**level for level in range(5)),
            f"is {tuple(vit.patch // 4 * 2**level for level in range(5))} for this patch",
        ),
        (
            "model.detector.anchor_sizes",
            len(config.model.detector.anchor_sizes) == 5,
            "has one size for each of P2 to P6",
        ),
        ("optim.lr", config.optim.lr > 0, "is above 0"),
        (
            "optim.schedule",
            config.optim.schedule in ("cosine", "step"),
            'is "cosine" or "step"',
        ),
        (
            "optim.milestones",
            all(0 < milestone < 1 for milestone in config.optim.milestones),
            "is a tuple of shares of the run, each between 0 and 1",
        ),
        (
            "optim.layer_decay",
            0 < config.optim.layer_decay <= 1,
            "is above 0 and at most 1",
        ),
        (
            "optim.no_decay",
            all(_is_pattern(pattern) for pattern in config.optim.no_decay),
            "is a tuple of regular expressions",
        ),
        ("optim.warmup_epochs", config.optim.warmup_epochs >= 0, "is at least 0"),
    ]
    for word, holds, demand in rules:
        if not holds:
            value = config
            for name in word.split("."):
                value = value[name]
            raise UserError(f"config.{word}={value!r} cannot be: it {demand}")
    if config.init is not None and not Path(config.init).is_file():
        raise UserError(f"config.init={config.init!r} is not a file; give converted weights")
    if config.init is not None and config.initialisation == "random":
        raise UserError(
            "config.init is given but config.initialisation is 'random'; name the pre-training the "
            "weights come from, or leave config.init out"
        )


def _is_pattern(text: object) -> bool:
    try:
        re.compile(text)
    except (re.error, TypeError):
        return False
    return True


def unknown_word(config: ConfigDict, dotted: str) -> str | None:
    """A sentence about the first part of `dotted` the config does not have; None if it has it all.

    Args:
        dotted: a word such as "model.vit.width", without the leading "config.".
    """
    section, walked = config, "config"
    for name in dotted.split("."):
        if not isinstance(section, ConfigDict) or name not in section:
            known = sorted(section) if isinstance(section, ConfigDict) else []
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {walked}.{close[0]}?" if close else f"it has {', '.join(known)}"
            if not known:
                hint = f"{walked} is a single value"
            return f"{walked} has no word {name!r}; {hint}"
        section, walked = section[name], f"{walked}.{name}"
    return None
