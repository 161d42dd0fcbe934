"""Devices that are compiled for by name, and what is said where their compiler is absent."""

from __future__ import annotations

import importlib.util

import pytest

from jaxdet.benchmark.cost import targets
from jaxdet.benchmark.cost.targets import parse_target, require_compiler
from jaxdet.errors import UserError


@pytest.mark.parametrize(
    ("name", "platform", "kind", "count", "topology"),
    [
        ("h100", "cuda", "NVIDIA H100", 1, "1x1x1"),
        ("h100x8", "cuda", "NVIDIA H100", 8, "1x1x8"),
        ("a100x16", "cuda", "NVIDIA A100", 16, "1x2x8"),
        ("v5e-8", "tpu", "TPU v5 lite", 8, "v5e:2x4"),
        # Of a v5p slice, the cores are counted: two a chip, which is one device.
        ("v5p-64", "tpu", "TPU v5", 32, "v5p:2x4x4"),
        ("v6e-16", "tpu", "TPU v6 lite", 16, "v6e:4x4"),
    ],
)
def test_devices_have_names(name, platform, kind, count, topology):
    target = parse_target(name)
    found = (target.platform, target.accelerator.kind, target.count, target.topology)
    assert found == (platform, kind, count, topology)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("h100x12", "must have 1 to 8 cards, or a multiple of 8"),
        ("h100x0", "must have 1 to 8 cards"),
        ("v5e-9", "must be one of v5e-1, v5e-4, v5e-8"),
        ("v5p-9", "must be one of v5p-8, v5p-16"),
        ("v5e", "must be one of a100, h100"),
        ("h100-8", "must be one of a100, h100"),
        ("rtx", "must be one of a100, h100"),
    ],
)
def test_other_names_are_answered_with_the_rule(name, rule):
    with pytest.raises(UserError, match=rule):
        parse_target(name)


@pytest.mark.parametrize(("name", "extra"), [("h100", "plan-gpu"), ("v5e-8", "plan-tpu")])
def test_an_absent_compiler_is_named_with_its_extra(monkeypatch, name, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"pip install 'jaxdet\[{extra}\]'"):
        require_compiler(parse_target(name))


def test_every_target_has_its_facts():
    for name in [*targets._GPUS, *(f"{kind}-8" for kind in targets._TPU_TOPOLOGIES)]:
        assert parse_target(name).accelerator.source
