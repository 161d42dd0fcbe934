"""What the keys of a config must satisfy together; what each must be alone is in the schema.

A rule is a key, whether it holds, and what the key must do: "divide config.model.vit.width=768".
Rules are asked for one by one, so that each may rely on those before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from ml_collections import ConfigDict

from jaxdet.config.keys import INITIALISATIONS, NAME

Rule = tuple[str, bool, str]

MOST_STAGES = 8
"""Of a cascade beyond the first: each is a box head of its own."""

SINCOS = "be a multiple of 4 for an embedding of sines and cosines"


def detector_rules(config: ConfigDict) -> Iterator[Rule]:
    """The rules of a detector's config, each of whose keys is as the schema has it."""
    sections = (_data, _vit, _position, _image_size, _pyramid, _heads, _detector, _training)
    return chain.from_iterable(rules(config) for rules in sections)


def _data(config: ConfigDict) -> Iterator[Rule]:
    data = config.data
    yield "data.scale_range", data.scale_range[0] <= data.scale_range[1], "have the smaller first"
    yield "data.short_sides", len(data.short_sides) > 0, "have at least one length"
    yield (
        "data.long_side",
        data.augmentation != "multiscale" or data.long_side <= config.image_size,
        f"be at most config.image_size={config.image_size}",
    )


def _vit(config: ConfigDict) -> Iterator[Rule]:
    vit = config.model.vit
    yield (
        "model.vit.heads",
        vit.width % vit.heads == 0,
        f"divide config.model.vit.width={vit.width}",
    )
    yield (
        "model.vit.global_blocks",
        _are_blocks(vit.global_blocks, vit.depth),
        f"name blocks from 0 to {vit.depth - 1} in ascending order",
    )
    yield from _propagation(config)
    is_fpn = config.model.pyramid.kind == "fpn"
    yield (
        "model.vit.out_indices",
        (len(vit.out_indices) == 4 if is_fpn else len(vit.out_indices) > 0)
        and _are_blocks(vit.out_indices, vit.depth)
        and vit.out_indices[-1] == vit.depth - 1,
        f"name {'four ' if is_fpn else ''}blocks in ascending order, {vit.depth - 1} the last",
    )


def _propagation(config: ConfigDict) -> Iterator[Rule]:
    """What the blocks must be that pass on what windows know, beside global ones."""
    vit = config.model.vit
    has_prefix = vit.class_token or vit.registers > 0
    for key in ("shifted_blocks", "conv_blocks"):
        blocks = vit[key]
        yield (
            f"model.vit.{key}",
            _are_blocks(blocks, vit.depth),
            f"name blocks from 0 to {vit.depth - 1} in ascending order",
        )
        rule = "be empty where config.model.vit.class_token or registers are taken"
        yield f"model.vit.{key}", not (blocks and has_prefix), rule
    yield (
        "model.vit.shifted_blocks",
        not set(vit.shifted_blocks) & set(vit.global_blocks),
        f"name other blocks than config.model.vit.global_blocks={tuple(vit.global_blocks)}",
    )
    yield (
        "model.vit.shifted_blocks",
        vit.rope == "none" or not vit.shifted_blocks,
        f"be empty where config.model.vit.rope is {vit.rope!r}",
    )


def _position(config: ConfigDict) -> Iterator[Rule]:
    vit, is_random = config.model.vit, config.initialisation == "random"
    yield (
        "initialisation",
        NAME.fullmatch(config.initialisation) is not None,
        f"be {', '.join(INITIALISATIONS)} or a name of your own, of lowercase letters, digits, "
        "dots, hyphens and underscores",
    )
    yield (
        "model.vit.absolute_position",
        vit.absolute_position != "pretrained" or not is_random,
        "be random, zero, sincos or none where config.initialisation is 'random'",
    )
    yield (
        "model.vit.relative_start",
        vit.relative_start != "pretrained" or not is_random,
        "be zero where config.initialisation is 'random'",
    )
    yield "model.vit.width", vit.absolute_position != "sincos" or vit.width % 4 == 0, SINCOS
    yield (
        "model.vit.resize_offset",
        vit.resize_offset == 0 or vit.resize == "bicubic",
        f"be 0 where config.model.vit.resize is {vit.resize!r}",
    )
    channels = vit.width // vit.heads
    yield (
        "model.vit.rope",
        vit.rope == "none" or channels % 4 == 0,
        f"be 'none' unless config.model.vit.width / heads, {channels}, is a multiple of 4",
    )
    yield (
        "model.vit.relative_position",
        vit.rope == "none" or vit.relative_position != "decomposed",
        f"be 'shared' or 'none' where config.model.vit.rope is {vit.rope!r}, which turns the "
        "queries that decomposed positions are read from",
    )


def _image_size(config: ConfigDict) -> Iterator[Rule]:
    coarsest = 2 * config.model.vit.patch
    yield (
        "image_size",
        config.image_size % coarsest == 0,
        f"be a multiple of {coarsest} (2 * config.model.vit.patch); "
        f"{max(coarsest, round(config.image_size / coarsest) * coarsest)} is the nearest",
    )


def _pyramid(config: ConfigDict) -> Iterator[Rule]:
    pyramid, width = config.model.pyramid, config.model.vit.width
    yield (
        "model.pyramid.groups",
        pyramid.kind not in ("fpn", "fpn_last") or width % pyramid.groups == 0,
        f"divide config.model.vit.width={width}",
    )


def _heads(config: ConfigDict) -> Iterator[Rule]:
    heads, decoder = config.model.heads, config.model.decoder
    yield (
        "model.heads.box_features",
        config.model.pyramid.kind != "single" or heads.box_features == "pyramid",
        "be 'pyramid' where config.model.pyramid.kind is 'single'",
    )
    yield (
        "model.decoder.heads",
        decoder.width % decoder.heads == 0,
        f"divide config.model.decoder.width={decoder.width}",
    )
    yield "model.decoder.width", heads.box != "decoder" or decoder.width % 4 == 0, SINCOS
    stages = len(heads.cascade_thresholds)
    yield (
        "model.heads.cascade_thresholds",
        stages <= MOST_STAGES,
        f"have at most {MOST_STAGES} IoUs, one for each further stage",
    )
    yield (
        "model.heads.class_agnostic_boxes",
        heads.class_agnostic_boxes or not heads.cascade_thresholds,
        "be true for a cascade, whose stages start from one box an RoI",
    )
    yield (
        "model.heads.box",
        heads.box == "convs" or not heads.class_agnostic_boxes,
        "be 'convs' where config.model.heads.class_agnostic_boxes is true",
    )
    yield (
        "model.heads.cascade_factors",
        len(heads.cascade_factors) == stages,
        f"have as many factors as config.model.heads.cascade_thresholds has IoUs, {stages}",
    )
    yield (
        "model.heads.roi_chunks",
        heads.roi_chunks == 1 or heads.box == "decoder" or heads.norm != "batch",
        "be 1 for a box head with batch norm, whose statistics need all RoIs at once",
    )


def _detector(config: ConfigDict) -> Iterator[Rule]:
    detector, patch = config.model.detector, config.model.vit.patch
    strides = (patch / 4, patch / 2, patch, 2 * patch, 4 * patch)
    if config.model.pyramid.kind == "single":
        strides = (patch,)
    shown = ", ".join(f"{stride:g}" for stride in strides)
    yield (
        "model.detector.strides",
        tuple(detector.strides) == strides,
        f"be ({shown}{',' * (len(strides) == 1)}) for this config.model.vit.patch and "
        "config.model.pyramid.kind",
    )
    yield (
        "model.detector.federated_classes",
        detector.federated_classes == 0 or detector.class_loss == "sigmoid",
        "be 0 unless config.model.detector.class_loss is 'sigmoid'",
    )
    yield from _augmented(config)
    yield from _padded(config)
    yield "model.detector.aspect_ratios", len(detector.aspect_ratios) > 0, "have at least one ratio"
    yield (
        "model.detector.roi_batch",
        int(detector.roi_batch * detector.roi_positive) >= 1,
        "leave room for a foreground RoI: times config.model.detector.roi_positive at least 1",
    )


def _augmented(config: ConfigDict) -> Iterator[Rule]:
    """Test-time augmentation."""
    sizes, coarsest = config.model.detector.tta_sizes, 2 * config.model.vit.patch
    yield (
        "model.detector.tta_sizes",
        all(size % coarsest == 0 for size in sizes),
        f"be multiples of {coarsest} (2 * config.model.vit.patch)",
    )
    yield "model.detector.tta_sizes", len({*sizes}) == len(sizes), "name each side once"
    yield (
        "model.detector.tta_sizes",
        config.model.vit.relative_position != "shared" or not {*sizes} - {config.image_size},
        f"be config.image_size={config.image_size} alone where "
        "config.model.vit.relative_position is 'shared', whose tables are of that size",
    )
    yield (
        "model.detector.tta_sizes",
        not sizes or config.data.augmentation == "lsj",
        "be empty unless config.data.augmentation is 'lsj'",
    )


def _padded(config: ConfigDict) -> Iterator[Rule]:
    """Evaluation on images that are not padded to a square."""
    multiple, vit = config.model.detector.pad_multiple, config.model.vit
    coarsest = 2 * vit.patch
    yield (
        "model.detector.pad_multiple",
        multiple % coarsest == 0,
        f"be 0 or a multiple of {coarsest} (2 * config.model.vit.patch)",
    )
    yield (
        "model.detector.pad_multiple",
        not multiple or vit.relative_position != "shared" or not vit.global_blocks,
        "be 0 where config.model.vit.relative_position is 'shared', whose table for global blocks "
        "is that of the square map",
    )


def _training(config: ConfigDict) -> Iterator[Rule]:
    yield _profile(config)
    for name in ("no_decay", "frozen"):
        are_patterns = all(_is_pattern(pattern) for pattern in config.optim[name])
        yield f"optim.{name}", are_patterns, "be a tuple of regular expressions"
    yield (
        "few_shot.base_run",
        config.few_shot.base_run is None or config.init is None,
        "be none where config.init is given, since each gives all weights; leave one of them out",
    )
    yield (
        "init_from",
        config.init_from is None or (config.init is None and config.few_shot.base_run is None),
        "be none where config.init or config.few_shot.base_run is given, since each gives all "
        "weights; leave one of them out",
    )


def _profile(config: ConfigDict) -> Rule:
    rule = "be empty, or the first and the last step to record"
    return "profile_steps", len(config.profile_steps) in (0, 2), rule


def pretraining_rules(config: ConfigDict) -> Iterator[Rule]:
    """The rules of a pre-training's config, each of whose keys is as the schema has it."""
    model, crop_area = config.model, config.data.crop_area
    patch = model.vit.patch
    yield (
        "image_size",
        config.image_size % patch == 0,
        f"be a multiple of config.model.vit.patch={patch}",
    )
    patches = (config.image_size // patch) ** 2
    yield (
        "model.mask_ratio",
        1 <= int(patches * (1 - model.mask_ratio)) < patches,
        f"leave some of the {patches} patches seen and some masked",
    )
    yield _profile(config)
    yield "data.crop_area", crop_area[0] <= crop_area[1], "have the smaller share first"
    yield (
        "optim.warmup_epochs",
        config.optim.warmup_epochs < config.epochs,
        f"be below config.epochs={config.epochs:g}",
    )
    for part in ("vit", "decoder"):
        size = model[part]
        divides = f"divide config.model.{part}.width={size.width}"
        yield f"model.{part}.heads", size.width % size.heads == 0, divides
        yield f"model.{part}.width", size.width % 4 == 0, SINCOS


def _are_blocks(blocks: tuple[int, ...], depth: int) -> bool:
    return all(block < depth for block in blocks) and list(blocks) == sorted(set(blocks))


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
