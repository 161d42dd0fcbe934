"""Which runs are comparable: those of one recipe and of data that look the same.

Data are compared by the number of images, the categories, the names of the annotation files that
the config gives, and their digests where they are known; not by the images themselves.

A recipe is the config without what an initialisation brings along, what the protocol tunes for each
and what a result does not depend on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any, NamedTuple

from jaxdet.benchmark.reference import COCO_VAL, LVIS_VAL
from jaxdet.benchmark.reporting.recipe_keys import FlatConfig, recipe_part
from jaxdet.benchmark.reporting.run import Run
from jaxdet.config.imted import VOC
from jaxdet.config.lvis import LVIS_CLASSES
from jaxdet.config.mask_rcnn import quarter_ends

Recipe = FlatConfig
"""Keys of the config, and what is known of the data and the detections."""

LAYER_DECAY = "layer-wise learning rate decay"
DETECTIONS, FROM_FILE, BY_DETECTOR = "detections", "from a file", "by this detector"
GLOBAL_BLOCKS, OUT_INDICES = "model.vit.global_blocks", "model.vit.out_indices"

DIGESTS = {
    "SHA-256 of the training annotations": "train_annotations_sha256",
    "SHA-256 of the validation annotations": "val_annotations_sha256",
}
"""What they are called in a recipe, and in a `Run`."""

COCO_VAL_IMAGES, LVIS_VAL_IMAGES = 5000, 19_809


class Deviation(NamedTuple):
    """A key in which two recipes differ: its value here, and in what is compared with."""

    key: str
    value: Any
    reference: Any


def recipe_of(run: Run) -> Recipe:
    """What runs that are comparable agree in. Of a file of detections only the data are known."""
    if run.detections_file is not None:
        return {**_data(run), DETECTIONS: FROM_FILE}
    return {**config_recipe(run.config), **_data(run), DETECTIONS: BY_DETECTOR}


def config_recipe(config: dict[str, Any]) -> Recipe:
    """The part of a recipe that follows from a plain config."""
    vit = config["model"]["vit"]
    recipe = recipe_part(config)
    for key, blocks in ((GLOBAL_BLOCKS, vit["global_blocks"]), (OUT_INDICES, vit["out_indices"])):
        recipe[key] = _blocks(blocks, vit["depth"], config["model"]["pyramid"]["kind"])
    recipe[LAYER_DECAY] = "tuned" if config["optim"]["layer_decay"] != 1 else "none"
    return recipe


def _blocks(blocks: Sequence[int], depth: int, pyramid: str) -> str | list[int]:
    """Positions of blocks in terms that are the same for models of any depth."""
    names = {
        (): "none",
        (depth - 1,): "the last",
        quarter_ends(depth): "the last of each quarter",
    }
    if len(blocks) == depth:
        names[tuple(range(len(blocks)))] = "all"
    if pyramid == "imted":  # the published configs of ViT-L name block 11 too
        names[tuple(sorted({11, depth - 1}))] = "the last"
    return names.get(tuple(blocks), list(blocks))


def _data(run: Run) -> Recipe:
    data = run.evaluated_on
    known = {
        "validation data": validation_set(run),
        "validation images": run.val_images,
        "categories": run.categories,
        "training images": run.train_images,
    }
    if data["name"] == "shapes":
        known["validation image size"] = data["shapes"]["image_size"]
    if data["metric"] != "coco":
        known["metric"] = data["metric"].upper()
    if data["augmentation"] == "multiscale":
        known["validation sizes"] = [max(data["short_sides"]), data["long_side"]]
    for name, field in DIGESTS.items():
        if getattr(run, field) is not None:
            known[name] = getattr(run, field)[:12]
    return known | _annotation_files(run)


def without_common_digests(runs: Sequence[Run]) -> list[Run]:
    """The runs without the digests of annotations that tell none of them from another.

    Older results have no digests; only where those of two runs differ is it told from others too.
    """
    unlike: dict[str, list[Run]] = {}
    bare = [replace(run, **dict.fromkeys(DIGESTS.values())) for run in runs]
    keys = [canonical(_data(run)) for run in bare]
    for key, run in zip(keys, runs, strict=True):
        unlike.setdefault(key, []).append(run)
    differing = {
        key: [
            field
            for field in DIGESTS.values()
            if len({getattr(run, field) for run in alike} - {None}) > 1
        ]
        for key, alike in unlike.items()
    }
    return [
        replace(without, **{field: getattr(run, field) for field in differing[key]})
        for key, run, without in zip(keys, runs, bare, strict=True)
    ]


def _annotation_files(run: Run) -> Recipe:
    """Names of the annotation files given; COCO's own are what a folder alone stands for."""
    given = {"validation annotations": ("val", run.evaluated_on)}
    if run.detections_file is None:
        given["training annotations"] = ("train", run.config["data"])
    names = {}
    for key, (split, data) in given.items():
        path = data[f"{split}_annotations"]
        if data["name"] == "coco" and path is not None:
            name = PurePath(str(path)).name
            if name != f"instances_{split}2017.json":
                names[key] = name
    return names


def validation_set(run: Run) -> str:
    """What the validation data are, as far as the result shows."""
    if run.evaluated_on["name"] != "coco":
        return run.evaluated_on["name"]
    if run.evaluated_on["metric"] == "lvis" and len(run.categories) == LVIS_CLASSES:
        return LVIS_VAL if run.val_images == LVIS_VAL_IMAGES else "images of LVIS's categories"
    if len(run.categories) != 80 or not set(VOC) <= set(run.categories):
        return "own set in COCO's format"
    return COCO_VAL if run.val_images == COCO_VAL_IMAGES else "images of COCO's categories"


def deviations(recipe: Recipe, reference: Recipe) -> tuple[Deviation, ...]:
    """In what a recipe is not another, as far as both are known."""
    known = recipe.keys() & reference.keys()
    if recipe.get(DETECTIONS) == reference.get(DETECTIONS):
        known = recipe.keys() | reference.keys()
    return tuple(
        Deviation(key, recipe.get(key), reference.get(key))
        for key in sorted(known)
        if recipe.get(key) != reference.get(key)
    )


def canonical(values: FlatConfig) -> str:
    """Equal for equal values: whether a number is written whole does not count."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if is_whole else value

    return json.dumps({key: plain(value) for key, value in values.items()}, sort_keys=True)
