"""Experiment configs: the recipes that the files in `configs/` start from, and their checks."""

from jaxdet.config.imted import DECODERS, VOC, few_shot, few_shot_base, imted
from jaxdet.config.keys import INITIALISATIONS, NAME, keys_with
from jaxdet.config.lvis import LVIS_CLASSES, make_lvis
from jaxdet.config.mae import check_pretraining, mae
from jaxdet.config.mask_rcnn import VIT_SIZES, benchmark, check, make_cascade, vitdet
from jaxdet.config.shapes import (
    FINE_SIZE,
    LADDER,
    SHAPES_DETECTOR,
    ladder_base,
    ladder_few,
    mini,
    pretraining,
    shapes_detector,
    shrink_for_shapes,
    start_from_pretraining,
)
from jaxdet.config.values import completed, config_digest, override, variant

__all__ = [
    "DECODERS",
    "FINE_SIZE",
    "INITIALISATIONS",
    "LADDER",
    "LVIS_CLASSES",
    "NAME",
    "SHAPES_DETECTOR",
    "VIT_SIZES",
    "VOC",
    "benchmark",
    "check",
    "check_pretraining",
    "completed",
    "config_digest",
    "few_shot",
    "few_shot_base",
    "imted",
    "keys_with",
    "ladder_base",
    "ladder_few",
    "mae",
    "make_cascade",
    "make_lvis",
    "mini",
    "override",
    "pretraining",
    "shapes_detector",
    "shrink_for_shapes",
    "start_from_pretraining",
    "variant",
    "vitdet",
]
