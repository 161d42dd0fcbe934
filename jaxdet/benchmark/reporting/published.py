"""The published result that a run is compared with, and in what else than that the run differs."""

from __future__ import annotations

import json

from ml_collections import ConfigDict

from jaxdet.benchmark.reference import (
    COCO_VAL,
    LEAST_TRAIN_IMAGES,
    Published,
    of_encoder,
    published_for,
    sources,
)
from jaxdet.benchmark.reporting.recipe import (
    GLOBAL_BLOCKS,
    OUT_INDICES,
    Deviation,
    Recipe,
    config_recipe,
    deviations,
    validation_set,
)
from jaxdet.benchmark.reporting.run import Run
from jaxdet.config.imted import imted
from jaxdet.config.lvis import make_lvis
from jaxdet.config.mask_rcnn import benchmark, make_cascade, vitdet

VARIANT_KEYS = (
    GLOBAL_BLOCKS,
    OUT_INDICES,
    "model.vit.relative_position",
    "model.vit.conv_blocks",
    "model.vit.conv_kind",
    "model.vit.shifted_blocks",
    "model.pyramid.kind",
    "model.pyramid.norm",
    "model.detector.strides",
)
"""What published variants of a recipe differ in."""


def comparison(run: Run) -> tuple[Published | None, str | None]:
    """The published result of a run's model, or why there is none."""
    if run.detections_file is not None:
        return None, "Detections from a file; what made them is not known"
    validated_on = validation_set(run)
    if validated_on not in LEAST_TRAIN_IMAGES or run.config["data"]["name"] != "coco":
        return None, f"Validated on {validated_on}; published numbers are of {COCO_VAL}"
    if run.config["few_shot"]["novel"]:
        return None, "Few-shot detection; the published numbers are of all classes"
    if run.config["early_stop"]:
        return None, "It ended when it no longer gained; published numbers are of a fixed length"
    published = published_for(ConfigDict(run.config))
    if published is None:
        why = "Nothing published is known of this model, initialisation and length"
        return None, f"{why}{_of_another_recipe(run.config['initialisation'], validated_on)}"
    return published, None


def _of_another_recipe(initialisation: str, data: str) -> str:
    """What is known of an encoder elsewhere, as a part of a sentence; empty where nothing is."""
    numbers = [
        f"{each.backbone} {each.box_ap:g} box and {each.mask_ap:g} mask AP ({each.epochs:g} epochs)"
        for each in of_encoder(initialisation, data)
    ]
    if not numbers:
        return ""
    source = sources()["pe"].address
    return (
        f"; with ViTDet's Mask R-CNN, another recipe, the Perception Encoder's authors ({source}, "
        f"Table 14) have {', '.join(numbers)}"
    )


def published_deviations(run: Run, published: Published) -> tuple[Deviation, ...]:
    """In what a run's recipe is not the published one; what a variant is about is left out."""
    recipe = config_recipe(run.config)
    expected = _published_recipe(published, run.config["data"]["name"])
    found = [each for each in deviations(recipe, expected) if each.key not in VARIANT_KEYS]
    least, whole = LEAST_TRAIN_IMAGES[published.data]
    if run.train_images is not None and run.train_images < least:
        found.append(Deviation("training images", run.train_images, f"all of {whole}"))
    return tuple(found)


def _published_recipe(published: Published, data: str) -> Recipe:
    tuned = {"lr": 1.0, "weight_decay": 0.0, "drop_path": 0.0, "epochs": 1.0}
    size = published.backbone.removeprefix("ViT-").lower()
    if published.system == "ViTDet":
        config = vitdet(size, "mae", **tuned, layer_decay=0.5)
        if published.data != COCO_VAL:
            make_lvis(config)
    elif published.system == "imTED":
        config = imted(size, drop_path=0.0, masks=published.detector == "Mask R-CNN")
    else:
        config = benchmark(size, "mae", **tuned)
    if published.detector == "Cascade Mask R-CNN":
        make_cascade(config)
    config.data.name = data
    return config_recipe(json.loads(config.to_json()))
