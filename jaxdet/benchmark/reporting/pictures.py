"""What runs found on single images: side by side, and their worst errors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from markupsafe import Markup

from jaxdet.benchmark.reporting.csv_text import csv_text
from jaxdet.benchmark.reporting.groups import RunGroup, Section
from jaxdet.benchmark.reporting.image_files import NoImageError, Opener, embedded, image_opener
from jaxdet.benchmark.reporting.inspection_file import (
    Box,
    Detection,
    InspectedImage,
    Inspection,
    Object,
)
from jaxdet.benchmark.reporting.panels import (
    CORRECT,
    MISSED,
    OBJECT,
    WRONG,
    Mark,
    again,
    image,
    overlap,
    panel,
)
from jaxdet.benchmark.reporting.text import ERROR_NAMES, grouped, initialisation_name
from jaxdet.evaluation.metric_names import RIGHT

COMPARED_IMAGES = 6
COMPARED_GROUPS = 5
SHOWN_ERRORS = 6
"""False positives, and as many misses, of each of COMPARED_GROUPS groups."""

PANEL, CROP = 480, 240
"""Pixels of the longer side of whole images and of what is cut out of them."""

CROP_TEXT = 8.0
"""Height of names in the latter, in hundredths of their longer side."""


class Panel(NamedTuple):
    """A picture with what is written above and below it."""

    title: str
    picture: Markup
    note: str


class Compared(NamedTuple):
    """An image: the ground truth, then what each group's first run found."""

    title: str
    panels: list[Panel]


class Worst(NamedTuple):
    """The worst errors of a group's first run, and of how many in all."""

    letter: str
    title: str
    false: list[Panel]
    false_count: int
    missed: list[Panel]
    missed_count: int

    @property
    def csv(self) -> str:
        kinds = {"false positive": self.false, "missed": self.missed}
        rows = [(kind, each.title, each.note) for kind in kinds for each in kinds[kind]]
        return csv_text([("error", "what", "about it"), *rows])


class Pictures(NamedTuple):
    """All of a section; `among` says which images of all, `missing` why there are no pictures."""

    compared: list[Compared]
    worst: list[Worst]
    among: str = ""
    missing: str = ""

    @property
    def csv(self) -> str:
        rows = [(one.title, each.title, each.note) for one in self.compared for each in one.panels]
        return csv_text([("image", "run", "found"), *rows])


Inspected = tuple[RunGroup, Inspection]


def pictures(section: Section) -> Pictures:
    """Of the groups whose first runs left an inspection, where the images are at hand."""
    groups = [(group, group.first.inspection) for group in section.groups]
    known = [(group, found) for group, found in groups if found][:COMPARED_GROUPS]
    if not known:
        return Pictures([], [])
    listed, validated = len(known[0][1].images), known[0][0].first.val_images
    among = f", of the first {grouped(listed)} images" if listed < validated else ""
    try:
        run = known[0][0].first
        opener = lru_cache(16)(image_opener(run.evaluated_on, run.val_annotations_sha256))
        compared = [
            _compared(f"image-{section.number}-{i}", opener, known, image_id)
            for i, image_id in enumerate(_most_different(known))
        ]
        return Pictures(compared, [_worst(opener, *each) for each in known], among)
    except NoImageError as error:
        return Pictures([], [], missing=f"No pictures: {error}.")


def _most_different(known: Sequence[Inspected]) -> list[int]:
    """The images on which the runs' shares of errors differ most; of equal ones, and of a single
    run, those with most errors."""

    def order(image_id: int) -> tuple[float, int, int]:
        images = [found.images[image_id] for _, found in known]
        errors = [len(each.wrong) + len(each.missed) for each in images]
        shares = [
            wrong / max(len(each.objects) + len(each.wrong), 1)
            for wrong, each in zip(errors, images, strict=True)
        ]
        return min(shares) - max(shares), -sum(errors), image_id

    shared = set.intersection(*(set(found.images) for _, found in known))
    return sorted(shared, key=order)[:COMPARED_IMAGES]


def _compared(identity: str, opener: Opener, known: Sequence[Inspected], image_id: int) -> Compared:
    images = [found.images[image_id] for _, found in known]
    first, names = images[0], known[0][1].categories
    height, width = first.hw
    window = (0, 0, width, height)
    whole = image(embedded(opener(first), PANEL), window, identity)
    title = first.file or f"image {image_id}"
    truth = [Mark(each.box, OBJECT, names[each.label]) for each in first.objects]
    panels = [
        Panel(
            "Ground truth",
            panel(whole, window, truth, f"{title}: the annotated objects"),
            _counted(len(truth), "object"),
        )
    ]
    for (group, _), found in zip(known, images, strict=True):
        name = f"{group.letter} {initialisation_name(group)}"
        right = len(found.detections) - len(found.wrong)
        note = f"{right} right, {len(found.wrong)} wrong, {len(found.missed)} missed"
        alt = f"{title}: what {name} found, {note}"
        panels.append(Panel(name, panel(again(identity), window, _found(found, names), alt), note))
    return Compared(title, panels)


def _found(found: InspectedImage, names: Sequence[str]) -> list[Mark]:
    """Those wrong with the best scores come last."""
    missed = [Mark(each.box, MISSED, names[each.label]) for each in found.missed]
    detected = sorted(found.detections, key=lambda each: (each.verdict != RIGHT, each.score))
    return [*missed, *(_detected(each, names) for each in detected)]


def _detected(found: Detection, names: Sequence[str]) -> Mark:
    kind = CORRECT if found.verdict == RIGHT else WRONG
    return Mark(found.box, kind, f"{names[found.label]} {found.score:.2f}")


def _worst(opener: Opener, group: RunGroup, inspection: Inspection) -> Worst:
    """False positives by score, and missed objects by their share of the image."""
    images = inspection.images.values()
    false = [(found, each) for found in images for each in found.wrong]
    missed = [(found, each) for found in images for each in found.missed]
    false.sort(key=lambda pair: -pair[1].score)
    missed.sort(key=lambda pair: -_share(*pair))
    names = inspection.categories
    return Worst(
        group.letter,
        f"{group.letter} {initialisation_name(group)}, {group.model}",
        [_false_panel(opener, *pair, names) for pair in false[:SHOWN_ERRORS]],
        len(false),
        [_missed_panel(opener, *pair, names) for pair in missed[:SHOWN_ERRORS]],
        len(missed),
    )


def _share(found: InspectedImage, each: Object) -> float:
    return each.box[2] * each.box[3] / (found.hw[0] * found.hw[1])


def _false_panel(
    opener: Opener, found: InspectedImage, wrong: Detection, names: Sequence[str]
) -> Panel:
    objects = [Mark(each.box, OBJECT, names[each.label]) for each in found.objects]
    title = f"{names[wrong.label]} {wrong.score:.2f}"
    error = ERROR_NAMES[wrong.verdict].lower()
    return _cropped(opener, found, wrong.box, [*objects, _detected(wrong, names)], title, error)


def _missed_panel(
    opener: Opener, found: InspectedImage, missed: Object, names: Sequence[str]
) -> Panel:
    detections = [_detected(each, names) for each in reversed(found.detections)]
    name = names[missed.label]
    share = f"{100 * _share(found, missed):.2g} % of the image"
    marks = [*detections, Mark(missed.box, MISSED, name)]
    return _cropped(opener, found, missed.box, marks, name, share)


def _cropped(
    opener: Opener,
    found: InspectedImage,
    box: Box,
    marks: Sequence[Mark],
    title: str,
    note: str,
) -> Panel:
    window = _window(box, found.hw)
    left, top, side_x, side_y = window
    cut = opener(found).crop((left, top, left + side_x, top + side_y))
    picture = image(embedded(cut, CROP), window)
    shown = [mark for mark in marks if overlap(mark.box, window)]
    name = found.file or f"image {found.image_id}"
    return Panel(
        title, panel(picture, window, shown, f"{title} on {name}: {note}", CROP_TEXT), note
    )


def _window(box: Box, hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """A square around a box with room on all sides, moved into the image and cut to it."""
    x, y, width, height = box
    side = round(min(max(1.5 * max(width, height), 48), max(hw)))
    left, top = (
        round(min(max(start + extent / 2 - side / 2, 0), max(whole - side, 0)))
        for start, extent, whole in ((x, width, hw[1]), (y, height, hw[0]))
    )
    return left, top, min(side, hw[1] - left), min(side, hw[0] - top)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
