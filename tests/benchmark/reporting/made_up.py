"""Finished runs that nobody trained: their results and what else is in their folders."""

from __future__ import annotations

import json
import random
from pathlib import Path

from jaxdet.benchmark.reporting.gather import gather
from jaxdet.benchmark.reporting.groups import sections
from jaxdet.benchmark.reporting.run import TIDE_ERRORS
from jaxdet.config.files import load_config
from jaxdet.config.imted import VOC
from jaxdet.config.values import config_digest

SHAPES = ("disc", "box", "triangle", "star")

COCO = (*VOC, *(f"category {i}" for i in range(len(VOC), 80)))

NUMBERS = ("AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def config_of(name: str, **keys) -> dict:
    """A config file's config as JSON values; keys are given with __ for dots."""
    config = load_config(name)
    with config.unlocked():
        for key, value in keys.items():
            *sections, last = key.split("__")
            section = config
            for each in sections:
                section = section[each]
            section[last] = value
    return json.loads(config.to_json())


def result_of(
    config: dict, box_ap: float, *, categories=None, masks: bool = True, seed: int = 0
) -> dict:
    """A result such as an evaluation writes, with made-up numbers around an AP."""
    draw = random.Random(seed)
    is_coco = config["data"]["name"] == "coco"
    names = categories or (COCO if is_coco else SHAPES)
    train, val = (117_266, 5000) if is_coco else (2000, 100)
    step = round(config["epochs"] * train / config["batch_size"])

    def scores(ap: float) -> dict:
        coco = {name: min(ap * draw.uniform(0.8, 1.4), 1.0) for name in NUMBERS}
        per_category = {name: min(max(ap + draw.gauss(0, 0.08), 0.01), 1.0) for name in names}
        return {"AP": ap, **coco, "per_category": per_category}

    def gains() -> dict:
        costs = {error: draw.uniform(0.002, 0.08) for error in TIDE_ERRORS}
        return {
            "AP": 1.4 * box_ap,
            "main": {error: costs[error] for error in TIDE_ERRORS[:6]},
            "special": {error: 2 * costs[error] for error in TIDE_ERRORS[6:]},
        }

    kinds = ("bbox", "segm") if masks else ("bbox",)
    return {
        "evaluated": "checkpoint",
        "step": step,
        "metrics": {
            "bbox": scores(box_ap),
            **({"segm": scores(0.89 * box_ap)} if masks else {}),
            "tide": {kind: gains() for kind in kinds},
        },
        "parameters": 115_680_000 if is_coco else 1_332_752,
        "checkpoint": f"/somewhere/runs/x/checkpoints/{step}",
        "versions": {"jaxdet": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
        "device": "8 x NVIDIA H100 80GB HBM3" if is_coco else "1 x cpu",
        "config": config,
        "evaluated_on": config["data"],
        "epochs": config["epochs"],
        "images": {"train": train, "val": val},
        "config_sha256": config_digest(config),
        "checkpoint_sha256": f"{draw.getrandbits(256):064x}",
        "init": None
        if config["initialisation"] == "random"
        else {"file": "weights.pth", "sha256": config_digest({"x": config["initialisation"]})},
        "evaluation": {"seconds": {"detect": 2.0, "score": 1.0}, "images_per_second": 33.3},
    }


def metrics_of(result: dict, evaluations: int = 8, every: float = 2.0) -> str:
    """metrics.jsonl of a run that ends with the result: one line in `every` seconds."""
    lines, time = [], 1_700_000_000.0
    step, epochs = result["step"], result["epochs"]
    logged = 20
    for i in range(1, evaluations + 1):
        at = round(step * i / evaluations)
        for back in (3, 2, 1, 0):
            time += every
            lines.append(
                {
                    "step": at - back * logged,
                    "time": time,
                    "loss": 1.0,
                    "epoch": (at - back * logged) * epochs / step,
                    "device_memory_gb": 61.5,
                }
            )
        time += 1000.0  # the evaluation
        risen = 1 - 0.6 * (1 - i / evaluations) ** 2
        values = {
            f"val/{kind}/AP": result["metrics"][kind]["AP"] * risen
            for kind in ("bbox", "segm")
            if kind in result["metrics"]
        }
        lines.append({"step": at, "time": time, **values})
    return "".join(json.dumps(line) + "\n" for line in lines)


def write_run(folder: Path, result: dict, metrics: str = "") -> Path:
    """Writes what a finished run leaves, but checkpoints."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(result["config"]), encoding="utf-8")
    (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    return folder


def writer(folder: Path):
    """What writes a run of a config file under a name; `edit` may change its result."""

    def write_named(name, config="shapes_tiny", ap=0.5, *, seed=0, edit=None, masks=True, **keys):
        result = result_of(config_of(config, **{"seed": seed, **keys}), ap, masks=masks, seed=seed)
        metrics = metrics_of(result)
        if edit:
            edit(result)
        return write_run(folder / name, result, metrics)

    return write_named


def sections_of(*paths):
    return sections(gather(paths)[0])


def cells(table, row: int) -> dict[str, str]:
    """A row's texts by "group column"."""
    names = [f"{column.group} {column.text}".strip() for column in table.columns]
    return dict(zip(names, (cell.text for cell in table.rows[row]), strict=True))
