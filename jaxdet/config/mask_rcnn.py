"""The complete experiment: every word a config may hold, its default, and what it must satisfy.

A config is an `ml_collections.ConfigDict`. `benchmark()` returns the recipe of arXiv 2111.11429;
the files in `configs/` start from it and change what differs. Lengths are in epochs, and
`batch_size` is the number of images per optimizer step over all devices, computed in `accumulate`
parts one after the other (`jaxdet.train.make_train_step`). An epoch counts the images with objects,
since only those are trained on.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from jaxdet.config.published_weights import how_to_get, official_weights
from jaxdet.errors import UserError
from jaxdet.models.settings import Settings

VIT_SIZES = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "h": {"width": 1280, "depth": 32, "heads": 16},
}

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
"""The detector's numbers for the built-in shapes: patches of 8 pixels on a canvas of 64."""

INITIALISATIONS = ("random", "supervised", "mocov3", "beit", "mae")
"""Those that arXiv 2111.11429 compares. A config may name another: one's own pre-training."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""What an initialisation may be called."""

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
        initialisation: one of INITIALISATIONS, or a name of one's own (see NAME), whose weights are
            taken as MAE's are; all but "random" need `config.init` to train.
        lr, weight_decay, drop_path, epochs: what the paper tunes per initialisation.

    Raises:
        UserError: there is no such size.
    """
    if size not in VIT_SIZES:
        raise UserError(f"there is no size {size!r} of ViT; give one of {', '.join(VIT_SIZES)}")
    return ConfigDict(
        {
            "seed": 0,
            "initialisation": initialisation,
            "init": config_dict.placeholder(str),
            "weights": {
                word: config_dict.placeholder(str) if value is None else value
                for word, value in official_weights(initialisation, size).items()
            },
            "image_size": 1024,
            "batch_size": 64,
            "accumulate": 1,
            "batch_statistics": "batch",
            "sharding": "replicated",
            "on_nonfinite": "stop",
            "epochs": epochs,
            "data": {
                "name": "coco",
                "root": config_dict.placeholder(str),
                "train_annotations": config_dict.placeholder(str),
                "train_images": config_dict.placeholder(str),
                "val_annotations": config_dict.placeholder(str),
                "val_images": config_dict.placeholder(str),
                "max_instances": 100,
                "mask_size": 112,
                "augmentation": "lsj",
                "scale_range": (0.1, 2.0),
                "short_sides": tuple(range(480, 801, 32)),
                "long_side": 1333,
                "flip": True,
                "threads": 8,
                "workers": 0,
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
                    "out_indices": quarter_ends(VIT_SIZES[size]["depth"]),
                    "qkv_bias": "qkv",
                    "drop_path": drop_path,
                    "layer_scale": config_dict.placeholder(float),
                    "activation": "gelu",
                    "pre_norm": False,
                    "absolute_position": "pretrained",
                    "absolute_trainable": True,
                    "relative_position": "shared",
                    "relative_start": "zero",
                    "relative_trainable": True,
                    "class_token": False,
                    "resize_offset": 0.0,
                    **POSITION.get(initialisation, {}),
                    "attention": "xla",
                    "remat": "none",
                },
                "pyramid": {"kind": "fpn", "channels": 256, "groups": 32},
                "heads": {
                    "norm": "batch",
                    "rpn_convs": 2,
                    "box": "convs",
                    "box_features": "pyramid",
                    "roi_chunks": 1,
                    "box_convs": 4,
                    "box_conv_dim": 256,
                    "box_fc_dim": 1024,
                    "mask": True,
                    "mask_convs": 4,
                    "mask_conv_dim": 256,
                },
                "decoder": {
                    "width": 512,
                    "depth": 8,
                    "heads": 16,
                    "pretrain_grid": 14,
                    "start": "pretrained",
                },
                "detector": {
                    **{
                        field.name: field.default
                        for field in fields(Settings)
                        if field.name != "num_classes"
                    },
                    **PIXELS.get(initialisation, {}),
                },
            },
            "optim": {
                "lr": lr,
                "weight_decay": weight_decay,
                "betas": (0.9, 0.999),
                "schedule": "cosine",
                "milestones": (8 / 9, 26 / 27),
                "layer_decay": 1.0,
                "decoder_layer_decay": 1.0,
                "frozen": (),
                "warmup_epochs": 0.25,
                "warmup_factor": 0.001,
                "no_decay": ("norm", "pos_embed", "rel_pos"),
            },
            "few_shot": {
                "base_run": config_dict.placeholder(str),
                "novel": (),
                "keep_deltas": False,
            },
            "eval_batch_size": 8,
            "eval_workers": 0,
            "eval_every": 5.0,
            "checkpoint_every": 1.0,
            "log_every_steps": 20,
            "log_every_seconds": 10.0,
            "profile_steps": (),
        }
    ).lock()


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


INFINITY = float("inf")
TINY = 1e-12
"""The smallest value of what must be above 0."""

RANGES = {
    "seed": (0, 2**32 - 1),
    "image_size": (1, 2**15),
    "batch_size": (1, INFINITY),
    "accumulate": (1, INFINITY),
    "eval_batch_size": (1, INFINITY),
    "eval_workers": (0, 1024),
    "epochs": (TINY, 1e6),
    "eval_every": (TINY, 1e6),
    "checkpoint_every": (TINY, 1e6),
    "log_every_steps": (1, INFINITY),
    "log_every_seconds": (0, INFINITY),
    "profile_steps": (1, INFINITY),
    "data.max_instances": (1, 10_000),
    "data.mask_size": (28, 1024),
    "data.scale_range": (TINY, 100),
    "data.short_sides": (1, 2**15),
    "data.long_side": (1, 2**15),
    "data.threads": (1, 1024),
    "data.workers": (0, 1024),
    "data.shapes.train_images": (1, INFINITY),
    "data.shapes.val_images": (1, INFINITY),
    "data.shapes.image_size": (64, 4096),
    "model.vit.width": (1, INFINITY),
    "model.vit.depth": (1, INFINITY),
    "model.vit.heads": (1, INFINITY),
    "model.vit.mlp_ratio": (TINY, 100),
    "model.vit.patch": (4, 128),
    "model.vit.pretrain_grid": (1, 1024),
    "model.vit.window": (1, 1024),
    "model.vit.global_blocks": (0, INFINITY),
    "model.vit.out_indices": (0, INFINITY),
    "model.vit.drop_path": (0, 1 - TINY),
    "model.vit.resize_offset": (0, 1),
    "model.pyramid.channels": (1, INFINITY),
    "model.pyramid.groups": (1, INFINITY),
    "model.heads.rpn_convs": (0, 100),
    "model.heads.roi_chunks": (1, 10_000),
    "model.heads.box_convs": (0, 100),
    "model.heads.box_conv_dim": (1, INFINITY),
    "model.heads.box_fc_dim": (1, INFINITY),
    "model.heads.mask_convs": (0, 100),
    "model.heads.mask_conv_dim": (1, INFINITY),
    "model.decoder.width": (1, INFINITY),
    "model.decoder.depth": (1, INFINITY),
    "model.decoder.heads": (1, INFINITY),
    "model.decoder.pretrain_grid": (1, 1024),
    "model.detector.rpn_thresholds": (0, 1),
    "model.detector.rpn_nms_threshold": (0, 1),
    "model.detector.roi_threshold": (0, 1),
    "model.detector.box_weights": (TINY, 1e6),
    "model.detector.max_candidates": (1, 100_000),
    "model.detector.strides": (1, INFINITY),
    "model.detector.anchor_sizes": (TINY, 1e6),
    "model.detector.aspect_ratios": (TINY, 1e6),
    "model.detector.rpn_batch": (1, INFINITY),
    "model.detector.rpn_positive": (0, 1),
    "model.detector.train_pre_nms": (1, INFINITY),
    "model.detector.train_post_nms": (1, INFINITY),
    "model.detector.test_pre_nms": (1, INFINITY),
    "model.detector.test_post_nms": (1, INFINITY),
    "model.detector.roi_batch": (1, INFINITY),
    "model.detector.roi_positive": (TINY, 1),
    "model.detector.box_loss_weight": (0, 1e6),
    "model.detector.box_roi_size": (1, 64),
    "model.detector.mask_roi_size": (1, 64),
    "model.detector.sampling_ratio": (0, 16),
    "model.detector.canonical_size": (TINY, 1e6),
    "model.detector.score_threshold": (0, 1),
    "model.detector.nms_threshold": (0, 1),
    "model.detector.nms_sigma": (TINY, 1e6),
    "model.detector.nms_min_score": (0, 1),
    "model.detector.detections": (1, 10_000),
    "model.detector.pixel_mean": (-1e6, 1e6),
    "model.detector.pixel_std": (TINY, 1e6),
    "optim.lr": (TINY, 1e6),
    "optim.weight_decay": (0, 1e6),
    "optim.betas": (0, 1 - TINY),
    "optim.milestones": (TINY, 1 - TINY),
    "optim.layer_decay": (TINY, 1),
    "optim.decoder_layer_decay": (TINY, 1),
    "optim.warmup_epochs": (0, 1e6),
    "optim.warmup_factor": (0, 1),
}
"""Smallest and largest value of each number; of each element where the word is a tuple."""

LENGTHS = {
    "data.scale_range": 2,
    "model.detector.rpn_thresholds": 2,
    "model.detector.box_weights": 4,
    "model.detector.anchor_sizes": 5,
    "model.detector.pixel_mean": 3,
    "model.detector.pixel_std": 3,
    "optim.betas": 2,
}

CHOICES = {
    "batch_statistics": ("batch", "microbatch"),
    "sharding": ("replicated", "fsdp"),
    "on_nonfinite": ("stop", "skip"),
    "data.name": ("coco", "shapes"),
    "data.augmentation": ("lsj", "multiscale"),
    "model.dtype": ("float32", "bfloat16"),
    "model.vit.qkv_bias": ("qkv", "qv", "none"),
    "model.vit.activation": ("gelu", "gelu_tanh", "quick_gelu", "swiglu"),
    "model.vit.absolute_position": ("pretrained", "random", "zero", "sincos", "none"),
    "model.vit.relative_position": ("shared", "decomposed", "none"),
    "model.vit.relative_start": ("pretrained", "zero"),
    "model.vit.attention": ("xla", "cudnn"),
    "model.vit.remat": ("none", "attention", "block"),
    "model.pyramid.kind": ("fpn", "simple", "imted", "single"),
    "model.heads.norm": ("batch", "layer", "none"),
    "model.decoder.start": ("pretrained", "random"),
    "model.heads.box": ("convs", "decoder"),
    "model.heads.box_features": ("pyramid", "encoder", "modulated"),
    "model.detector.box_loss": ("l1", "giou"),
    "model.detector.nms": ("hard", "soft_linear", "soft_gaussian"),
    "optim.schedule": ("cosine", "step"),
}


def check(config: ConfigDict) -> None:
    """Raises UserError naming the first word of a config that cannot be, and what it may be."""
    check_keys(config, RANGES, LENGTHS, CHOICES)
    if config.init is not None and not Path(config.init).is_file():
        raise UserError(f"config.init={config.init!r} is not a file; {how_to_get(config)}")
    if config.init is not None and config.initialisation == "random":
        raise UserError(
            "config.init is given but config.initialisation is 'random'; name the pre-training the "
            "weights come from, or leave config.init out"
        )

    vit, detector, heads = config.model.vit, config.model.detector, config.model.heads
    kind = config.model.pyramid.kind
    out_indices = 4 if kind == "fpn" else len(vit.out_indices)
    strides = tuple(vit.patch // 4 * 2**level for level in range(5))
    strides = (vit.patch,) if kind == "single" else strides
    rules = {
        "initialisation": (
            NAME.fullmatch(config.initialisation) is not None,
            f"is {', '.join(INITIALISATIONS)} or a name of your own, of small letters, digits, "
            "dots, hyphens and underscores",
        ),
        "data.scale_range": (
            config.data.scale_range[0] <= config.data.scale_range[1],
            "has the smaller scale first",
        ),
        "data.short_sides": (len(config.data.short_sides) > 0, "has a length"),
        "data.long_side": (
            config.data.augmentation != "multiscale" or config.data.long_side <= config.image_size,
            f"is at most the canvas, {config.image_size}",
        ),
        "model.vit.heads": (vit.width % vit.heads == 0, "divides the width"),
        "model.vit.patch": (vit.patch % 4 == 0, "is a multiple of 4"),
        "model.vit.global_blocks": (
            _are_blocks(vit.global_blocks, vit.depth),
            f"names blocks 0 to {vit.depth - 1} in ascending order",
        ),
        "model.vit.out_indices": (
            len(vit.out_indices) == max(out_indices, 1)
            and _are_blocks(vit.out_indices, vit.depth)
            and vit.out_indices[-1] == vit.depth - 1,
            f"names blocks in ascending order, the last one {vit.depth - 1}; four of them for an "
            "FPN",
        ),
        "model.vit.class_token": (
            not vit.class_token
            or (len(vit.global_blocks) == vit.depth and vit.relative_position == "none"),
            "takes blocks that are all global and no relative position",
        ),
        "model.vit.absolute_position": (
            vit.absolute_position != "pretrained" or config.initialisation != "random",
            "takes an initialisation that is not random; give random, zero, sincos or none",
        ),
        "model.vit.relative_start": (
            vit.relative_start != "pretrained" or config.initialisation != "random",
            "takes an initialisation that is not random; give zero",
        ),
        "model.vit.width": (
            vit.absolute_position != "sincos" or vit.width % 4 == 0,
            "is a multiple of 4 for an embedding of sines and cosines",
        ),
        "model.pyramid.groups": (
            kind != "fpn" or vit.width % config.model.pyramid.groups == 0,
            "divides the width",
        ),
        "image_size": (
            config.image_size % (4 * vit.patch) == 0,
            f"is a multiple of {4 * vit.patch} pixels (4 patches)",
        ),
        "model.detector.strides": (
            tuple(detector.strides) == strides,
            f"is {strides} for this patch and kind of pyramid",
        ),
        "model.heads.box_features": (
            kind != "single" or heads.box_features == "pyramid",
            "is 'pyramid' where config.model.pyramid.kind is 'single'",
        ),
        "model.decoder.heads": (
            config.model.decoder.width % config.model.decoder.heads == 0,
            "divides the decoder's width",
        ),
        "model.decoder.width": (
            heads.box != "decoder" or config.model.decoder.width % 4 == 0,
            "is a multiple of 4 for an embedding of sines and cosines",
        ),
        "model.heads.roi_chunks": (
            heads.roi_chunks == 1 or heads.box == "decoder" or heads.norm != "batch",
            "takes a box head without batch norm, whose statistics need all RoIs at once",
        ),
        "model.detector.aspect_ratios": (len(detector.aspect_ratios) > 0, "has a ratio"),
        "model.detector.roi_batch": (
            int(detector.roi_batch * detector.roi_positive) >= 1,
            "leaves room for a foreground RoI",
        ),
        "profile_steps": (
            len(config.profile_steps) in (0, 2),
            "is empty, or the first and the last step to record",
        ),
        "optim.no_decay": (
            all(_is_pattern(pattern) for pattern in config.optim.no_decay),
            "is a tuple of regular expressions",
        ),
        "optim.frozen": (
            all(_is_pattern(pattern) for pattern in config.optim.frozen),
            "is a tuple of regular expressions",
        ),
        "few_shot.base_run": (
            config.few_shot.base_run is None or config.init is None,
            "gives all weights, and config.init does too; leave one of them out",
        ),
        "few_shot.novel": (
            all(isinstance(name, str) for name in config.few_shot.novel),
            "is a tuple of category names",
        ),
    }
    for word, (holds, reason) in rules.items():
        validate(config, word, holds, reason)


def check_keys(
    config: ConfigDict,
    ranges: Mapping[str, tuple[float, float]],
    lengths: Mapping[str, int],
    choices: Mapping[str, Sequence[str]],
) -> None:
    """Raises UserError for a word that is missing, out of its range, too long or no choice."""
    for word in (*ranges, *lengths, *choices):
        missing = unknown_key(config, word)
        if missing:
            raise UserError(f"this config is for another command: {missing}")
    for word, (low, high) in ranges.items():
        value = value_of(config, word)
        elements = value if isinstance(value, tuple | list) else (value,)
        validate(
            config,
            word,
            all(_is_number(element) and low <= element <= high for element in elements),
            f"lies between {_readable(low)} and {_readable(high)}",
        )
    for word, length in lengths.items():
        validate(config, word, len(value_of(config, word)) == length, f"has {length} numbers")
    for word, values in choices.items():
        validate(config, word, value_of(config, word) in values, f"is one of {', '.join(values)}")


def config_digest(config: Mapping[str, Any]) -> str:
    """The SHA-256 of a plain config's canonical JSON, by which results name it."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def value_of(config: ConfigDict, dotted: str) -> Any:
    """The value of a word such as "model.vit.width"."""
    for name in dotted.split("."):
        config = config[name]
    return config


def validate(config: ConfigDict, word: str, holds: bool, rule: str) -> None:
    """Raises UserError with the rule for a word where it does not hold."""
    if not holds:
        raise UserError(f"config.{word}={value_of(config, word)!r} cannot be: it {rule}")


def _is_number(value: object) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _readable(bound: float) -> str:
    """A bound as a person would say it."""
    if bound == TINY:
        return "0 (not itself)"
    if bound == 1 - TINY:
        return "1 (not itself)"
    return f"{bound:g}" if bound != INFINITY else "any size"


def _are_blocks(blocks: tuple[int, ...], depth: int) -> bool:
    whole = all(isinstance(block, int) and block < depth for block in blocks)
    return whole and list(blocks) == sorted(set(blocks))


def _is_pattern(text: object) -> bool:
    try:
        re.compile(text)
    except (re.error, TypeError):
        return False
    return True


def unknown_key(config: ConfigDict, dotted: str) -> str | None:
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
