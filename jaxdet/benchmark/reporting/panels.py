"""Pictures with boxes over them, as SVG: what is right, wrong and missed differs in its line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from jaxdet.benchmark.reporting.inspection_file import Box

TEXT = 4.6
"""Height of a name in hundredths of the picture's longer side, unless another is given."""

LETTER = 0.62
"""Mean width of a letter, as a share of that."""

OBJECT, CORRECT, WRONG, MISSED = "object", "correct", "wrong", "missed"


class Mark(NamedTuple):
    """A box, its kind (OBJECT, CORRECT, WRONG, MISSED), and its name."""

    box: Box
    kind: str
    name: str


def panel(
    picture: Markup, window: Box, marks: Sequence[Mark], alt: str, text: float = TEXT
) -> Markup:
    """Marks over a picture, of which the window is shown.

    Args:
        picture: an image or the use of one, in pixels of the original.
        marks: the most important last; where names would overlap, theirs are written. A pointer
            shows all.
        alt: what it says to those who do not see it.
    """
    size = text * max(window[2:]) / 100
    boxes, names, taken = [], [], []
    for mark in marks:
        place = Markup('x="{:g}" y="{:g}" width="{:g}" height="{:g}"').format(*mark.box)
        boxes.append(
            Markup(
                '<g class="mark {}"><title>{}</title><rect class="under" {}/><rect {}/></g>'
            ).format(mark.kind, mark.name, place, place)
        )
    for mark in reversed(marks):
        place = _place(mark, window, size, taken)
        if place is not None:
            taken.append(place)
            names.append(
                Markup(
                    '<text class="name" x="{:.1f}" y="{:.1f}" font-size="{:.1f}">{}</text>'
                ).format(place[0], place[1] + 0.8 * size, size, mark.name)
            )
    return Markup(
        '<svg class="panel" viewBox="{} {} {} {}" role="img" aria-label="{}">{}{}{}</svg>'
    ).format(*(f"{edge:g}" for edge in window), alt, picture, *map(Markup("").join, (boxes, names)))


def _place(mark: Mark, window: Box, size: float, taken: Sequence[Box]) -> Box | None:
    """Where a name is written: above its box, in it, or below; None where others are."""
    left, top, extent, height = window
    x, y, _, box_height = mark.box
    width = LETTER * size * len(mark.name)
    start = max(left + 0.3 * size, min(x + 0.2 * size, left + extent - width))
    for level in (y - 1.15 * size, y + 0.2 * size, y + box_height + 0.1 * size):
        place = (start, level, width, size)
        is_inside = top <= level <= top + height - size
        if is_inside and not any(overlap(place, other) for other in taken):
            return place
    return None


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share any area."""
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (0, 1))


def image(address: str, box: Box, identity: str = "") -> Markup:
    """A picture in its place; what shows it `again` names its identity."""
    name = Markup('id="{}" ').format(identity) if identity else ""
    return Markup(
        '<image {}href="{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}" '
        'preserveAspectRatio="none"/>'
    ).format(name, address, *box)


def again(identity: str) -> Markup:
    """A picture that stands in the page already."""
    return Markup('<use href="#{}"/>').format(identity)
