"""Doubts about a COCO file as a whole: what it lists and does not annotate."""

from __future__ import annotations

from collections.abc import Sequence

from jaxdet.data.doubts import EXAMPLES, Doubt
from jaxdet.data.findings import Findings

MANY_CROWDS = 0.2
"""Share of crowd regions among annotations that no set means; COCO has a hundredth."""


def file_doubts(
    report: Findings,
    unused_categories: Sequence[str],
    background: Sequence[str],
    respelled: Sequence[tuple[str, str]],
    group: str | None,
) -> list[Doubt]:
    """Doubts about the counts of a file.

    Args:
        unused_categories: names of those without an object to train on.
        background: file names of images without any annotation.
        respelled: names of image files as listed and as they are on the disk.
        group: the name of the grouping category that was left out.
    """
    doubts = _nothing_to_train_on(report, len(background))
    if report.objects and report.crowds > MANY_CROWDS * report.annotations:
        doubts.append(
            Doubt(
                f"{report.crowds} of {report.annotations} annotations are crowd regions "
                "(iscrowd 1), which are not trained on",
                "if they are single objects, set iscrowd to 0",
            )
        )
    if report.objects and report.box_only:
        doubts.append(
            Doubt(
                f"{report.box_only} of {report.annotations} annotations have a box and no usable "
                "mask",
                "they are trained on where config.model.heads.mask=False alone",
            )
        )
    if report.objects and unused_categories:
        claim = f"{len(unused_categories)} categories have no object to train on"
        doubts.append(Doubt(claim, examples=_first(unused_categories)))
    if report.objects and background:
        claim = f"{len(background)} of {report.images} images have no annotation"
        fix = "config.data.empty_images is the share of them that is trained on as background"
        doubts.append(Doubt(claim, fix, _first(background)))
    if respelled:
        examples = _first([f"{listed!r} is {found!r}" for listed, found in respelled])
        claim = f"{len(respelled)} image files are spelled otherwise than listed, and used"
        doubts.append(Doubt(claim, examples=examples))
    if group is not None:
        doubts.append(
            Doubt(f"the category {group!r} has no objects and groups the others: left out")
        )
    for repair, names in report.repaired.items():
        doubts.append(Doubt(f"{len(names)} annotations with {repair}", examples=_first(names)))
    return doubts


def _nothing_to_train_on(report: Findings, unannotated: int) -> list[Doubt]:
    """Why a file has no object to train on, where it has none."""
    if report.objects:
        return []
    if report.crowds and report.crowds == report.annotations:
        claim = f"all {report.crowds} annotations are crowd regions (iscrowd 1)"
        return [Doubt(claim, "set iscrowd to 0 for single objects", is_error=True)]
    if report.box_only:
        claim = f"none of {report.annotations} annotations has a usable mask"
        fix = "train a detector of boxes: config.model.heads.mask=False"
        return [Doubt(claim, fix, is_error=True)]
    if report.annotations:
        claim = f"none of {report.annotations} annotations can be trained on"
        return [Doubt(claim, "correct what is counted as skipped", is_error=True)]
    if report.images and unannotated == report.images:
        claim = "no image has an annotation: there is nothing to train on or to score"
        return [Doubt(claim, "give the file with annotations", is_error=True)]
    return []  # errors of single entries say why


def _first(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(names[:EXAMPLES])
