"""The recipe of MAE's pre-training, and what its config must satisfy."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxdet.config.imted import DECODERS
from jaxdet.config.keys import PretrainingConfig
from jaxdet.config.mask_rcnn import VIT_SIZES
from jaxdet.config.rules import pretraining_rules
from jaxdet.config.values import build, check_keys, validate


def mae(size: str, *, epochs: float) -> ConfigDict:
    """The recipe of MAE (arXiv 2111.06377): 224 pixels, batch 4096.

    Args:
        size: one of `jaxdet.config.imted.DECODERS`.
    """
    config = build(PretrainingConfig)
    config.epochs = epochs
    config.model.vit.update(VIT_SIZES[size])
    config.model.decoder.update(DECODERS[size])
    return config


def check_pretraining(config: ConfigDict) -> None:
    """Raises UserError with what a key must be, for the first whose value is not."""
    check_keys(config, PretrainingConfig)
    for name, holds, rule in pretraining_rules(config):
        validate(config, name, holds, rule)
