"""What a step takes on devices that are not there, where their compilers are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import pytest

from jaxdet.benchmark.cost import bound as bounds
from jaxdet.benchmark.cost.bound import as_json, find_bound, largest, report
from jaxdet.benchmark.cost.targets import parse_target
from jaxdet.errors import UserError
from jaxdet.main import main
from tests.conftest import REPOSITORY
from tests.tiny import get_config

COMPILERS = [
    pytest.param(
        "h100",
        marks=pytest.mark.skipif(
            not (find_spec("jax_plugins") and find_spec("jax_plugins.xla_cuda12")),
            reason="the extra plan-gpu is not installed",
        ),
    ),
    pytest.param(
        "v5e-8",
        marks=pytest.mark.skipif(
            not find_spec("libtpu"), reason="the extra plan-tpu is not installed"
        ),
    ),
]


SMALLEST = """from tests import tiny

def get_config():
    config = tiny.get_config()
    config.batch_size = config.eval_batch_size = 8
    config.model.dtype = "bfloat16"
    config.model.vit.update(depth=1, global_blocks=(0,), out_indices=(0,))
    config.model.pyramid.kind = "single"
    config.model.heads.mask = False
    config.model.detector.strides = (16,)
    return config
"""
"""A detector with one block, a single level of features and no masks: little to compile."""


@pytest.mark.parametrize("device", COMPILERS)
def test_a_step_is_compiled_for_devices_that_are_not_there(device, tmp_path):
    (tmp_path / "smallest.py").write_text(SMALLEST, encoding="utf-8")
    command = [sys.executable, "-m", "jaxdet", "plan", f"--config={tmp_path}/smallest.py"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [*command, f"--device={device}", "--json"],
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, target = json.loads(done.stdout), parse_target(device)
    assert found["fits"]
    assert found["devices"] * found["images_a_device"] == 8
    memory = found["memory"]
    assert memory["parameters"] + memory["optimizer state"] < found["total_bytes"]
    assert found["total"]["flops"] > 0
    assert found["images_per_second"] == pytest.approx(
        found["images_a_device"] / found["total"]["seconds"]
    )
    for part in ("backbone attention", "RPN", "heads", "optimizer", "RoIAlign backward"):
        assert found["parts"][part]["launches"] > 0, part
    reduced = sum(one["bytes"] for one in found["collectives"])
    # Gradients are as many numbers as parameters, of two bytes or four.
    assert reduced == 0 if target.count == 1 else reduced >= memory["parameters"] / 2


def test_the_batch_divides_over_the_devices():
    rule = r"config.batch_size=8 must be a multiple of 32: 32 device\(s\) of --device=v5p-64"
    with pytest.raises(UserError, match=rule):
        find_bound("tiny", get_config(), 4, parse_target("v5p-64"))


def test_what_the_compiler_gives_up_on_does_not_fit(monkeypatch):
    def gives_up(*arguments, **options):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm."
        )

    monkeypatch.setattr(bounds, "compile_step", gives_up)
    monkeypatch.setattr(bounds, "absent_mesh", lambda target: SimpleNamespace())
    found = find_bound("tiny", get_config(), 4, parse_target("v5e-8"))
    assert not found.fits
    assert found.total_bytes == 20.5 * 2**30
    assert "22 GB a device, which has 16.9 GB: does not fit" in report(found)
    assert as_json(found)["total"] is None
    beside = found._replace(full=found._replace(total_bytes=None))
    assert re.search(r"full fine-tuning +needs more memory than a device has\n", report(beside))


@pytest.mark.parametrize("most", [0, 1, 2, 5, 8, 13])
@pytest.mark.parametrize("start", [1, 4, 16])
def test_the_largest_batch_is_found_by_bisection(most, start):
    asked = []

    def fits(images: int) -> bool:
        asked.append(images)
        return images <= most

    assert largest(fits, start, {start: start <= most}) == most
    assert len(asked) == len(set(asked)) <= 7


def test_a_bound_reads_well(monkeypatch):
    """Of a program that is one reduction of 4 KB over eight devices."""
    text = """HloModule step

ENTRY %main (g: f32[1024]) -> f32[1024] {
  %g = f32[1024]{0} parameter(0)
  ROOT %sum = f32[1024]{0} all-reduce(%g), replica_groups={}, to_apply=%add
}
"""
    step = SimpleNamespace(
        compiled=SimpleNamespace(as_text=lambda: text),
        state_bytes={"parameters": 4096},
        batch_bytes=100,
        temporary_bytes=2 * 10**9,
        total_bytes=3 * 10**9,
    )
    monkeypatch.setattr(bounds, "compile_step", lambda *arguments, **options: step)
    monkeypatch.setattr(bounds, "absent_mesh", lambda target: SimpleNamespace())
    found = find_bound("tiny", get_config(), 4, parse_target("h100x8"))
    lines = report(found)
    assert "8 x NVIDIA H100, each 989 TFLOP/s in bfloat16, 3352 GB/s, 80 GB" in lines
    assert "8 = 8 device(s) x 1 microbatch(es) x 1 image(s)" in lines
    assert "memory: temporary   2 GB a device" in lines
    assert "3 GB a device, which has 80 GB: fits" in lines
    assert "all-reduce f32      1 of 0.004096 MB together" in lines
    assert "A bound from the compiled program and the makers' figures, not a measurement." in lines
    assert as_json(found)["collectives"] == [
        {"kind": "all-reduce", "dtype": "f32", "count": 1, "bytes": 4096}
    ]


def test_flags_for_absent_devices_need_one(capsys):
    assert main(["--json"], "plan") == 2
    assert "--json are for absent devices; add --device=NAME" in capsys.readouterr().err
