"""What indexing an annotation file counts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """What indexing an annotation file found.

    Attributes:
        images: images listed.
        images_with_objects: those with an object to train on.
        objects: objects to train on.
        most_objects: the most of them in one image.
        crowds: crowd regions, kept for evaluation only.
        box_only: objects with a usable box that lack the usable mask they need.
        annotations: those with a usable box, of listed images.
        skipped: names of the annotations with a flaw, by its kind.
        repaired: names of the annotations that something was computed or read for, by its kind.
    """

    images: int = 0
    images_with_objects: int = 0
    objects: int = 0
    most_objects: int = 0
    crowds: int = 0
    box_only: int = 0
    annotations: int = 0
    skipped: dict[str, list[str]] = field(default_factory=dict)
    repaired: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, flaw: str, annotation: str) -> None:
        self.skipped.setdefault(flaw, []).append(annotation)

    def repair(self, repair: str, annotation: str) -> None:
        self.repaired.setdefault(repair, []).append(annotation)
