"""What the charts of categories show."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.reporting.figures import category_gains, comparisons
from tests.benchmark.reporting.made_up import COCO, sections_of


def test_differences_by_category_are_the_largest(write):
    paths = [write("a", "vitb_random", 0.4), write("b", "vitb_mae", 0.5, seed=1)]
    (section,) = sections_of(*paths)
    ((base, other),) = comparisons(section)
    assert (base.initialisation, other.initialisation) == ("random", "mae")
    gains = category_gains(base, other, section.categories)
    assert len(gains) == 10
    before, after = (each.first.scores["bbox"].per_category for each in (base, other))
    every = sorted((100 * (after[name] - before[name]) for name in COCO), reverse=True)
    assert [gain for _, gain in gains] == pytest.approx(every[:5] + every[-5:])
