"""Published results to compare with: box and mask AP, each with its source and how sure it is.

`reference.json` lists them. "verified": read in the source; "derived": follows by arithmetic from
verified numbers; "memory": recalled, not read again, so not to be relied on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ml_collections import ConfigDict

from jaxdet.config.imted import DECODERS, PARTS
from jaxdet.config.mask_rcnn import POSITION, quarter_ends, size_of

CERTAINTIES = ("verified", "derived", "memory")

LEAST_COCO_TRAIN_IMAGES = 117_000
"""COCO train2017 has a few more images with objects than this."""

_RECIPES = {
    ("fpn", "batch"): ("benchmark", "shared"),
    ("single", "batch"): ("benchmark", "shared"),
    ("simple", "layer"): ("ViTDet", "decomposed"),
}
"""System and relative position by the kind of pyramid and the norm of the heads."""


@dataclass(frozen=True)
class Published:
    """One published result on COCO val2017; None where the source, as read, does not say.

    Attributes:
        system: the work it belongs to: "benchmark" (arXiv 2111.11429), "MIMDet" (its reproduction),
            "ViTDet", "imTED", "Detectron2" or "PE" (encoders compared by the Perception Encoder's).
        detector: "Mask R-CNN", "Cascade Mask R-CNN" or "Faster R-CNN".
        backbone: such as "ViT-B".
        initialisation: one of `jaxdet.config.INITIALISATIONS`, "supervised-21k" (ImageNet-21k), or
            an encoder's name.
        epochs: of fine-tuning.
        variant: "default", or what differs from the system's recipe.
        box_ap, mask_ap: in points (0..100).
        box_certainty, mask_certainty: one of CERTAINTIES, None without a number.
        source: a key of `sources`, and where in it.
    """

    system: str
    detector: str | None
    backbone: str
    initialisation: str | None
    epochs: float | None
    variant: str
    box_ap: float | None
    box_certainty: str | None
    mask_ap: float | None
    mask_certainty: str | None
    source: str
    where: str


@dataclass(frozen=True)
class Source:
    """What to cite."""

    title: str
    address: str


@cache
def published() -> tuple[Published, ...]:
    """All published results."""
    return tuple(Published(**result) for result in _file()["results"])


@cache
def sources() -> dict[str, Source]:
    """What the results' `source` stands for."""
    return {key: Source(**source) for key, source in _file()["sources"].items()}


def _file() -> dict:
    return json.loads((files("jaxdet.benchmark") / "reference.json").read_text(encoding="utf-8"))


def find(
    system: str,
    backbone: str,
    initialisation: str,
    epochs: float,
    *,
    detector: str = "Mask R-CNN",
    variant: str = "default",
) -> Published | None:
    """The published result of a system after so many epochs of fine-tuning.

    Where only the best of several lengths is published, and not which, that result (`epochs` None)
    answers for any length. None where nothing is published.
    """
    candidates = {
        result.epochs: result
        for result in published()
        if (result.system, result.backbone, result.initialisation, result.detector, result.variant)
        == (system, backbone, initialisation, detector, variant)
    }
    return candidates.get(epochs, candidates.get(None))


def of_encoder(name: str) -> tuple[Published, ...]:
    """What the Perception Encoder's authors found of an encoder under ViTDet's recipe.

    Args:
        name: of an initialisation, with the encoder's in it: "dinov2_vitl", "pe-spatial-g".
    """
    results = [result for result in published() if result.system == "PE"]
    named = [result for result in results if _letters(result.initialisation) in _letters(name)]
    longest = max((len(result.initialisation) for result in named), default=0)
    return tuple(result for result in named if len(result.initialisation) == longest)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def published_for(config: ConfigDict) -> Published | None:
    """The published result a config sets out to reproduce, as `find` finds it.

    The data's format, the image size, the initialisation, the epochs and the structure of the
    backbone and its pyramid decide, for imTED also that of its box head; whether the data are COCO
    and the rest of the recipe is the published one does not. None where the published works have no
    such model, and for few-shot detection.
    """
    size = size_of(config.model.vit)
    if size is None or config.data.name != "coco" or config.few_shot.novel:
        return None
    backbone = f"ViT-{size.upper()}"
    if _is_imted(config, size):
        detector = "Mask R-CNN" if config.model.heads.mask else "Faster R-CNN"
        return find("imTED", backbone, config.initialisation, config.epochs, detector=detector)
    recipe = _RECIPES.get((config.model.pyramid.kind, config.model.heads.norm))
    variant = _variant(config, recipe[1]) if recipe else None
    if config.image_size != 1024 or not variant:
        return None
    return find(recipe[0], backbone, config.initialisation, config.epochs, variant=variant)


def _is_imted(config: ConfigDict, size: str) -> bool:
    """Whether the structure is that of the complete imTED, all of its parts pre-trained."""
    vit, decoder = config.model.vit, config.model.decoder
    modulated = {"norm": "none", **PARTS["modulated"]}
    return (
        config.image_size == 1344
        and config.model.pyramid.kind == "imted"
        and all(config.model.heads[key] == value for key, value in modulated.items())
        and size in DECODERS
        and all(decoder[key] == value for key, value in DECODERS[size].items())
        and decoder.start == vit.absolute_position == "pretrained"
        and vit.relative_position == "none"
        and len(vit.global_blocks) == vit.depth
        and sorted(vit.out_indices) == sorted({11, vit.depth - 1})
    )


def _variant(config: ConfigDict, relative_position: str) -> str | None:
    """What differs from the system's recipe in at most one way; None if more or other things do."""
    vit = config.model.vit
    start = {
        "absolute_position": "pretrained",
        "relative_start": "zero",
        **POSITION.get(config.initialisation, {}),
    }
    if vit.relative_position == "none":
        del start["relative_start"]
    if any(vit[key] != value for key, value in start.items()):
        return None
    blocks = tuple(vit.global_blocks)
    attention = {quarter_ends(vit.depth): None, (): "windowed only"}.get(blocks, "other")
    if len(blocks) == vit.depth:
        attention = "all global"
    position = {relative_position: None, "none": "no relative position"}.get(
        vit.relative_position, "other"
    )
    scales = "single scale" if config.model.pyramid.kind == "single" else None
    differences = [variant for variant in (attention, position, scales) if variant]
    if len(differences) > 1 or "other" in differences:
        return None
    return differences[0] if differences else "default"
