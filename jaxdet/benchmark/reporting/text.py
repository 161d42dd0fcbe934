"""How the report names things: groups of runs, recipes, numbers, footnotes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jaxdet.benchmark.reference import Published, sources
from jaxdet.benchmark.reporting.charts import Series, decimal
from jaxdet.benchmark.reporting.groups import RunGroup, Section, Statistic
from jaxdet.benchmark.reporting.recipe import Deviation

INITIALISATION_NAMES = {
    "random": "Random",
    "supervised": "Supervised",
    "mocov3": "MoCo v3",
    "beit": "BEiT",
    "mae": "MAE",
}
KIND_NAMES = {"bbox": "box", "segm": "mask"}
KIND_PLURALS = {"bbox": "boxes", "segm": "masks"}
ERROR_NAMES = {
    "Cls": "Classification",
    "Loc": "Localisation",
    "Both": "Both of these",
    "Dupe": "Duplicate",
    "Bkg": "Background",
    "Miss": "Missed",
    "FalsePos": "All false positives",
    "FalseNeg": "All misses",
}
LOSS_NAMES = {
    "loss": "Loss",
    "loss_rpn_objectness": "RPN, objectness",
    "loss_rpn_box": "RPN, boxes",
    "loss_class": "Box head, classes",
    "loss_box": "Box head, boxes",
    "loss_mask": "Masks",
}
PYRAMID_NAMES = {
    "fpn": "FPN",
    "fpn_last": "FPN of the last map",
    "simple": "simple pyramid",
    "imted": "imTED",
    "single": "single scale",
}
SYSTEM_NAMES = {"benchmark": "The benchmark's paper"}
CERTAINTY_NAMES = {
    "verified": "read in the source",
    "derived": "follows from numbers read in the source",
    "memory": "recalled, not read again",
}
UNSURE = {"derived": "*", "memory": "?"}
"""Marks of published numbers that were not read in the source."""

DASH = "\u2013"
UNKNOWN = "unknown"


def initialisation_name(group: RunGroup) -> str:
    """With what tells it from its namesakes, if there is any."""
    name = initialisation_label(group.initialisation)
    return f"{name} ({group.distinction})" if group.distinction else name


def initialisation_label(initialisation: str) -> str:
    """Its name in the field, or as it is."""
    return INITIALISATION_NAMES.get(initialisation, initialisation)


def loss_label(name: str) -> str:
    """What a loss of metrics.jsonl is called."""
    return LOSS_NAMES.get(name, name.removeprefix("loss_").replace("_", " "))


def series_of(section: Section) -> list[Series]:
    """What charts call the section's groups: no more than tells them apart."""
    groups = section.groups
    names = [INITIALISATION_NAMES.get(each.initialisation, each.initialisation) for each in groups]
    epochs = ["as given" if each.epochs is None else f"{each.epochs:g} ep" for each in groups]
    models = [each.model for each in groups]
    for more in (models, epochs, [each.distinction for each in groups]):
        namesakes = [{more[i] for i, other in enumerate(names) if other == name} for name in names]
        names = [
            f"{name} {extra}" if len(extras) > 1 else name
            for name, extra, extras in zip(names, more, namesakes, strict=True)
        ]
    return [Series(each.letter, name) for each, name in zip(groups, names, strict=True)]


def recipe_title(section: Section) -> str:
    """Its recipe in a few words."""
    recipe = section.recipe
    if section.is_from_files:
        return f"Detections from files, {recipe['validation data']}"
    detector = "Mask R-CNN" if recipe["model.heads.mask"] else "Faster R-CNN"
    if recipe["model.heads.cascade_thresholds"]:
        detector = f"Cascade {detector}"
    pyramid = recipe["model.pyramid.kind"]
    parts = [
        f"{detector} with {PYRAMID_NAMES.get(pyramid, pyramid)}",
        str(recipe["validation data"]),
        f"{recipe['image_size']} pixels",
        f"batch {recipe['batch_size']}",
    ]
    if recipe["optim.train"] == "heads":
        parts.append("frozen ViT")
    if recipe["few_shot.novel"]:
        parts.append("few-shot")
    return ", ".join(parts)


def validation(section: Section) -> str:
    """How many images of how many categories validate, and whether they trained as well."""
    images, classes = section.recipe["validation images"], len(section.recipe["categories"])
    plural = "category" if classes == 1 else "categories"
    known = [run for run in section.runs if run.validated_on_training_images]
    number = "all" if len(known) == len(section.runs) else f"{len(known)} of {len(section.runs)}"
    warning = f"; the same images trained {number} runs, so that their AP is no accuracy"
    return f"{grouped(images)} images of {classes} {plural}{warning if known else ''}"


def value_text(value: Any) -> str:
    """A value of a config key, short."""
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and len(value) > 8:
        shown = ", ".join(value_text(each) for each in value[:4])
        return f"{shown} \u2026 ({len(value)} in all)"
    if isinstance(value, list):
        return ", ".join(value_text(each) for each in value) or "none"
    return json.dumps(value)


def deviations_rows(deviations: Sequence[Deviation]) -> list[tuple[str, str, str]]:
    """Key, value here and value there, as texts."""
    return [(key, value_text(here), value_text(there)) for key, here, there in deviations]


def deviations_text(deviations: Sequence[Deviation], theirs: str) -> str:
    """Deviations in one line."""
    return "; ".join(
        f"{key} {here} ({theirs} {there})" for key, here, there in deviations_rows(deviations)
    )


def points(number: Statistic | None) -> str:
    """A share as points, with the standard deviation where there is one."""
    if number is None:
        return DASH
    text = decimal(100 * number.mean)
    if number.deviation is None:
        return text
    return f"{text}\u2009±\u2009{decimal(100 * number.deviation)}"


def grouped(number: float) -> str:
    """A whole number, its thousands apart."""
    return f"{number:,.0f}".replace(",", "\u202f")


def significant(number: float | None) -> str:
    """Three digits or more: 853, 13.4, 0.143."""
    if number is None:
        return DASH
    return grouped(number) if abs(number) >= 100 else f"{number:#.3g}"


def published_value(published: Published | None, kind: str) -> tuple[float | None, str | None]:
    """The published number, in points, and how sure it is."""
    if published is None:
        return None, None
    if kind == "bbox":
        return published.box_ap, published.box_certainty
    return published.mask_ap, published.mask_certainty


def source_note(group: RunGroup) -> str:
    """Where a published number is from, how sure it is and how comparable; no source's address."""
    published = group.published
    variant = "" if published.variant == "default" else f", {published.variant}"
    system = SYSTEM_NAMES.get(published.system, published.system)
    sentences = [
        f"{system}, {published.detector}, {published.backbone}{variant}; "
        f"{published.where} ({_certainties(published)})"
    ]
    if published.epochs is None:
        sentences.append(
            "This is the best of several lengths of fine-tuning, and which one is not published"
        )
    if group.epochs is None:
        sentences.append("Our weights were evaluated as they were given, not trained in this run")
    if group.deviations:
        theirs = deviations_text(group.deviations, "published:")
        sentences.append(f"The run's recipe deviates from the published one: {theirs}")
    return ". ".join(sentences) + "."


def _certainties(published: Published) -> str:
    certainties = {
        KIND_NAMES[kind]: CERTAINTY_NAMES[certainty]
        for kind in KIND_NAMES
        if (certainty := published_value(published, kind)[1]) is not None
    }
    if len(certainties) == 2 and len(set(certainties.values())) == 1:
        return f"both {certainties['box']}"
    return ", ".join(f"{name} AP {how}" for name, how in certainties.items())


def source_link(published: Published) -> tuple[str, str]:
    """Title and address of a published number's source."""
    source = sources()[published.source]
    return source.title, source.address
