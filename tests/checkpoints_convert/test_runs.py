"""What the report on a run says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from checkpoints_convert.reading import Source
from checkpoints_convert.runs import _report, backbone_alone
from checkpoints_convert.tensors import of_array
from tests.tiny import get_config

STATE = {"backbone.blocks.0.kernel": of_array(np.ones(2, np.float32))}


def report_on(workdir):
    config = json.loads(get_config().to_json())
    return _report(workdir, STATE, config, {"bytes": 8, "sha256": "ab"}, ["cat", "dog"])


def test_a_run_s_classes_go_with_its_heads(tmp_path):
    report = report_on(tmp_path)
    assert report["classes"] == ["cat", "dog"]
    alone = backbone_alone(Source(Path("run.npz"), 8, "ab", STATE, [], report))
    assert "classes" not in alone.report
