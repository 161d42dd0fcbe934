"""Which runs may stand in one table: those of one recipe, validated on the same data.

A recipe is the config without what an initialisation brings along, what the protocol tunes for each
and what a result does not depend on. Runs of one table that differ in the seed alone are one
configuration.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from ml_collections import ConfigDict

from jaxdet.benchmark.reference import Published, published_for
from jaxdet.benchmark.runs import Run
from jaxdet.config import INITIALISATIONS, VIT_SIZES, benchmark, quarter_ends, vitdet
from jaxdet.data.fewshot import VOC
from jaxdet.train import NEUTRAL_WORDS

Words = dict[str, Any]
Difference = tuple[str, Any, Any]
"""A word, its value here, and its value in what is compared with."""

SIZE_WORDS = tuple(
    f"model.{part}.{word}" for part in ("vit", "decoder") for word in ("width", "depth", "heads")
)
INITIALISATION_WORDS = (
    "initialisation",
    "model.detector.pixel_mean",
    "model.detector.pixel_std",
    "model.vit.qkv_bias",
    "model.vit.layer_scale",
    "model.vit.activation",
    "model.vit.pre_norm",
    "model.vit.absolute_position",
    "model.vit.relative_start",
    "model.vit.pretrain_grid",
    "model.decoder.pretrain_grid",
    "model.decoder.start",
)
TUNED_WORDS = ("optim.lr", "optim.weight_decay", "model.vit.drop_path", "optim.layer_decay")
COLUMN_WORDS = ("epochs", "seed")
RESULT_NEUTRAL = (
    *(word.removeprefix("config.") for word in NEUTRAL_WORDS),
    "eval_every",
    "checkpoint_every",
    "eval_workers",
)
"""Words a result does not depend on, or that only say where files lie."""

LAYER_DECAY = "layer-wise learning rate decay"
DETECTIONS = "detections"
GLOBAL_BLOCKS, TAPS = "model.vit.global_blocks", "model.vit.taps"

COCO, COCO_VAL = "COCO", "COCO val2017"
COCO_VAL_IMAGES = 5000
COCO_TRAIN_IMAGES = 117_000
"""COCO train2017 has a few more images with objects than this."""

VARIANT_WORDS = (
    GLOBAL_BLOCKS,
    TAPS,
    "model.vit.relative_position",
    "model.pyramid.kind",
    "model.detector.strides",
    "training images",
)
"""What published variants of a recipe differ in; and what is looked at by itself."""


@dataclass(frozen=True)
class Statistic:
    """The mean over seeds; the standard deviation (of a sample) where there are several."""

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed alone.

    Attributes:
        key: "A", "B" ... by which charts and tables refer to it.
        distinction: what tells it from others in its table with the same initialisation, model and
            epochs; mostly empty.
        published: the number to compare with, or None and `unpublished` says why.
        departures: in what else than a published variant its recipe is not the published one.
    """

    key: str
    runs: tuple[Run, ...]
    distinction: str
    published: Published | None
    unpublished: str | None
    departures: tuple[Difference, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def initialisation(self) -> str:
        return initialisation_of(self.first)

    @property
    def model(self) -> str:
        return model_of(self.first)

    @property
    def epochs(self) -> float | None:
        return None if self.first.epochs is None else self.first.config["epochs"]

    def coco(self, kind: str, name: str = "AP") -> Statistic | None:
        """One of COCO's numbers for boxes or masks over the runs."""
        return statistic(run.scores[kind].coco.get(name) for run in self.runs if kind in run.scores)

    def tide(self, kind: str, error: str) -> Statistic | None:
        """What an error type costs, over the runs."""
        scores = [run.scores[kind] for run in self.runs if kind in run.scores]
        return statistic(s.tide[error] for s in scores if s.tide is not None)

    def category(self, kind: str, name: str) -> Statistic | None:
        """The AP of a category over the runs."""
        return statistic(
            run.scores[kind].per_category.get(name) for run in self.runs if kind in run.scores
        )

    def few_shot(self, name: str) -> Statistic | None:
        return statistic(run.few_shot.get(name) for run in self.runs)


@dataclass(frozen=True)
class Table:
    """Configurations of one recipe, and in what it differs from the report's first."""

    number: int
    recipe: Words
    differences: tuple[Difference, ...]
    configurations: tuple[Configuration, ...]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """IoU types that any of the runs was scored in."""
        runs = [run for each in self.configurations for run in each.runs]
        return tuple(kind for kind in ("bbox", "segm") if any(kind in r.scores for r in runs))

    @property
    def categories(self) -> list[str]:
        return list(self.configurations[0].first.scores["bbox"].per_category)

    @property
    def data_folders(self) -> list[str]:
        """Names of the folders validated on, where that is more than one."""
        runs = [run for each in self.configurations for run in each.runs]
        roots = {str(run.evaluated_on["root"]) for run in runs}
        return sorted({PurePath(root).name for root in roots}) if len(roots) > 1 else []


def statistic(values: Iterable[float | None]) -> Statistic | None:
    """Over the values there are; None where there are none."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Statistic(statistics.fmean(values), deviation, len(values))


def tables(runs: Sequence[Run]) -> list[Table]:
    """Puts runs into tables by recipe, in the order of the first run of each."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_canonical(recipe(run)), []).append(run)
    made, first, keys = [], recipe(runs[0]), _keys()
    for number, group in enumerate(groups.values(), 1):
        words = recipe(group[0])
        configurations = _configurations(group, keys)
        made.append(Table(number, words, differences(words, first), configurations))
    return made


def recipe(run: Run) -> Words:
    """The words by which runs are comparable, dotted; beside the config's, what is known of the
    data. Of a file of detections no more is known.
    """
    if run.detections_file is not None:
        return {**_data(run), DETECTIONS: "from a file"}
    return {**config_recipe(run.config), **_data(run), DETECTIONS: "by this detector"}


def config_recipe(config: dict[str, Any]) -> Words:
    """The part of `recipe` that follows from a plain config."""
    words = flat(config)
    left_out = [
        *SIZE_WORDS,
        *INITIALISATION_WORDS,
        *TUNED_WORDS,
        *COLUMN_WORDS,
        *RESULT_NEUTRAL,
        "data.shapes.val_images",
    ]
    if config["batch_statistics"] == "batch":
        left_out.append("accumulate")
    if config["data"]["name"] != "shapes":
        left_out.append("data.shapes")
    kept = {word: value for word, value in words.items() if not _is_under(word, left_out)}
    depth = config["model"]["vit"]["depth"]
    for word in (GLOBAL_BLOCKS, TAPS):
        kept[word] = _blocks(words[word], depth, config["model"]["pyramid"]["kind"])
    kept[LAYER_DECAY] = "tuned" if words["optim.layer_decay"] != 1 else "none"
    return kept


def _blocks(blocks: Sequence[int], depth: int, pyramid: str) -> str | list[int]:
    """Positions of blocks, said so that they are the same for models of any depth."""
    names = {
        (): "none",
        (depth - 1,): "the last",
        quarter_ends(depth): "the last of each quarter",
        tuple(range(depth)): "all",
    }
    if pyramid == "imted":  # the published configs of ViT-L name block 11 too
        names[tuple(sorted({11, depth - 1}))] = "the last"
    return names.get(tuple(blocks), list(blocks))


def _data(run: Run) -> Words:
    data = run.evaluated_on
    words = {
        "validation data": _validation_set(run),
        "validation images": run.val_images,
        "categories": list(run.scores["bbox"].per_category),
        "training images": run.train_images,
    }
    if data["name"] == "shapes":
        words["validation images"] = run.val_images or data["shapes"]["val_images"]
        words["validation image size"] = data["shapes"]["image_size"]
    elif run.val_images is None:
        # An older result, which does not say more of what it was evaluated on.
        words["validation folder"] = _told_apart(str(data["val_annotations"] or data["root"]))
    if data["augmentation"] == "multiscale":
        words["validation sizes"] = [max(data["short_sides"]), data["long_side"]]
    return words


def _validation_set(run: Run) -> str:
    """What the validation data are, as far as the result tells."""
    if run.evaluated_on["name"] != "coco":
        return run.evaluated_on["name"]
    names = run.scores["bbox"].per_category
    if len(names) != 80 or not set(VOC) <= set(names):
        return "own set in COCO's format"
    return {COCO_VAL_IMAGES: COCO_VAL, None: COCO}.get(run.val_images, "part of COCO")


def differences(words: Words, others: Words) -> tuple[Difference, ...]:
    """In what the words of one recipe are not those of another, as far as both are known."""
    known = words.keys() & others.keys()
    if words.get(DETECTIONS) == others.get(DETECTIONS):
        known = words.keys() | others.keys()
    return tuple(
        (word, words.get(word), others.get(word))
        for word in sorted(known)
        if words.get(word) != others.get(word)
    )


def flat(tree: dict[str, Any], prefix: str = "") -> Words:
    """Nested words as dotted ones."""
    words = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            words |= flat(value, f"{prefix}{name}.")
        else:
            words[f"{prefix}{name}"] = value
    return words


def initialisation_of(run: Run) -> str:
    """The config's, or the name of the file that the detections are from."""
    return run.detections_file or run.config["initialisation"]


def model_of(run: Run) -> str:
    """Such as "ViT-B", or of another size "ViT 128 x 4" (width x depth)."""
    if run.detections_file is not None:
        return "not told"
    vit = run.config["model"]["vit"]
    for size, words in VIT_SIZES.items():
        if all(vit[word] == value for word, value in words.items()):
            return f"ViT-{size.upper() if len(size) == 1 else size.capitalize()}"
    return f"ViT {vit['width']}\u2009\u00d7\u2009{vit['depth']}"


def _configurations(runs: Sequence[Run], keys: Iterable[str]) -> tuple[Configuration, ...]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_canonical(_identity(run)), []).append(run)
    ordered = sorted(groups.values(), key=lambda group: _order(group[0]))
    labels = [_label(group[0]) for group in ordered]
    made = []
    for group, label in zip(ordered, labels, strict=True):
        alike = [
            _identity(other[0]) for other, its in zip(ordered, labels, strict=True) if its == label
        ]
        published, why = comparison(group[0])
        made.append(
            Configuration(
                key=next(keys),
                runs=tuple(group),
                distinction=_distinction(_identity(group[0]), alike),
                published=published,
                unpublished=why,
                departures=departures(group[0], published) if published else (),
            )
        )
    return tuple(made)


def _identity(run: Run) -> Words:
    """All that a run's result depends on but the seed."""
    left_out = ["seed", *RESULT_NEUTRAL]
    if run.config["batch_statistics"] == "batch":
        left_out.append("accumulate")
    words = {
        word: value for word, value in flat(run.config).items() if not _is_under(word, left_out)
    }
    if run.detections_file is not None:
        return {"file": run.checkpoint_sha256 or run.detections_file}
    words["weights"] = (run.init or {}).get("sha256") or _file_name(run.config["init"])
    words["trained"] = run.epochs is not None
    return words


def _distinction(words: Words, alike: list[Words]) -> str:
    told = [
        f"{word.rpartition('.')[2]} {_brief(words.get(word))}"
        for word in sorted({name for other in alike for name in other})
        if any(other.get(word) != words.get(word) for other in alike)
    ]
    return ", ".join(told)


def _brief(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    is_digest = isinstance(value, str) and len(value) == 64
    return text[:7] if is_digest else text


def _label(run: Run) -> tuple[Any, ...]:
    epochs = None if run.epochs is None else run.config["epochs"]
    return initialisation_of(run), model_of(run), epochs


def _order(run: Run) -> tuple[Any, ...]:
    """By size, then by initialisation as the paper lists them, then by length."""
    vit, initialisation = run.config["model"]["vit"], initialisation_of(run)
    known = [*INITIALISATIONS, initialisation].index(initialisation)
    return (
        vit["width"] * vit["width"] * vit["depth"],
        model_of(run),
        known,
        initialisation,
        run.config["epochs"],
        _canonical(_identity(run)),
    )


def comparison(run: Run) -> tuple[Published | None, str | None]:
    """The published result of a run's model, or why there is none."""
    if run.detections_file is not None:
        return None, "Detections from a file; what made them is not known"
    validated_on = _validation_set(run)
    if validated_on not in (COCO_VAL, COCO) or run.config["data"]["name"] != "coco":
        return None, f"Validated on {validated_on}; published numbers are of {COCO_VAL}"
    if run.config["few_shot"]["novel"]:
        return None, "Few-shot detection; the published numbers are of all classes"
    published = published_for(ConfigDict(run.config))
    if published is None:
        return None, "Nothing published is known of this model, initialisation and length"
    return published, None


def departures(run: Run, published: Published) -> tuple[Difference, ...]:
    """In what a run's recipe is not the published one, what a variant is about left out."""
    tuned = {"lr": 1.0, "weight_decay": 0.0, "drop_path": 0.0, "epochs": 1.0}
    size = published.backbone.removeprefix("ViT-").lower()
    if published.system == "ViTDet":
        standard = vitdet(size, "mae", **tuned, layer_decay=0.5)
    else:
        standard = benchmark(size, "mae", **tuned)
    standard.data.name = run.config["data"]["name"]
    expected = config_recipe(json.loads(standard.to_json()))
    found = [
        difference
        for difference in differences(config_recipe(run.config), expected)
        if difference[0] not in VARIANT_WORDS
    ]
    if run.train_images is not None and run.train_images < COCO_TRAIN_IMAGES:
        found.append(("training images", run.train_images, "all of COCO train2017"))
    return tuple(found)


def _is_under(word: str, prefixes: Iterable[str]) -> bool:
    return any(word == prefix or word.startswith(f"{prefix}.") for prefix in prefixes)


def _file_name(path: object) -> str | None:
    return None if path is None else PurePath(str(path)).name


def _told_apart(path: str) -> str:
    """A path's last name, with a digest of the whole: nothing of the machine, yet unambiguous."""
    return f"{PurePath(path).name} ({hashlib.sha256(path.encode()).hexdigest()[:7]})"


def _canonical(words: Words) -> str:
    return json.dumps(words, sort_keys=True)


def _keys() -> Iterable[str]:
    """A ... Z, AA, AB ..."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    count = 0
    while True:
        number, key = count, letters[count % 26]
        while number >= 26:
            number = number // 26 - 1
            key = letters[number % 26] + key
        yield key
        count += 1
