"""What trials cost: by images/s, by FLOPs, and how much an epoch is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxdet.benchmark.cost.analytic import needed_flops
from jaxdet.benchmark.trials.cost import (
    Data,
    Speed,
    data_of,
    device_hours,
    expected_speed,
    plan_text,
    stage_cost,
    stated_speed,
)
from jaxdet.config.files import load_config

DATA = Data(train_images=7200, classes=80, source="counted")


@pytest.fixture(scope="module")
def vitb():
    config = load_config(Path("configs/vitb_mae.py"))
    config.epochs = 25.0
    return config


def test_cost_by_images_per_second(vitb):
    speed = stated_speed(10.0, vitb, 80)
    assert device_hours(vitb, DATA, speed) == pytest.approx(25 * 7200 / 10 / 3600)
    dearer = vitb.copy_and_resolve_references()
    dearer.model.vit.global_blocks = tuple(range(12))
    factor = needed_flops(dearer, 80) / needed_flops(vitb, 80)
    assert factor > 1.2
    assert device_hours(dearer, DATA, speed) == pytest.approx(5 * factor)


def test_cost_by_flops(vitb):
    speed = expected_speed("NVIDIA A100-SXM4-80GB", "bfloat16", None, 0.5)
    seconds = 25 * 7200 * needed_flops(vitb, 80) / (0.5 * 312e12)
    assert device_hours(vitb, DATA, speed) == pytest.approx(seconds / 3600)
    assert "0.5 of 312 TFLOP/s a device (this NVIDIA A100" in speed.source
    assert expected_speed(None, "bfloat16", 100.0, 0.4).flops == pytest.approx(0.4 * 100e12)
    assert "assumed, NVIDIA H100's" in expected_speed(None, "bfloat16", None, 0.4).source


def test_an_unknown_cost_is_reported_as_such(vitb):
    speed = expected_speed("cpu", "float32", None, 0.4)
    assert device_hours(vitb, DATA, speed) is None
    text = plan_text([stage_cost("grid", [vitb, vitb], DATA, speed)], DATA, speed)
    assert text.count("unknown") == 2
    assert "no peak is listed for float32" in text


def test_a_plan_adds_up(vitb):
    rows = [
        stage_cost(stage, [vitb] * count, DATA, stated_speed(10.0, vitb, 80))
        for stage, count in (("grid", 9), ("final", 1))
    ]
    assert [row.hours for row in rows] == [pytest.approx(45), pytest.approx(5)]
    lines = plan_text(rows, DATA, Speed(1.0, "as given")).splitlines()
    assert [line.split() for line in lines[1:4]] == [
        ["grid", "9", "25", "45"],
        ["final", "1", "25", "5"],
        ["in", "all", "10", "50"],
    ]
    assert lines[4] == "an epoch is 7,200 images (counted)"


def test_an_epoch_is_counted_where_the_data_can_be_opened():
    config = load_config(Path("tests/tiny.py"))
    assert data_of(config)[0] == 16
    config = load_config(Path("configs/vitb_mae.py"))
    assert data_of(config)[:2] == (117_266, 80)
    config.data.metric = "lvis"
    assert data_of(config)[:2] == (99_388, 1203)


def test_only_all_of_coco_is_what_published_results_are_of():
    assert Data(117_266, 80, "counted").is_coco
    assert not Data(117_266, 20, "counted").is_coco
    assert not Data(11_700, 80, "counted").is_coco
