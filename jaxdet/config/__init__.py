"""Experiment configs: the recipes that the files in `configs/` start from, and their checks."""

from jaxdet.config.mask_rcnn import (
    INITIALISATIONS,
    NAME,
    VIT_SIZES,
    benchmark,
    check,
    config_digest,
    vitdet,
)

__all__ = [
    "INITIALISATIONS",
    "NAME",
    "VIT_SIZES",
    "benchmark",
    "check",
    "config_digest",
    "vitdet",
]
