"""The plan of a run: what it counts, and what it says where it cannot know."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from jaxdet.benchmark.complexity import forward_cost, total
from jaxdet.benchmark.cost.plan import describe_device, largest_batch, make_plan, report
from jaxdet.benchmark.cost.step import needed_flops
from jaxdet.models.build import parameter_count
from jaxdet.training.experiment import Experiment
from jaxdet.training.step import abstract_state
from tests.tiny import get_config


def small_config():
    """The tests' tiny detector in bfloat16, on data that cannot be opened."""
    config = get_config()
    config.data.name = "coco"
    config.model.dtype = "bfloat16"
    return config


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Of a config whose data cannot be opened, one image for each of the test's devices."""
    experiment = Experiment(small_config(), tmp_path_factory.mktemp("run") / "small")
    return make_plan(experiment, device_memory_gb=16.0, peak_tflops=100.0, utilisation=0.5)


def test_a_plan_needs_no_data(plan):
    assert plan.classes == "80 classes (as in COCO: the data cannot be opened)"


def test_memory_is_counted_by_kind(plan, tmp_path):
    experiment = Experiment(get_config(), tmp_path)
    state = abstract_state(experiment.stateless, experiment.optimizer)
    in_backbone = parameter_count(state["params"]["backbone"])
    assert plan.step.parameters["backbone"] == in_backbone

    count = sum(plan.step.parameters.values())
    # AdamW keeps two numbers a parameter; few others are kept beside.
    assert plan.step.state_bytes["parameters"] == pytest.approx(4 * count, rel=0.01)
    assert plan.step.state_bytes["optimizer state"] == pytest.approx(8 * count, rel=0.01)
    boxes, masks = 6 * (4 * 4 + 4 + 1), 6 * 28 * 28
    assert plan.step.batch_bytes == 64 * 64 * 3 + 2 * 4 + boxes + masks
    parts = sum(plan.step.state_bytes.values()) + plan.step.batch_bytes
    assert plan.step.total_bytes >= parts + plan.step.cost.temporary_bytes
    assert plan.step.total_bytes < 1.1 * (parts + plan.step.cost.temporary_bytes)


def test_flops_and_images_per_second(plan):
    config = small_config()
    one = total(forward_cost(config, 80, proposals=8, masks=2).values()).multiply_adds
    assert needed_flops(config, 80) == 6 * one
    assert plan.step_flops == 8 * 6 * one
    assert plan.images_per_second == pytest.approx(0.5 * 100e12 * jax.device_count() / (6 * one))
    # At this size norms, softmax, losses and the optimizer weigh as much as half the layers.
    assert 0.9 < plan.step.cost.flops * plan.devices / plan.step_flops < 1.6


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
    assert "small: 64 px, bfloat16, 80 classes" in text
    assert "8 = 8 cpu device(s) x 1 part(s) x 1 image(s)" in text
    assert "16 GB (--device_memory_gb): fits" in text
    assert "at a utilisation of 0.5 of 100 TFLOP/s a device (--peak_tflops)" in text


def test_devices_tell_what_they_are(monkeypatch):
    def found(kind, dtype="bfloat16", memory=None):
        device = SimpleNamespace(device_kind=kind, memory_stats=lambda: memory)
        monkeypatch.setattr(jax, "devices", lambda: [device])
        return describe_device(dtype, None, None)

    card = found("NVIDIA H100 80GB HBM3", memory={"bytes_limit": 60e9})
    assert (card.memory_bytes, card.peak_flops) == (60e9, 989e12)
    assert found("NVIDIA H100 PCIe").peak_flops == 756e12
    assert found("TPU v5 lite").peak_flops == 197e12
    assert found("TPU v5").peak_flops == 459e12
    unknown = found("cpu")
    assert unknown.memory_bytes == 80e9
    assert unknown.memory_source.startswith("assumed")
    assert unknown.peak_source.startswith("assumed")
    assert found("NVIDIA H100 80GB HBM3", dtype="float32").peak_flops is None
