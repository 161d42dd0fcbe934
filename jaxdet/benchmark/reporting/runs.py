"""Finished runs on disk, read with care: a result may come from anyone."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ml_collections import ConfigDict

from jaxdet.config.mask_rcnn import benchmark, check, config_digest
from jaxdet.errors import UserError
from jaxdet.evaluation.metric_names import IOU_TYPES, MAIN_ERRORS

TIDE_ERRORS = (*MAIN_ERRORS, "FalsePos", "FalseNeg")
FEWEST_RATES = 3
LARGEST_RESULT = 64 * 2**20
LARGEST_HISTORY = 512 * 2**20
LARGEST_NUMBER = 2**53
"""What no count or measure of a run reaches; to it floats are exact for whole numbers."""
LARGEST_DEPTH = 1000

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Scores:
    """What COCO and TIDE say of a run's boxes or masks, in 0..1; None where nothing is to be found.

    Attributes:
        coco: "AP", "AP50" ... as `evaluate_coco` names them.
        per_category: AP by category name, in the data set's order.
        tide: absolute AP (at IoU .5) lost to each of TIDE_ERRORS; None where not computed.
    """

    coco: Numbers
    per_category: Numbers
    tide: Numbers | None


@dataclass(frozen=True)
class Moment:
    """AP at an evaluation during training, in 0..1."""

    epoch: float
    box: float | None
    mask: float | None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its workdir.
        config: complete, as JSON values; words newer than the run stand at their default.
        config_sha256: of the config as the run wrote it.
        detections_file: the name of the file of detections that was scored in place of a detector;
            its config tells of the data alone.
        epochs: trained; None where weights were evaluated that this run did not train.
        scores: by IoU type, "bbox" always.
        few_shot: AP of base and novel classes, such as "novel_bbox"; empty where there are none.
        init: "file" and "sha256" of the pre-trained weights, where told.
        evaluated_on: the words of config.data at the evaluation.
        train_images, val_images: how many, where told.
        history: in the order of the epochs.
        train_rate, eval_rate: images/s.
        memory_gb: peak of a device in training, 10^9 bytes.
    """

    folder: Path
    config: dict[str, Any]
    config_sha256: str
    checkpoint_sha256: str | None
    detections_file: str | None
    step: int
    epochs: float | None
    scores: dict[str, Scores]
    few_shot: Numbers
    parameters: int | None
    versions: dict[str, str]
    device: str | None
    init: dict[str, str] | None
    evaluated_on: dict[str, Any]
    train_images: int | None
    val_images: int | None
    history: tuple[Moment, ...]
    train_rate: float | None
    eval_rate: float | None
    memory_gb: float | None


@dataclass(frozen=True)
class Skipped:
    """A run that is not reported, and why, in one sentence without a full stop."""

    folder: Path
    reason: str

    @property
    def reason_without_path(self) -> str:
        """The reason with the folder's name in place of its path, if it has a name."""
        name = self.folder.name
        return self.reason.replace(str(self.folder), name) if name else self.reason


def gather(paths: Iterable[Path]) -> tuple[list[Run], list[Skipped]]:
    """Reads the runs that the paths are or hold, in the order given and of their names.

    Raises:
        UserError: a path is not a folder, or there is no usable run.
    """
    paths = list(paths)
    runs, skipped, seen = [], [], {}
    for folder in _workdirs(paths):
        try:
            run = read_run(folder)
        except UserError as error:
            skipped.append(Skipped(folder, str(error)))
            continue
        # A result may come from anyone, and no single one may cost the report of all others.
        except Exception as error:
            told = (str(error).splitlines() or [""])[0]
            reason = f"damaged: it cannot be read ({type(error).__name__}: {told:.200})"
            skipped.append(Skipped(folder, reason))
            continue
        # No two seeds agree in every bit of every number: this is a copy, or a run done again.
        same = (run.config_sha256, run.checkpoint_sha256, repr(run.scores))
        if same in seen:
            reason = f"the same result as in {seen[same].name}, which is reported"
            skipped.append(Skipped(folder, reason))
            continue
        seen[same] = folder
        runs.append(run)
    if not runs:
        why = "; ".join(f"{each.folder}: {each.reason}" for each in skipped)
        raise UserError(
            f"no finished run in {', '.join(map(str, paths))} ({why or 'no result.json'}); "
            "give workdirs of python -m jaxdet.main that have a result.json"
        )
    return runs, skipped


def _workdirs(paths: Sequence[Path]) -> list[Path]:
    """Folders that hold a run, finished or not, each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is not a folder; give workdirs, or folders of workdirs")
        for folder, inner, files in os.walk(path):
            inner.sort()
            if {"result.json", "config.json"} & set(files):
                found.setdefault(Path(folder).resolve(), Path(folder))
                inner[:] = [name for name in inner if name not in ("checkpoints", "profile")]
    return list(found.values())


def read_run(folder: Path) -> Run:
    """Reads the result of one workdir.

    Raises:
        UserError: it is unfinished or damaged; the message says why and not where.
    """
    lines = _history_lines(folder / "metrics.jsonl")
    if not (folder / "result.json").is_file():
        last = max((_whole(line.get("step")) or 0 for line in lines), default=0)
        raise UserError(f"unfinished: no result.json (its metrics end at step {last})")
    result = _read_result(folder / "result.json")
    given = _section(result, "config")
    config = _complete(given)
    digest = config_digest(given)
    if result.get("config_sha256") not in (None, digest):
        raise UserError("damaged: its config is not the one its config_sha256 was taken from")
    step = _whole(result.get("step"))
    if step is None:
        raise UserError("damaged: result.json has no step")
    epochs_per_step = _epochs_per_step(result, step, lines)
    epochs = _number(result.get("epochs"))
    if "epochs" not in result and step:  # older than the word; converted weights have step 0
        epochs = step * epochs_per_step if epochs_per_step else config["epochs"]
    # The last step is a rounded one, hence the step of grace.
    if epochs is not None and step and config["epochs"] - epochs > 1.01 * epochs / step:
        raise UserError(
            f"unfinished: evaluated after {epochs:.4g} of {config['epochs']:.4g} epochs"
        )
    metrics = _section(result, "metrics")
    images = result.get("images") if isinstance(result.get("images"), dict) else {}
    evaluation = result.get("evaluation") if isinstance(result.get("evaluation"), dict) else {}
    evaluated_on = _merged(config["data"], result.get("evaluated_on") or {}, "evaluated_on")
    _check({**config, "data": evaluated_on})
    return Run(
        folder=folder,
        config=config,
        config_sha256=digest,
        checkpoint_sha256=_text(result.get("checkpoint_sha256")),
        detections_file=_detections_file(result),
        step=step,
        epochs=epochs,
        scores={kind: _scores(metrics, kind) for kind in IOU_TYPES if kind in metrics},
        few_shot=_shares(metrics.get("few_shot", {}), "few_shot"),
        parameters=_whole(result.get("parameters")),
        versions=_texts(result.get("versions")),
        device=_text(result.get("device")),
        init=_texts(result.get("init")) or None,
        evaluated_on=evaluated_on,
        train_images=_whole(images.get("train")),
        val_images=_whole(images.get("val")),
        history=_history(lines, epochs_per_step),
        train_rate=_training_rate(lines, config["batch_size"]),
        eval_rate=_number(evaluation.get("images_per_second")),
        memory_gb=max(
            (v for line in lines if (v := _number(line.get("device_memory_gb"))) is not None),
            default=None,
        ),
    )


def _read_result(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    try:
        if path.stat().st_size > LARGEST_RESULT:
            raise UserError("damaged: result.json is too large to be one")
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
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


def _detections_file(result: dict[str, Any]) -> str | None:
    if result.get("evaluated") != "file of detections":
        return None
    return PurePath(_text(result.get("checkpoint")) or "detections").name


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the words that are newer than it, checked."""
    recipe = benchmark("b", "random", lr=1.0, weight_decay=0.0, drop_path=0.0, epochs=1.0)
    known = json.loads(recipe.to_json())
    for word in ("initialisation", "epochs", "data", "model", "optim"):
        if word not in config:
            raise UserError(f"damaged: its config has no {word}")
    complete = _merged(known, config)
    _check(complete)
    return complete


def _check(config: dict[str, Any]) -> None:
    _check_sizes(config)
    try:
        # Where the weights lay is of no matter any more.
        check(ConfigDict({**config, "init": None}))
    except UserError as error:
        raise UserError(f"not a config of this version: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        raise UserError(f"damaged: its config is malformed ({error})") from error


def _check_sizes(value: Any, word: str = "config") -> None:
    """Raises UserError for a number so large that nothing can be computed of it."""
    if isinstance(value, dict):
        for name, each in value.items():
            _check_sizes(each, f"{word}.{name}")
    elif isinstance(value, list):
        for each in value:
            _check_sizes(each, word)
    elif isinstance(value, int | float):
        largest = LARGEST_DEPTH if word.endswith(".depth") else LARGEST_NUMBER
        if not abs(value) <= largest:
            raise UserError(f"damaged: {word} is above {largest}")


def _merged(known: dict[str, Any], given: Any, word: str = "config") -> dict[str, Any]:
    """What is given, and what is known of the words that are not; whole numbers as such."""
    if not isinstance(given, dict):
        raise UserError(f"damaged: {word} is not a section of words")
    merged = dict(given)
    for name, value in known.items():
        if isinstance(value, dict):
            merged[name] = _merged(value, given.get(name, {}), f"{word}.{name}")
        elif isinstance(merged.setdefault(name, value), dict):
            raise UserError(f"damaged: {word}.{name} is a section of words")
        elif type(value) is int and isinstance(merged[name], float):
            if not merged[name].is_integer():
                raise UserError(f"damaged: {word}.{name} is not a whole number")
            merged[name] = int(merged[name])
    return merged


def _scores(metrics: dict[str, Any], kind: str) -> Scores:
    numbers = metrics[kind]
    if not isinstance(numbers, dict) or "AP" not in numbers:
        raise UserError(f"damaged: metrics.{kind} has no AP")
    tide = metrics.get("tide", {})
    tide = tide.get(kind) if isinstance(tide, dict) else None
    gains = None
    if isinstance(tide, dict):
        gains = {**_dictionary(tide.get("main")), **_dictionary(tide.get("special"))}
        gains = {error: _number(gains.get(error)) for error in TIDE_ERRORS}
    coco = {name: value for name, value in numbers.items() if name != "per_category"}
    per_category = numbers.get("per_category", {})
    return Scores(
        coco=_shares(coco, kind),
        per_category=_shares(per_category, f"{kind}.per_category"),
        tide=gains,
    )


def _shares(numbers: Any, where: str) -> Numbers:
    if not isinstance(numbers, dict):
        raise UserError(f"damaged: metrics.{where} is not a list of named numbers")
    for name, value in numbers.items():
        if value is not None and not (_number(value) is not None and 0 <= value <= 1):
            raise UserError(f"damaged: metrics.{where}.{name} is {value!r}, not in 0..1")
    return dict(numbers)


def _history_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in metrics.jsonl; a line that a killed run was writing is left out."""
    lines = []
    try:
        if path.stat().st_size > LARGEST_HISTORY:
            return []
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    continue
                if isinstance(line, dict):
                    lines.append(line)
    except OSError:
        return []
    return lines


def _epochs_per_step(
    result: dict[str, Any], step: int, lines: list[dict[str, Any]]
) -> float | None:
    """By the result, or where it is older than that, by the last training step's line."""
    epochs = _number(result.get("epochs"))
    if epochs and step:
        return epochs / step
    for line in reversed(lines):
        epoch, at = _number(line.get("epoch")), _whole(line.get("step"))
        if epoch and at:
            return epoch / at
    return None


def _history(lines: list[dict[str, Any]], epochs_per_step: float | None) -> tuple[Moment, ...]:
    if epochs_per_step is None:
        return ()
    moments = {}
    for line in lines:
        step = _whole(line.get("step"))
        box, mask = (_number(line.get(f"val/{kind}/AP")) for kind in IOU_TYPES)
        if step is not None and (box is not None or mask is not None):
            moments[step] = Moment(step * epochs_per_step, box, mask)
    return tuple(moments[step] for step in sorted(moments))


def _training_rate(lines: list[dict[str, Any]], batch_size: int) -> float | None:
    """Images/s: the median over the times from one training line to the next, if there are a few.

    A time in which an evaluation was written does not count; the median passes over compilation and
    interruptions.
    """
    rates, last = [], None
    for line in lines:
        step, time = _whole(line.get("step")), _number(line.get("time"))
        is_training = "loss" in line and step is not None and time is not None
        if is_training and last is not None and step > last[0] and time > last[1]:
            rates.append((step - last[0]) * batch_size / (time - last[1]))
        last = (step, time) if is_training else None
    return _number(statistics.median(rates)) if len(rates) >= FEWEST_RATES else None


def _number(value: Any) -> float | None:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_real and abs(value) <= LARGEST_NUMBER else None


def _whole(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value <= LARGEST_NUMBER else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> dict[str, str]:
    return {k: v for k, v in _dictionary(value).items() if isinstance(v, str)}
