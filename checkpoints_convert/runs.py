"""A run of `jaxdet train` as a source: its newest checkpoint's detector, and a report on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.reading import Source, read
from checkpoints_convert.tensors import State, of_array
from jaxdet import __version__
from jaxdet.config.keys import keys_with
from jaxdet.errors import UserError
from jaxdet.files import read_file
from jaxdet.weights.file import is_report
from jaxdet.weights.report import advised_keys, held_keys

PRETRAINED = "weights.npz"
"""What a pre-training leaves in its workdir, which is converted already."""


def is_run(path: Path) -> bool:
    """Whether a folder is the workdir of a run."""
    return (path / "checkpoints").is_dir()


def read_run(workdir: Path) -> Source:
    """The newest checkpoint of a run as converted weights; a pre-training's are its file's.

    Raises:
        UserError: there is none, or another version of jaxdet wrote it.
    """
    if (workdir / PRETRAINED).is_file():
        return read(workdir / PRETRAINED)
    from jaxdet.inference.detector import load
    from jaxdet.models.paths import leaves_by_name
    from jaxdet.training.checkpoint import digest

    detector = load(workdir)
    state = {
        name: of_array(np.array(leaf))
        for name, leaf in leaves_by_name(detector.params, detector.stats).items()
    }
    size = sum(4 * tensor.size for tensor in state.values())
    sha256 = digest(detector.params, detector.stats)
    config = json.loads(detector.config.to_json())
    classes = [category.name for category in detector.categories]
    report = _report(workdir, state, config, {"bytes": size, "sha256": sha256}, classes)
    return Source(workdir, size, sha256, state, [], report)


def _report(
    workdir: Path,
    state: State,
    config: dict[str, Any],
    source: dict[str, Any],
    classes: list[str],
) -> dict[str, Any]:
    model = config["model"]
    start = _start(workdir)
    origin = start if is_report(start) else None
    return {
        "jaxdet": __version__,
        "source": {"file": workdir.name, **source},
        "layout": origin["layout"] if origin else "a ViT of jaxdet's",
        "chosen": "a run of jaxdet train",
        "kind": "detector",
        "classes": classes,
        "vit": _size(model["vit"], state, origin),
        "config": {**held_keys(model["vit"]), **_detector_keys(model)},
        "recipe": advised_keys(model["vit"]),
        "pixel_mean": model["detector"]["pixel_mean"],
        "pixel_std": model["detector"]["pixel_std"],
        "pixels_from": "the run's config",
        "used": _used(state),
        "left_out": [],
        "unknown": [],
        "notes": [_started(start)],
        "origin": origin["source"] if origin else None,
    }


def _detector_keys(model: dict[str, Any]) -> dict[str, Any]:
    """The keys beside the ViT's that a whole detector is held against."""
    parts = ["pyramid", "heads", *(["decoder"] if model["heads"]["box"] == "decoder" else [])]
    may_differ = keys_with("finetune")
    return {
        f"model.{part}.{key}": value
        for part in parts
        for key, value in model[part].items()
        if f"model.{part}.{key}" not in may_differ
    }


def _start(workdir: Path) -> Any:
    """What a run wrote of its start: the report of its weights, or the source of a trained
    detector's; None where it started from neither."""
    path = workdir / "init.json"
    if not path.is_file():
        return None
    try:
        return json.loads(read_file(path))
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); remove it") from error


def _started(start: Any) -> str:
    """A note of what a run started from, by what it wrote of it."""
    source = start.get("source") if isinstance(start, dict) else None
    if not isinstance(source, dict) or "file" not in source:
        return "it started from no file of weights"
    layout = start["layout"] if is_report(start) else "a trained detector"
    digest = f", sha256 {source['sha256']}" if source.get("sha256") else ""
    return f"it started from {source['file']} ({layout}){digest}"


def _size(vit: dict[str, Any], state: State, origin: dict[str, Any] | None) -> dict[str, Any]:
    size = {key: vit[key] for key in ("width", "depth", "heads", "patch")}
    position = state.get("backbone.pos_embed")
    if position is not None:
        size["position_grid"] = position.shape[0]
    if "backbone.class_token" in state:
        known = (origin or {}).get("vit", {})
        size["class_position"] = known.get("class_position", position is not None)
    return size


def _used(state: State) -> dict[str, Any]:
    return {
        "tensors": len(state),
        "parameters": sum(tensor.size for tensor in state.values()),
        "names": list(state),
    }


def backbone_alone(source: Source) -> Source:
    """The backbone of converted weights, with a report on it.

    Raises:
        UserError: they came without a report.
    """
    state = {path: array for path, array in source.state.items() if path.startswith("backbone.")}
    report = source.report
    if report is None:
        raise UserError(
            f"{source.path} holds no report of where it came from; convert the original again"
        )
    config = {key: value for key, value in report["config"].items() if ".vit." in key}
    left_out = [{"name": path, "reason": "no part of the backbone"} for path in source.state]
    report = {
        **{name: value for name, value in report.items() if name != "classes"},
        "kind": "backbone",
        "config": config,
        "used": _used(state),
        "left_out": [entry for entry in left_out if entry["name"] not in state],
    }
    return replace(source, state=state, report=report)
