"""What detectors take of a pre-trained MAE: its parameters under their names, and a report."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxdet import __version__
from jaxdet.models.build import Tree
from jaxdet.models.paths import path_name
from jaxdet.training.checkpoint import digest
from jaxdet.weights.report import held_keys

DETECTOR_PATHS = {
    "encoder.": "backbone.",
    "norm.": "box_head.norm.",
    "decoder.embed.": "box_head.embed.",
    "decoder.pos_embed": "box_head.pos_embed",
    "decoder.blocks.": "box_head.blocks.",
}
"""Where a detector has the parameters of a pre-training: all in imTED, the encoder's in others."""

LEFT_OUT = "predicts the pixels of masked patches, which no detector does"


def detector_arrays(params: Tree) -> dict[str, np.ndarray]:
    """The parameters that detectors take, under their paths there."""
    return {
        _detector_path(name): value
        for name, value in _named(params).items()
        if _detector_path(name) is not None
    }


def weights_report(config: dict[str, Any], images: str, params: Tree) -> dict[str, Any]:
    """What a detector must know of the weights, as `checkpoints_convert` reports it of others.

    Args:
        config: the pre-training's, as JSON values.
        images: what it was trained on, such as "16 rendered shapes".
        params: all of the model's.
    """
    vit, decoder = config["model"]["vit"], config["model"]["decoder"]
    grid = config["image_size"] // vit["patch"]
    named = _named(params)
    used = {name: value for name, value in named.items() if _detector_path(name) is not None}
    return {
        "jaxdet": __version__,
        "source": {
            "file": "a pre-training by jaxdet.pretrain",
            "bytes": sum(value.nbytes for value in named.values()),
            "sha256": digest(params),
        },
        "layout": "MAE",
        "chosen": "pre-trained here",
        "kind": "backbone with a decoder",
        "vit": {
            **{key: vit[key] for key in ("width", "depth", "heads", "patch")},
            "position_grid": grid,
            "class_position": True,
            **{f"decoder_{key}": decoder[key] for key in ("width", "depth", "heads")},
        },
        "config": {
            **held_keys({**vit, "class_token": True}),
            **{f"model.decoder.{key}": value for key, value in decoder.items()},
            "model.decoder.pretrain_grid": grid,
        },
        "recipe": {"model.vit.resize": "bicubic", "model.vit.pretrain_grid": grid},
        "pixel_mean": config["model"]["pixel_mean"],
        "pixel_std": config["model"]["pixel_std"],
        "pixels_from": "the pre-training's config",
        "used": {
            "tensors": len(used),
            "parameters": sum(value.size for value in used.values()),
            "names": list(used),
        },
        "left_out": [{"name": name, "reason": LEFT_OUT} for name in named if name not in used],
        "unknown": [],
        "notes": [f"{config['epochs']:g} epochs of {images}, seed {config['seed']}"],
        "pretraining": config,
    }


def _named(params: Tree) -> dict[str, np.ndarray]:
    """The parameters by their dotted paths."""
    return {
        path_name(path): np.asarray(value)
        for path, value in jax.tree_util.tree_leaves_with_path(params)
    }


def _detector_path(name: str) -> str | None:
    """A parameter's path in a detector, None where it has none there."""
    for own, path in DETECTOR_PATHS.items():
        if name.startswith(own):
            return path + name.removeprefix(own)
    return None
