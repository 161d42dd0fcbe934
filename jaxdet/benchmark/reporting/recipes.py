"""Which runs are comparable: those of one recipe and of data that look the same.

Data are compared by the number of images, the categories and the names of the annotation files
that the config gives; not by the images themselves.

A recipe is the config without what an initialisation brings along, what the protocol tunes for each
and what a result does not depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from ml_collections import ConfigDict

from jaxdet.benchmark.reference import LEAST_COCO_TRAIN_IMAGES, Published, published_for
from jaxdet.benchmark.reporting.runs import Run
from jaxdet.config.imted import imted
from jaxdet.config.mask_rcnn import benchmark, quarter_ends, vitdet
from jaxdet.config.roles import NEUTRAL_KEYS
from jaxdet.data.fewshot import VOC

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
    *(word.removeprefix("config.") for word in NEUTRAL_KEYS),
    "eval_every",
    "checkpoint_every",
    "eval_workers",
)
"""Words a result does not depend on, or that only say where files lie."""

LAYER_DECAY = "layer-wise learning rate decay"
DETECTIONS = "detections"
GLOBAL_BLOCKS, OUT_INDICES = "model.vit.global_blocks", "model.vit.out_indices"

COCO, COCO_VAL = "COCO", "COCO val2017"
COCO_VAL_IMAGES = 5000
VARIANT_WORDS = (
    GLOBAL_BLOCKS,
    OUT_INDICES,
    "model.vit.relative_position",
    "model.pyramid.kind",
    "model.detector.strides",
)
"""What published variants of a recipe differ in."""


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
    kept = {word: value for word, value in words.items() if not is_under(word, left_out)}
    depth = config["model"]["vit"]["depth"]
    for word in (GLOBAL_BLOCKS, OUT_INDICES):
        kept[word] = _blocks(words[word], depth, config["model"]["pyramid"]["kind"])
    kept[LAYER_DECAY] = "tuned" if words["optim.layer_decay"] != 1 else "none"
    return kept


def _blocks(blocks: Sequence[int], depth: int, pyramid: str) -> str | list[int]:
    """Positions of blocks, said so that they are the same for models of any depth."""
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
    words |= _annotation_files(run)
    if data["augmentation"] == "multiscale":
        words["validation sizes"] = [max(data["short_sides"]), data["long_side"]]
    return words


def _annotation_files(run: Run) -> Words:
    """Names of the annotation files given; COCO's own are what a folder alone stands for."""
    given = {"validation annotations": ("val", run.evaluated_on)}
    if run.detections_file is None:
        given["training annotations"] = ("train", run.config["data"])
    words = {}
    for word, (split, data) in given.items():
        path = data[f"{split}_annotations"]
        if data["name"] == "coco" and path is not None:
            name = PurePath(str(path)).name
            if name != f"instances_{split}2017.json":
                words[word] = name
    return words


def _validation_set(run: Run) -> str:
    """What the validation data are, as far as the result tells."""
    if run.evaluated_on["name"] != "coco":
        return run.evaluated_on["name"]
    names = run.scores["bbox"].per_category
    if len(names) != 80 or not set(VOC) <= set(names):
        return "own set in COCO's format"
    return {COCO_VAL_IMAGES: COCO_VAL, None: COCO}.get(
        run.val_images, "images of COCO's categories"
    )


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
    elif published.system == "imTED":
        standard = imted(size, drop_path=0.0, masks=published.detector == "Mask R-CNN")
    else:
        standard = benchmark(size, "mae", **tuned)
    standard.data.name = run.config["data"]["name"]
    expected = config_recipe(json.loads(standard.to_json()))
    found = [
        difference
        for difference in differences(config_recipe(run.config), expected)
        if difference[0] not in VARIANT_WORDS
    ]
    if run.train_images is not None and run.train_images < LEAST_COCO_TRAIN_IMAGES:
        found.append(("training images", run.train_images, "all of COCO train2017"))
    return tuple(found)


def is_under(word: str, prefixes: Iterable[str]) -> bool:
    """Whether a word is one of the prefixes or in a section that is."""
    return any(word == prefix or word.startswith(f"{prefix}.") for prefix in prefixes)


def _told_apart(path: str) -> str:
    """A path's last name, with a digest of the whole: nothing of the machine, yet unambiguous."""
    digest = hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()
    return f"{PurePath(path).name} ({digest[:7]})"


def canonical(words: Words) -> str:
    """Equal for equal words: whether a number is written whole does not count."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if is_whole else value

    return json.dumps({word: plain(value) for word, value in words.items()}, sort_keys=True)
