"""A finished run, as its workdir describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdet.benchmark.reporting.inspection_file import Inspection
from jaxdet.evaluation.metric_names import MAIN_ERRORS, SPECIAL_ERRORS

TIDE_ERRORS = (*MAIN_ERRORS, *SPECIAL_ERRORS)

Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Scores:
    """What COCO and TIDE say of a run's boxes or masks, in 0..1; None where nothing is to be found.

    Attributes:
        coco: "AP", "AP50" ... as `evaluate_coco` names them.
        per_category: AP by category name, in the data set's order.
        tide: absolute AP (at IoU .5) lost to each of TIDE_ERRORS.
    """

    coco: Numbers
    per_category: Numbers
    tide: Numbers


@dataclass(frozen=True)
class EvalPoint:
    """AP at an evaluation during training, in 0..1."""

    epoch: float
    box: float | None
    mask: float | None


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its workdir.
        config: complete, as JSON values; keys newer than the run have their default.
        config_sha256: of the config as the run wrote it.
        checkpoint_sha256: of the evaluated arrays, or of the file of detections.
        detections_file: the name of the file of detections that was scored in place of a detector;
            its config describes the data alone.
        epochs: trained; None where weights were evaluated that this run did not train.
        scores: by IoU type, at least one.
        few_shot: AP of base and novel classes, such as "novel_bbox"; empty where there are none.
        init: "file" and "sha256" of the pre-trained weights, where known.
        evaluated_on: config.data at the evaluation.
        train_images, val_images: how many; None where this run did not train.
        train_annotations_sha256, val_annotations_sha256: of the annotation files; None where there
            are none, or an older version wrote the result.
        validated_on_training_images: whether the same images trained and validated.
        history: in the order of the epochs.
        train_rate, eval_rate: images/s.
        losses: by name, (epoch, loss) in the order of the epochs; see `history.loss_curves`.
        inspection: what its inspection.json holds; None where there is none of this result.
        memory_gb: peak of a device in training, 10^9 bytes.
    """

    folder: Path
    config: dict[str, Any]
    config_sha256: str
    checkpoint_sha256: str
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
    val_images: int
    history: tuple[EvalPoint, ...]
    train_rate: float | None
    eval_rate: float | None
    memory_gb: float | None
    train_annotations_sha256: str | None = None
    val_annotations_sha256: str | None = None
    validated_on_training_images: bool = False
    losses: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    inspection: Inspection | None = None

    @property
    def categories(self) -> list[str]:
        """Names, in the data set's order."""
        return list(next(iter(self.scores.values())).per_category)


@dataclass(frozen=True)
class SkippedRun:
    """A run that is not reported, and why, in one sentence without a full stop."""

    folder: Path
    reason: str

    @property
    def reason_without_path(self) -> str:
        """The reason with the folder's name in place of its path, if it has a name."""
        name = self.folder.name
        return self.reason.replace(str(self.folder), name) if name else self.reason
