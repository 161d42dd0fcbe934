"""How the report says things: names of configurations and recipes, numbers, footnotes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from jaxdet.benchmark.reference import Published, sources
from jaxdet.benchmark.reporting.charts import Series, decimal
from jaxdet.benchmark.reporting.groups import Configuration, Statistic, Table
from jaxdet.benchmark.reporting.recipes import DETECTIONS, Difference, Words

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
PYRAMID_NAMES = {
    "fpn": "FPN",
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


def initialisation_name(configuration: Configuration) -> str:
    """With what tells it from its like, if there is any."""
    name = configuration.initialisation
    name = INITIALISATION_NAMES.get(name, name)
    return f"{name} ({configuration.distinction})" if configuration.distinction else name


def series_of(table: Table) -> list[Series]:
    """What charts call the table's configurations: no more than tells them apart."""
    names = {
        each.key: INITIALISATION_NAMES.get(each.initialisation, each.initialisation)
        for each in table.configurations
    }
    epochs = {
        each.key: "as given" if each.epochs is None else f"{each.epochs:g} ep"
        for each in table.configurations
    }
    models = {each.key: each.model for each in table.configurations}
    distinctions = {each.key: each.distinction for each in table.configurations}
    for more in (models, epochs, distinctions):
        alike = {key: [k for k in names if names[k] == name] for key, name in names.items()}
        names = {
            key: f"{names[key]} {more[key]}" if len({more[k] for k in keys}) > 1 else names[key]
            for key, keys in alike.items()
        }
    return [Series(key, name) for key, name in names.items()]


def recipe_title(recipe: Words) -> str:
    """A recipe in a few words."""
    if recipe[DETECTIONS] == "from a file":
        return f"Detections from files, {recipe['validation data']}"
    detector = "Mask R-CNN" if recipe["model.heads.mask"] else "Faster R-CNN"
    pyramid = recipe["model.pyramid.kind"]
    parts = [
        f"{detector} with {PYRAMID_NAMES.get(pyramid, pyramid)}",
        str(recipe["validation data"]),
        f"{recipe['image_size']} pixels",
        f"batch {recipe['batch_size']}",
    ]
    if recipe["few_shot.novel"]:
        parts.append("few-shot")
    return ", ".join(parts)


def validation(recipe: Words) -> str:
    """How many images a table's runs were validated on, and of how many categories."""
    images, classes = recipe["validation images"], len(recipe["categories"])
    count = "an untold number of" if images is None else f"{images:,}".replace(",", "\u202f")
    plural = "category" if classes == 1 else "categories"
    return f"{count} images of {classes} {plural}"


def value_text(value: Any) -> str:
    """A value of a config word, short."""
    if value is None:
        return "not told"
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


def difference_text(differences: Sequence[Difference], theirs: str) -> str:
    """Differences in one line."""
    return "; ".join(
        f"{word} {value_text(here)} ({theirs} {value_text(there)})"
        for word, here, there in differences
    )


def points(number: Statistic | None) -> str:
    """A share as points, with the standard deviation where there is one."""
    if number is None:
        return DASH
    text = decimal(100 * number.mean)
    if number.deviation is None:
        return text
    return f"{text}\u2009±\u2009{decimal(100 * number.deviation)}"


def significant(number: float | None) -> str:
    """Three digits or more: 853, 13.4, 0.143."""
    if number is None:
        return DASH
    if abs(number) >= 100:
        return f"{number:,.0f}".replace(",", "\u202f")
    return f"{number:#.3g}"


def published_value(published: Published | None, kind: str) -> tuple[float | None, str | None]:
    """The published number, in points, and how sure it is."""
    if published is None:
        return None, None
    if kind == "bbox":
        return published.box_ap, published.box_certainty
    return published.mask_ap, published.mask_certainty


def source_note(configuration: Configuration) -> str:
    """Where a published number is from, how sure it is and how comparable; no source's address."""
    published = configuration.published
    sure = {
        kind: CERTAINTY_NAMES[certainty]
        for kind in ("bbox", "segm")
        if (certainty := published_value(published, kind)[1]) is not None
    }
    told_sure = ", ".join(f"{KIND_NAMES[kind]} AP {how}" for kind, how in sure.items())
    if len(sure) == 2 and len(set(sure.values())) == 1:
        told_sure = f"both {sure['bbox']}"
    variant = "" if published.variant == "default" else f", {published.variant}"
    system = SYSTEM_NAMES.get(published.system, published.system)
    told = [
        f"{system}, {published.detector}, {published.backbone}{variant}; "
        f"{published.where} ({told_sure})"
    ]
    if published.epochs is None:
        told.append(
            "This is the best of several lengths of fine-tuning, and which one is not published"
        )
    if configuration.epochs is None:
        told.append("Our weights were evaluated as they were given, not trained in this run")
    if configuration.departures:
        told.append(
            "The run's recipe is not quite the published one: "
            + difference_text(configuration.departures, "published:")
        )
    return ". ".join(told) + "."


def source_link(published: Published) -> tuple[str, str]:
    """Title and address of a published number's source."""
    source = sources()[published.source]
    return source.title, source.address
