"""The plan of a run: what it counts, and what it says where it cannot know."""

from __future__ import annotations

import dataclasses
import re

import jax
import pytest

from jaxdet.benchmark.cost.analytic import forward_cost, needed_flops, total
from jaxdet.benchmark.cost.plan import count_classes, largest_batch, make_plan, report
from jaxdet.benchmark.cost.step import fully_trained
from jaxdet.models.build import parameter_count
from jaxdet.training.experiment import Experiment
from tests.tiny import get_config


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    """Of tests/tiny.py, one image for each of the test's devices."""
    return Experiment(get_config(), tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture(scope="module")
def plan(experiment):
    return make_plan(experiment, device_memory_gb=16.0, peak_tflops=100.0, utilisation=0.5)


def test_a_plan_needs_no_data(tmp_path):
    config = get_config()
    config.data.name = "coco"
    source = "as in COCO: the data cannot be opened"
    assert count_classes(Experiment(config, tmp_path)) == (80, source)
    config.data.metric = "lvis"
    source = "as in LVIS: the data cannot be opened"
    assert count_classes(Experiment(config, tmp_path)) == (1203, source)


def test_memory_is_counted_by_kind(plan, experiment):
    params, _ = experiment.stateless.abstract
    parts = {name: parameter_count(part) for name, part in params.items()}
    assert plan.step.parameters == parts

    count = sum(parts.values())
    # AdamW keeps two numbers a parameter; few others are kept beside.
    assert plan.step.state_bytes["parameters"] == pytest.approx(4 * count, rel=0.01)
    assert plan.step.state_bytes["optimizer state"] == pytest.approx(8 * count, rel=0.01)
    boxes, masks = 6 * (4 * 4 + 4 + 1), 6 * (28 * 28 + 1)
    assert plan.step.batch_bytes == 64 * 64 * 3 + 2 * 4 + boxes + masks
    kept = sum(plan.step.state_bytes.values()) + plan.step.batch_bytes
    assert plan.step.total_bytes >= kept + plan.step.cost.temporary_bytes
    assert plan.step.total_bytes < 1.1 * (kept + plan.step.cost.temporary_bytes)


def test_flops_and_images_per_second(plan):
    rois = {"proposals": 8, "masks": 2, "own_masks": True}
    one = total(forward_cost(plan.config, 4, **rois).values()).multiply_adds
    assert needed_flops(plan.config, 4) == 6 * one
    assert plan.step_flops == 8 * 6 * one
    assert plan.images_per_second == pytest.approx(0.5 * 100e12 * jax.device_count() / (6 * one))
    # At this size norms, softmax, losses and the optimizer weigh as much as half the layers.
    assert 0.9 < plan.step.cost.flops * plan.devices / plan.step_flops < 1.6


def test_a_vit_that_is_not_trained_has_no_backward_pass(plan):
    held = plan.config.copy_and_resolve_references()
    held.optim.train = "heads"
    costs = forward_cost(held, 4, proposals=8, masks=2)
    spared = 4 * costs["backbone"].multiply_adds
    assert needed_flops(held, 4) == needed_flops(plan.config, 4) - spared
    assert fully_trained(held).optim.train == "all"
    assert fully_trained(plan.config) is None


def test_full_fine_tuning_stands_beside_a_frozen_vit(plan):
    assert "full fine-tuning" not in report(plan)
    step = dataclasses.replace(plan.step, total_bytes=3_000_000_000)
    text = report(plan._replace(full=(step, 2 * plan.step_flops)))
    assert re.search(r"full fine-tuning +would take 3 GB a device", text)
    assert "FLOPs a step, 2 times as many" in text


def test_the_largest_batch_is_where_the_line_meets_the_memory(plan):
    assert set(plan.fitted) == {1, 2}
    assert plan.fitted[1] == plan.step.total_bytes < plan.fitted[2]
    per_image = plan.fitted[2] - plan.fitted[1]
    most = plan.largest_batch
    assert plan.fitted[1] + (most - 1) * per_image <= 16e9 < plan.fitted[1] + most * per_image
    assert largest_batch({1: 10, 3: 30}, 59) == 5
    assert largest_batch({1: 10, 3: 30}, 60) == 6
    assert largest_batch({1: 10, 2: 12}, 7) == 0


def test_a_plan_reads_well(plan):
    text = report(plan)
    assert "tiny: 64 px, float32, 4 classes (of the data)" in text
    assert "8 = 8 cpu device(s) x 1 microbatch(es) x 1 image(s)" in text
    assert "16 GB (--device-memory-gb): fits" in text
    assert "at a utilisation of 0.5 of 100 TFLOP/s a device (--peak-tflops)" in text
