"""What is read of a run's metrics.jsonl."""

from __future__ import annotations

from jaxdet.benchmark.reporting.history import loss_curves


def test_all_losses_of_a_cascade_are_read_in_training_and_validation():
    parts = (
        "rpn_objectness",
        "rpn_box",
        "mask",
        *(f"{k}_{i}" for k in ("class", "box") for i in "123"),
    )
    names = ["loss", *(f"loss_{part}" for part in parts)]
    lines = [
        {"step": 10, **dict.fromkeys(names, 1.0)},
        {"step": 10, **dict.fromkeys((f"val/{name}" for name in names), 2.0)},
    ]
    curves = loss_curves(lines, 0.1)
    assert len(names) == 10
    assert curves == dict.fromkeys(names, ((1.0, 1.0),)) | {
        f"val/{name}": ((1.0, 2.0),) for name in names
    }
