"""What runs score on draws of their validation images, by the detections that they left."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from jaxdet.benchmark.reporting.bootstrap import image_draws
from jaxdet.benchmark.reporting.groups import Drawn, Section
from jaxdet.benchmark.reporting.recipe import canonical
from jaxdet.benchmark.reporting.run import Run
from jaxdet.data.source import open_dataset
from jaxdet.evaluation.inputs import EvalInputs, GroundTruth
from jaxdet.evaluation.resampled import ResampledAP
from jaxdet.files import read_file

EQUAL = 1e-6
"""As near must the AP of the stored detections be to the reported one."""


class NotDrawnError(Exception):
    """Why a run's images cannot be drawn, in words that name no path."""


def with_draws(section: Section, count: int) -> Section:
    """The section with its runs' AP on each of `count` draws of the validation images."""
    drawn, truths = Drawn(count, {}, {}), {}
    for run in section.runs:
        try:
            truth = _truth(run, truths)
            draws = image_draws(len(truth.image_sizes), count)
            drawn.scores[run.folder] = _scores(run, truth, draws)
        except NotDrawnError as error:
            drawn.missing[run.folder] = str(error)
    return replace(section, drawn=drawn)


def _truth(run: Run, known: dict[str, GroundTruth]) -> GroundTruth:
    """The ground truth that a run was scored by; `known` keeps those that were read."""
    if run.evaluated_on["metric"] != "coco":
        raise NotDrawnError("images are drawn for COCO's metric alone")
    if run.detections_file is not None:
        raise NotDrawnError("the detections are from a file elsewhere")
    key = canonical({**run.evaluated_on, "kinds": list(run.scores)})
    if key not in known:
        try:
            data = ConfigDict(run.evaluated_on)
            document = open_dataset(data, "val", masks="segm" in run.scores).ground_truth()
            known[key] = GroundTruth(document, tuple(run.scores))
        # The data may have gone or changed since, in any way.
        except Exception as error:
            raise NotDrawnError("the annotations validated on are not where they were") from error
    return known[key]


def _scores(
    run: Run, truth: GroundTruth, draws: Int[np.ndarray, "draws images"]
) -> dict[str, np.ndarray]:
    limit = run.config["model"]["detector"]["detections"]
    scores = {}
    try:
        inputs = EvalInputs(truth, json.loads(read_file(run.folder / "detections.json")))
        for kind, reported in run.scores.items():
            resampled = ResampledAP(inputs, kind, max_detections=limit)
            again = resampled(np.ones(resampled.images, int))
            if not abs(again - (reported.coco["AP"] or 0.0)) <= EQUAL:
                raise NotDrawnError("detections.json does not give the AP of result.json")
            scores[kind] = np.array([resampled(times) for times in draws])
    except FileNotFoundError as error:
        raise NotDrawnError("there is no detections.json") from error
    except NotDrawnError:
        raise
    # As with a result, no damaged file may cost the report of all other runs.
    except Exception as error:
        raise NotDrawnError("detections.json cannot be read or is of other images") from error
    return scores
