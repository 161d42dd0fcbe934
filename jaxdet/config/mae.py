"""Every word of a pre-training's config, its default, and what it must satisfy."""

from __future__ import annotations

from ml_collections import ConfigDict, config_dict

from jaxdet.config.imted import DECODERS
from jaxdet.config.mask_rcnn import INFINITY, TINY, VIT_SIZES, check_keys, validate
from jaxdet.models.settings import Settings


def mae(size: str, *, epochs: float) -> ConfigDict:
    """The recipe of MAE (arXiv 2111.06377): 224 pixels, batch 4096.

    Args:
        size: one of `jaxdet.config.imted.DECODERS`.
    """
    return ConfigDict(
        {
            "seed": 0,
            "image_size": 224,
            "batch_size": 4096,
            "accumulate": 1,
            "sharding": "replicated",
            "on_nonfinite": "stop",
            "epochs": epochs,
            "data": {
                "root": config_dict.placeholder(str),
                "shapes": {"images": 10_000, "image_size": 128},
                "crop_area": (0.2, 1.0),
                "flip": True,
                "threads": 8,
                "workers": 0,
            },
            "model": {
                "dtype": "bfloat16",
                "vit": {**VIT_SIZES[size], "mlp_ratio": 4.0, "patch": 16},
                "decoder": dict(DECODERS[size]),
                "mask_ratio": 0.75,
                "pixel_mean": Settings.pixel_mean,
                "pixel_std": Settings.pixel_std,
            },
            "optim": {
                "lr": 1.5e-4,
                "weight_decay": 0.05,
                "betas": (0.9, 0.95),
                "warmup_epochs": 40.0,
            },
            "checkpoint_every": 20.0,
            "log_every_steps": 20,
            "log_every_seconds": 10.0,
            "profile_steps": (),
        }
    ).lock()


NEUTRAL_KEYS = tuple(
    f"config.{key}"
    for key in (
        "data.root",
        "data.threads",
        "data.workers",
        "accumulate",
        "sharding",
        "on_nonfinite",
        "checkpoint_every",
        "log_every_steps",
        "log_every_seconds",
        "profile_steps",
    )
)
"""Keys that may change on resume."""

RANGES = {
    "seed": (0, 2**32 - 1),
    "image_size": (1, 2**15),
    "batch_size": (1, INFINITY),
    "accumulate": (1, INFINITY),
    "epochs": (TINY, 1e6),
    "checkpoint_every": (TINY, 1e6),
    "log_every_steps": (1, INFINITY),
    "log_every_seconds": (0, INFINITY),
    "profile_steps": (1, INFINITY),
    "data.shapes.images": (1, INFINITY),
    "data.shapes.image_size": (64, 4096),
    "data.crop_area": (TINY, 1),
    "data.threads": (1, 1024),
    "data.workers": (0, 1024),
    "model.vit.width": (4, INFINITY),
    "model.vit.depth": (1, INFINITY),
    "model.vit.heads": (1, INFINITY),
    "model.vit.mlp_ratio": (TINY, 100),
    "model.vit.patch": (1, 128),
    "model.decoder.width": (4, INFINITY),
    "model.decoder.depth": (1, INFINITY),
    "model.decoder.heads": (1, INFINITY),
    "model.mask_ratio": (TINY, 1 - TINY),
    "model.pixel_mean": (-1e6, 1e6),
    "model.pixel_std": (TINY, 1e6),
    "optim.lr": (TINY, 1e6),
    "optim.weight_decay": (0, 1e6),
    "optim.betas": (0, 1 - TINY),
    "optim.warmup_epochs": (0, 1e6),
}
"""Smallest and largest value of each number; of each element where the word is a tuple."""

LENGTHS = {
    "data.crop_area": 2,
    "model.pixel_mean": 3,
    "model.pixel_std": 3,
    "optim.betas": 2,
}

CHOICES = {
    "sharding": ("replicated", "fsdp"),
    "on_nonfinite": ("stop", "skip"),
    "model.dtype": ("float32", "bfloat16"),
}


def check_pretraining(config: ConfigDict) -> None:
    """Raises UserError naming the first word of a config that cannot be, and what it may be."""
    check_keys(config, RANGES, LENGTHS, CHOICES)
    model = config.model
    patches = (config.image_size // model.vit.patch) ** 2
    rules = {
        "image_size": (
            config.image_size % model.vit.patch == 0,
            f"is a multiple of the patch, {model.vit.patch}",
        ),
        "model.mask_ratio": (
            1 <= int(patches * (1 - model.mask_ratio)) < patches,
            f"leaves some of the {patches} patches seen and some masked",
        ),
        "profile_steps": (
            len(config.profile_steps) in (0, 2),
            "is empty, or the first and the last step to record",
        ),
        "data.crop_area": (
            config.data.crop_area[0] <= config.data.crop_area[1],
            "has the smaller share first",
        ),
        "optim.warmup_epochs": (
            config.optim.warmup_epochs < config.epochs,
            f"is shorter than the {config.epochs:g} epochs",
        ),
        **{
            f"model.{part}.{word}": (holds(model[part]), rule)
            for part in ("vit", "decoder")
            for word, holds, rule in (
                ("heads", lambda size: size.width % size.heads == 0, "divides the width"),
                (
                    "width",
                    lambda size: size.width % 4 == 0,
                    "is a multiple of 4 for an embedding of sines and cosines",
                ),
            )
        },
    }
    for word, (holds, rule) in rules.items():
        validate(config, word, holds, rule)
