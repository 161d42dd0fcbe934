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

COCO_VAL, LVIS_VAL = "COCO val2017", "LVIS v1 val"
"""What results are measured on."""

LEAST_TRAIN_IMAGES = {
    COCO_VAL: (117_000, "COCO train2017"),
    LVIS_VAL: (99_000, "LVIS v1 train"),
}
"""By what is validated on, a little less than the images with objects of the training set."""

_RECIPES = {
    ("fpn", "batch"): ("benchmark", "shared"),
    ("single", "batch"): ("benchmark", "shared"),
    **{
        (kind, "layer"): ("ViTDet", "decomposed")
        for kind in ("simple", "single", "fpn", "fpn_last")
    },
}
"""System and relative position by the kind of pyramid and the norm of the heads."""

_SCALES = {
    "benchmark": {"fpn": None, "single": "single scale"},
    "ViTDet": {
        "simple": None,
        "single": "no pyramid",
        "fpn": "FPN of four stages",
        "fpn_last": "FPN of the last map",
    },
}
"""What a system's variants are called by the kind of pyramid, None for its own."""

_ABLATION = "no relative position, "
"""What ViTDet's variants of Tables 1, 2 and 8 begin with."""

_ABLATION_RECIPE = ("mae", 100)
"""Their initialisation and epochs: the row of the simple pyramid with four global blocks is that of
Table 4."""


@dataclass(frozen=True)
class Published:
    """One published result; None where the source, as read, does not say.

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
        data: what it was measured on.
        rare_mask_ap: LVIS's APr of masks, as sure as `mask_ap`.
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
    data: str = COCO_VAL
    rare_mask_ap: float | None = None


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
    initialisation: str | None,
    epochs: float | None,
    *,
    detector: str = "Mask R-CNN",
    variant: str = "default",
    data: str = COCO_VAL,
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
        and result.data == data
    }
    return candidates.get(epochs, candidates.get(None))


def of_encoder(name: str, data: str = COCO_VAL) -> tuple[Published, ...]:
    """What the Perception Encoder's authors found of an encoder under ViTDet's recipe.

    Args:
        name: of an initialisation, with the encoder's in it: "dinov2_vitl", "pe-spatial-g".
        data: COCO_VAL or LVIS_VAL.
    """
    results = [each for each in published() if (each.system, each.data) == ("PE", data)]
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
    if recipe is None:
        return None
    variant = _variant(config, *recipe)
    if config.image_size == 1280 and (*recipe, variant) == ("ViTDet", "decomposed", "default"):
        return _system_level(config, backbone)
    if config.image_size != 1024 or not variant:
        return None
    if recipe[0] == "ViTDet" and variant.startswith(_ABLATION):
        is_theirs = (config.initialisation, config.epochs) == _ABLATION_RECIPE
        return find(recipe[0], backbone, None, None, variant=variant) if is_theirs else None
    detector = "Cascade Mask R-CNN" if config.model.heads.cascade_thresholds else "Mask R-CNN"
    detected = {"detector": detector, "variant": variant}
    given = recipe[0], backbone, config.initialisation, config.epochs
    if config.data.metric == "coco":
        return find(*given, **detected)
    # The paper has not all of LVIS's models: its released ones answer for the others.
    released = {**detected, "variant": "released model"} if variant == "default" else detected
    return find(*given, **detected, data=LVIS_VAL) or find(*given, **released, data=LVIS_VAL)


def _system_level(config: ConfigDict, backbone: str) -> Published | None:
    """What ViTDet compares with other systems: cascades from MAE at 1280 pixels with soft-NMS. Of
    their training no more is published."""
    detector = config.model.detector
    is_cascade = bool(config.model.heads.cascade_thresholds)
    if not is_cascade or config.initialisation != "mae" or detector.nms == "hard":
        return None
    return find(
        "ViTDet",
        backbone,
        None,
        None,
        detector="Cascade Mask R-CNN",
        variant=f"1280 pixels, soft-NMS{', multi-scale test' * bool(detector.tta_sizes)}",
        data=COCO_VAL if config.data.metric == "coco" else LVIS_VAL,
    )


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


def _variant(config: ConfigDict, system: str, relative_position: str) -> str | None:
    """What differs from the system's recipe, "default" if nothing; None if other things do than
    published variants differ in."""
    vit, pyramid = config.model.vit, config.model.pyramid
    if pyramid.kind != "simple" and pyramid.norm != config.model.heads.norm:
        return None
    start = {
        "absolute_position": "pretrained",
        "relative_start": "zero",
        **POSITION.get(config.initialisation, {}),
    }
    if vit.relative_position == "none":
        del start["relative_start"]
    if any(vit[key] != value for key, value in start.items()):
        return None
    position = {relative_position: None, "none": "no relative position"}.get(
        vit.relative_position, "other"
    )
    differences = [position, _propagation(config), _SCALES[system][pyramid.kind]]
    differences = [difference for difference in differences if difference]
    return None if "other" in differences else ", ".join(differences) or "default"


def _propagation(config: ConfigDict) -> str | None:
    """How windows learn of each other, None for the four global blocks of the recipes."""
    vit = config.model.vit
    depth, ends = vit.depth, quarter_ends(vit.depth)
    found = tuple(map(tuple, (vit.global_blocks, vit.conv_blocks, vit.shifted_blocks)))
    return {
        (ends, (), ()): None,
        ((), (), ()): "windowed only",
        ((), ends, ()): f"{vit.conv_kind} convolution",
        ((), (), tuple(range(1, depth, 2))): "shifted windows",
        (tuple(range(4)), (), ()): "first 4 global",
        (tuple(range(depth - 4, depth)), (), ()): "last 4 global",
        ((ends[1], ends[3]), (), ()): "2 global",
        (tuple(range(depth)), (), ()): "all global",
    }.get(found, "other")
