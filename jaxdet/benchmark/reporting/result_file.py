"""result.json of a finished run, read with care: it may come from anyone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from ml_collections import ConfigDict

from jaxdet.benchmark.reporting.history import (
    eval_points,
    last_step,
    loss_curves,
    peak_memory,
    read_lines,
    training_rate,
)
from jaxdet.benchmark.reporting.inspection_file import read_inspection
from jaxdet.benchmark.reporting.json_values import (
    LARGEST_NUMBER,
    count,
    number,
    section,
    text,
    texts,
)
from jaxdet.benchmark.reporting.run import TIDE_ERRORS, Numbers, Run, Scores
from jaxdet.config.keys import DetectorConfig
from jaxdet.config.mask_rcnn import check
from jaxdet.config.old_names import renamed
from jaxdet.config.schema import defaults
from jaxdet.config.values import config_digest
from jaxdet.errors import UserError
from jaxdet.evaluation.metric_names import IOU_TYPES
from jaxdet.files import read_file

LARGEST_RESULT = 64 * 2**20
LARGEST_DEPTH = 1000


def read_run(folder: Path) -> Run:
    """Reads the result of one workdir.

    Raises:
        UserError: it is unfinished or damaged; the message says why and not where.
    """
    lines = read_lines(folder / "metrics.jsonl")
    if not (folder / "result.json").is_file():
        raise UserError(f"unfinished: no result.json (its metrics end at step {last_step(lines)})")
    result = _read_json(folder / "result.json")
    given = _section(result, "config")
    config, digest = _complete(given), config_digest(given)
    if result.get("config_sha256") != digest:
        raise UserError("damaged: its config is not the one its config_sha256 was taken from")
    evaluated_on = _complete({**given, "data": _section(result, "evaluated_on")})["data"]
    step, epochs = _progress(result, config)
    metrics, images = _section(result, "metrics"), _section(result, "images")
    annotations = section(result.get("annotations_sha256"))
    kinds = [kind for kind in IOU_TYPES if kind in metrics]
    if not kinds:
        raise UserError("damaged: its metrics are of neither boxes nor masks")
    scores = {kind: _scores(metrics, kind) for kind in kinds}
    weights = _required(text, result, "checkpoint_sha256")
    return Run(
        folder=folder,
        config=config,
        config_sha256=digest,
        checkpoint_sha256=weights,
        detections_file=_detections_file(result),
        step=step,
        epochs=epochs,
        scores=scores,
        few_shot=_shares(metrics.get("few_shot", {}), "few_shot"),
        parameters=count(result.get("parameters")),
        versions=texts(result.get("versions")),
        device=text(result.get("device")),
        init=texts(result.get("init")) or None,
        evaluated_on=evaluated_on,
        train_images=count(images.get("train")),
        val_images=_required(count, images, "val"),
        history=eval_points(lines, epochs / step) if epochs and step else (),
        losses=loss_curves(lines, epochs / step) if epochs and step else {},
        inspection=read_inspection(folder, [*scores[kinds[0]].per_category], weights),
        train_rate=training_rate(lines, config["batch_size"]),
        eval_rate=number(section(result.get("evaluation")).get("images_per_second")),
        memory_gb=peak_memory(lines),
        train_annotations_sha256=text(annotations.get("train")),
        val_annotations_sha256=text(annotations.get("val")),
        validated_on_training_images=result.get("validated_on_training_images") is True,
    )


def _read_json(path: Path) -> dict[str, Any]:
    def fail(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        if path.stat().st_size > LARGEST_RESULT:
            raise UserError("damaged: result.json is too large to be one")
        result = json.loads(read_file(path), parse_constant=fail)
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"damaged: result.json cannot be read ({reason})") from error
    if not isinstance(result, dict):
        raise UserError("damaged: result.json is not an object")
    return result


def _section(result: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(result.get(name), dict):
        raise UserError(f"damaged: result.json has no {name}")
    return result[name]


def _required(kind: Callable[[Any], Any], values: dict[str, Any], name: str) -> Any:
    value = kind(values.get(name))
    if value is None:
        raise UserError(f"damaged: result.json has no {name}")
    return value


def _progress(result: dict[str, Any], config: dict[str, Any]) -> tuple[int, float | None]:
    """The step and epochs trained (None: not by this run), which must be the config's unless that
    lets a training end early."""
    epochs_of_config = config["epochs"]
    step, epochs = _required(count, result, "step"), number(result.get("epochs"))
    # The last step is a rounded one, hence the step of grace.
    is_short = epochs is not None and step and epochs_of_config - epochs > 1.01 * epochs / step
    if is_short and not config["early_stop"]:
        raise UserError(
            f"unfinished: evaluated after {epochs:.4g} of {epochs_of_config:.4g} epochs"
        )
    return step, epochs


def _detections_file(result: dict[str, Any]) -> str | None:
    if result.get("evaluated") != "file of detections":
        return None
    return PurePath(text(result.get("checkpoint")) or "detections").name


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """A stored config as one of this version, with the keys that are newer than it, checked.

    The one place where the report reads a config.
    """
    for key in ("initialisation", "epochs", "data", "model", "optim"):
        if key not in config:
            raise UserError(f"damaged: its config has no {key}")
    complete = _merged(_defaults(), renamed(config))
    _check_sizes(complete)
    try:
        # Where the weights were is of no matter any more.
        check(ConfigDict({**complete, "init": None}))
    except UserError as error:
        raise UserError(f"not a config of this version: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise UserError(f"damaged: its config is malformed ({error})") from error
    return complete


@cache
def _defaults() -> dict[str, Any]:
    return json.loads(json.dumps(defaults(DetectorConfig)))


def _check_sizes(value: Any, key: str = "config") -> None:
    """Raises UserError for a number so large that nothing can be computed of it."""
    if isinstance(value, dict):
        for name, each in value.items():
            _check_sizes(each, f"{key}.{name}")
    elif isinstance(value, list):
        for each in value:
            _check_sizes(each, key)
    elif isinstance(value, int | float):
        largest = LARGEST_DEPTH if key.endswith(".depth") else LARGEST_NUMBER
        if not abs(value) <= largest:
            raise UserError(f"damaged: {key} is above {largest}")


def _merged(known: dict[str, Any], given: Any, key: str = "config") -> dict[str, Any]:
    """What is given, with the defaults of keys that are not; whole numbers as such."""
    if not isinstance(given, dict):
        raise UserError(f"damaged: {key} is not a section of keys")
    merged = dict(given)
    for name, value in known.items():
        if isinstance(value, dict):
            merged[name] = _merged(value, given.get(name, {}), f"{key}.{name}")
        elif isinstance(merged.setdefault(name, value), dict):
            raise UserError(f"damaged: {key}.{name} is a section of keys")
        elif type(value) is int and isinstance(merged[name], float):
            if not merged[name].is_integer():
                raise UserError(f"damaged: {key}.{name} is not a whole number")
            merged[name] = int(merged[name])
    return merged


def _scores(metrics: dict[str, Any], kind: str) -> Scores:
    numbers = metrics[kind]
    if not isinstance(numbers, dict) or "AP" not in numbers:
        raise UserError(f"damaged: metrics.{kind} has no AP")
    tide = section(section(metrics.get("tide")).get(kind))
    costs = {**section(tide.get("main")), **section(tide.get("special"))}
    coco = {name: value for name, value in numbers.items() if name != "per_category"}
    return Scores(
        coco=_shares(coco, kind),
        per_category=_shares(numbers.get("per_category", {}), f"{kind}.per_category"),
        tide={error: number(costs.get(error)) for error in TIDE_ERRORS},
    )


def _shares(numbers: Any, where: str) -> Numbers:
    if not isinstance(numbers, dict):
        raise UserError(f"damaged: metrics.{where} is not a section of named numbers")
    for name, value in numbers.items():
        if value is not None and not (number(value) is not None and 0 <= value <= 1):
            raise UserError(f"damaged: metrics.{where}.{name} is {value!r}, not in 0..1")
    return dict(numbers)
