"""The page of a detector on the hub, README.md, from what its evaluation wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from jaxdet.flags import brief, listed
from jaxdet.weights.classes import COCO_CLASSES

TASKS = {"bbox": ("box", "object-detection"), "segm": ("mask", "image-segmentation")}
"""What the hub calls what is measured: a name, and the task it is of."""

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

READ: dict[str, tuple[type, ...]] = {
    "evaluated": (str,),
    "checkpoint_sha256": (str,),
    "metrics.bbox": (dict,),
    "images.val": (int,),
    "epochs": (int, float, NoneType),
    "versions.jaxdet": (str,),
    "versions.jax": (str,),
    "config.initialisation": (str,),
    "config.image_size": (int,),
    "config.model.heads": (dict,),
}
"""What the page takes from result.json, beside the data's name."""

TEMPLATE = """---
{metadata}---

# {title}

{what} Evaluated on {images} images of {dataset} after {epochs} epochs, in percent:

{table}
{warning}
## Use

With jaxdet and its extra `hub`:

```sh
jaxdet predict --init=hf://{repository} --out=seen street.jpg
jaxdet train --init-from=hf://{repository} --config=... --data=...   # on other classes
```

```python
from jaxdet.predict import load

load("hf://{repository}").predict("street.jpg").show()
```

## What it is

- Classes: {classes}
- ViT: {vit}
- Images: resized to fit {image_size} x {image_size} pixels
- {start}
- Trained with jaxdet {version}, JAX {jax}; all keys of the config are in `config.json`
- SHA-256 of all arrays: `{sha256}`; `config.json` has that of each, which loading compares

`result.json` has everything that the evaluation found.
"""


class Published(NamedTuple):
    """How a detector is published.

    Attributes:
        repository: owner/name.
        license, dataset: by the hub's names for them; left out where they are None.
    """

    repository: str
    license: str | None
    dataset: str | None


def model_card(published: Published, result: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The page's text, metadata in front.

    Args:
        result: the content of result.json.
        report: of the weights, as `checkpoints_convert.runs` makes it.
    """
    config, classes = result["config"], report["classes"]
    model, dataset = config["model"], dataset_name(result, classes)
    kinds = [kind for kind in TASKS if kind in result["metrics"]]
    head = "Cascade Mask R-CNN" if model["heads"].get("cascade_thresholds") else "Mask R-CNN"
    what = head if "segm" in kinds else head.replace("Mask", "Faster")
    warning = (
        "\n**The validation images were trained on: these numbers say nothing of other images.**\n"
    )
    start = report["notes"][0]
    return TEMPLATE.format(
        metadata=_yaml(_metadata(published, result, dataset, kinds)),
        title=published.repository.partition("/")[2],
        what=f"{what} on a plain Vision Transformer, initialisation {config['initialisation']}.",
        images=result["images"]["val"],
        dataset=_plain(dataset),
        epochs="an unknown number of" if result["epochs"] is None else f"{result['epochs']:g}",
        table=_table(result["metrics"], kinds),
        warning=warning if result.get("validated_on_training_images") else "",
        repository=published.repository,
        classes=f"{len(classes)}: {_plain(listed(classes, 20))}",
        vit=", ".join(f"{key} {report['vit'][key]}" for key in ("width", "depth", "patch")),
        image_size=config["image_size"],
        start=_plain(start[0].upper() + start[1:]),
        version=result["versions"]["jaxdet"],
        jax=result["versions"]["jax"],
        sha256=report["source"]["sha256"],
    )


def validate_result(result: Any) -> None:
    """Holds the content of result.json to what the page takes from it.

    Raises:
        ValueError: it is not of a checkpoint, or lacks a key.
    """
    read: dict[str, tuple[type, ...]] = dict(READ)
    if isinstance(result, dict):
        data = "evaluated_on" if result.get("evaluated_on") else "config.data"
        read |= {f"{data}.name": (str,), f"{data}.root": (str, NoneType)}
        if isinstance(result.get("metrics"), dict) and "segm" in result["metrics"]:
            read["metrics.segm"] = (dict,)
    for key, kinds in read.items():
        value = result
        for name in key.split("."):
            if not isinstance(value, dict) or name not in value:
                raise ValueError(f"it has no {key}")
            value = value[name]
        if not isinstance(value, kinds):
            raise ValueError(f"its {key} is {value!r:.100}")
    if result["evaluated"] != "checkpoint":
        raise ValueError(f"it is of a {result['evaluated']:.100}")


def dataset_name(result: Mapping[str, Any], classes: Sequence[str]) -> str:
    """What the evaluation's data set is called, as far as its config says it."""
    data = result.get("evaluated_on") or result["config"]["data"]
    if data["name"] == "shapes":
        return "jaxdet's built-in shapes"
    if data.get("metric") == "lvis":
        return "LVIS"
    if tuple(classes) == COCO_CLASSES:
        return "COCO"
    return Path(data["root"] or "").name or "a data set in COCO's format"


def _metadata(
    published: Published, result: Mapping[str, Any], dataset: str, kinds: Sequence[str]
) -> dict[str, Any]:
    """What the hub sorts and searches by; keys without a value are left out."""
    results = [
        {
            "task": {"type": task},
            "dataset": {"type": published.dataset or _slug(dataset), "name": dataset},
            "metrics": [
                {"type": f"m{name}", "name": f"{label} {name}", "value": value}
                for name, value in _percent(result["metrics"][kind]).items()
            ],
        }
        for kind in kinds
        for label, task in [TASKS[kind]]
    ]
    metadata = {
        "library_name": "jaxdet",
        "license": published.license,
        "pipeline_tag": "object-detection",
        "tags": [
            *("object-detection", *(["instance-segmentation"] if "segm" in kinds else [])),
            *("vision-transformer", "mask-rcnn", "jax", "jaxdet"),
        ],
        "datasets": [published.dataset] if published.dataset else None,
        "model-index": [{"name": published.repository.partition("/")[2], "results": results}],
    }
    return {key: value for key, value in metadata.items() if value is not None}


def _percent(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of COLUMNS that there are."""
    return {
        name: round(100 * metrics[name], 2)
        for name in COLUMNS
        if isinstance(metrics.get(name), int | float) and math.isfinite(metrics[name])
    }


def _table(metrics: Mapping[str, Any], kinds: Sequence[str]) -> str:
    rows = [["", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    for kind in kinds:
        found = _percent(metrics[kind])
        values = [f"{found[name]:.1f}" if name in found else "-" for name in COLUMNS]
        rows.append([TASKS[kind][0], *values])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _yaml(metadata: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)


def _plain(text: str) -> str:
    """Text that no page takes for Markdown or HTML."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in brief(text))


def _slug(text: str) -> str:
    """As the hub's ids are written."""
    return "".join(sign if sign.isalnum() else "-" for sign in text.lower()).strip("-")
