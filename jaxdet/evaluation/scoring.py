"""All numbers of one evaluation: COCO's or LVIS's, of base and novel classes, and TIDE's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxdet.errors import UserError
from jaxdet.evaluation.coco import evaluate_coco, mean_defined
from jaxdet.evaluation.inputs import EvalInputs
from jaxdet.evaluation.lvis import evaluate_lvis
from jaxdet.evaluation.tide import evaluate_tide

Metrics = dict[str, Any]


def score(
    inputs: EvalInputs, *, max_detections: int, novel: Sequence[str] = (), metric: str = "coco"
) -> Metrics:
    """The numbers of detections.

    Args:
        inputs: what is compared, and for which IoU types.
        max_detections: see `evaluate_coco` and `evaluate_tide`.
        novel: names of the novel categories in few-shot detection.
        metric: "coco", or "lvis" for a ground truth that names what it is sure of.

    Returns:
        COCO's or LVIS's numbers under "bbox" and "segm", the APs of base and novel classes under
        "few_shot" where there are novel ones, under "tide" what each type of error costs (in COCO
        alone: TIDE takes a detection of what nobody looked for as an error).
    """
    evaluate = {"coco": evaluate_coco, "lvis": evaluate_lvis}[metric]
    metrics: Metrics = evaluate(inputs, max_detections=max_detections)
    if novel:
        metrics["few_shot"] = {
            f"{classes}_{iou_type}": ap
            for iou_type in inputs.truth.iou_types
            for classes, ap in split_ap(metrics[iou_type]["per_category"], novel).items()
        }
    if metric == "coco":
        metrics["tide"] = evaluate_tide(inputs, max_detections=max_detections)
    return metrics


def check_novel(categories: Collection[str], novel: Sequence[str]) -> None:
    """Raises UserError where some of the novel names are categories and some are not.

    None may be, as in a data set of base classes alone.
    """
    unknown = sorted(set(novel) - set(categories))
    if 0 < len(unknown) < len(set(novel)):
        raise UserError(
            f"config.few_shot.novel names {unknown[0]!r}, which the validation data does not list; "
            f"it has {', '.join(sorted(categories))}"
        )


def split_ap(per_category: dict[str, float], novel: Sequence[str]) -> dict[str, float]:
    """The mean AP of base, novel and all categories, nan where there is none with ground truth.

    Args:
        per_category: AP by name, as `evaluate_coco` returns it.
        novel: names of the novel categories; all others are base.

    Raises:
        UserError: see `check_novel`.
    """
    check_novel(per_category.keys(), novel)

    def mean(names: Sequence[str]) -> float:
        return mean_defined(np.array([per_category[n] for n in names if per_category[n] >= 0]))

    return {
        "base": mean([name for name in per_category if name not in novel]),
        "novel": mean([name for name in per_category if name in novel]),
        "overall": mean([*per_category]),
    }
