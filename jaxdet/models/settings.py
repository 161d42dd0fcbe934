"""The numbers of Mask R-CNN that are not learned, as the detector takes them."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxdet.config.keys import Detector


@dataclass(frozen=True)
class Settings(Detector):
    """`config.model.detector`, with the number of classes, which follows from the data."""

    num_classes: int = field(kw_only=True)

    @property
    def level_anchor_sizes(self) -> tuple[tuple[float, ...], ...]:
        """The sizes of the anchors on each level."""
        if len(self.strides) == 1:
            return (self.anchor_sizes,)
        return tuple((size,) for size in self.anchor_sizes)

    @property
    def anchors_per_cell(self) -> int:
        """How many anchors a location of a level has."""
        return len(self.level_anchor_sizes[0]) * len(self.aspect_ratios)
