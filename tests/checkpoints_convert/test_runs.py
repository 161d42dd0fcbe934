"""What the report on a run says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from checkpoints_convert.reading import Source
from checkpoints_convert.runs import _report, backbone_alone
from checkpoints_convert.tensors import of_array
from jaxdet.errors import UserError
from tests.tiny import get_config
from tests.weights import converted

STATE = {"backbone.blocks.0.kernel": of_array(np.ones(2, np.float32))}


def report_on(workdir):
    config = json.loads(get_config().to_json())
    return _report(workdir, STATE, config, {"bytes": 8, "sha256": "ab"}, ["cat", "dog"])


def test_a_run_s_classes_go_with_its_heads(tmp_path):
    report = report_on(tmp_path)
    assert report["classes"] == ["cat", "dog"]
    alone = backbone_alone(Source(Path("run.npz"), 8, "ab", STATE, [], report))
    assert "classes" not in alone.report


@pytest.mark.parametrize(
    ("start", "note"),
    [
        (None, "it started from no file of weights"),
        ([], "it started from no file of weights"),
        (converted.report(), "it started from mae.pth (MAE), sha256 abc123"),
        (
            {"source": {"file": "coco, step 9", "sha256": "ab"}, "classes": {}},
            "it started from coco, step 9 (a trained detector), sha256 ab",
        ),
        (
            {"source": {"file": "by_hand.npz", "sha256": ""}, "classes": {}},
            "it started from by_hand.npz (a trained detector)",
        ),
    ],
)
def test_a_report_says_what_the_run_started_from(tmp_path, start, note):
    if start is not None:
        (tmp_path / "init.json").write_text(json.dumps(start))
    report = report_on(tmp_path)
    assert report["notes"] == [note]
    assert (report["origin"] is None) == ("MAE" not in note)


def test_a_damaged_note_of_a_run_s_start_is_said(tmp_path):
    (tmp_path / "init.json").write_text("{")
    with pytest.raises(UserError, match=r"init\.json cannot be read .*; remove it"):
        report_on(tmp_path)
