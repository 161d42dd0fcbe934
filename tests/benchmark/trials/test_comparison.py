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


def test_seeds_are_a_mean_with_its_deviation_and_how_many_they_are():
    diverged = Outcome(None, None, "training diverged")
    first, second, third = (Outcome(ap, None) for ap in (0.50, 0.52, 0.54))
    mae = find("benchmark", "ViT-B", "mae", 50)
    lines = markdown(
        [
            ComparedResult("three", first, mae, (second, third)),
            ComparedResult("two", first, None, (diverged, third)),
            ComparedResult("one", first, None, (diverged,)),
            ComparedResult("none", diverged, None, (diverged,)),
        ],
        "epochs",
    ).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:6]] == [
        "52.0 ± 2.0 (n 3)",
        "52.0 ± 2.8 (n 2, 1 diverged)",
        "50.0 (n 1, 1 diverged)",
        "diverged",
    ]
    assert lines[2].split(" | ")[3] == "+1.9"
