"""Results of trials in a table beside the published ones."""

from __future__ import annotations

from jaxdet.benchmark.reference import find
from jaxdet.benchmark.trials.comparison import ComparedResult, markdown
from jaxdet.benchmark.trials.outcome import Outcome


def test_a_table_compares_with_what_is_published():
    mae = find("benchmark", "ViT-B", "mae", 50)
    single = find("benchmark", "ViT-L", "mae", 50, variant="single scale")
    lines = markdown(
        [
            ComparedResult("one", Outcome(0.5, 0.45), mae),
            ComparedResult("two", Outcome(0.5, 0.45), single),
            ComparedResult("three", Outcome(0.5, None), None),
            ComparedResult("four", Outcome(None, None, "training diverged"), mae),
        ],
        "scales",
    ).splitlines()
    assert lines[2:6] == [
        "| one | 50.0 | 50.1 [1] | -0.1 | 45.0 | 44.6 [1] | +0.4 |",
        "| two | 50.0 | 52.0 [2] | -2.0 | 45.0 | - | - |",
        "| three | 50.0 | - | - | - | - | - |",
        "| four | diverged | 50.1 [1] | - | diverged | 44.6 [1] | - |",
    ]
    assert lines[7].startswith("1. The numbers behind the curve of ViT-B from MAE")
    assert "box AP derived" in lines[8]
