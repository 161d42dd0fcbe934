"""LVIS's recipe from annotations to numbers: a run that was stopped ends as one that was not."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxdet.config.lvis import make_lvis
from jaxdet.config.mask_rcnn import check
from jaxdet.data.shapes import ShapesDataset, write_coco
from jaxdet.errors import PreemptedError
from jaxdet.train import train
from jaxdet.training.checkpoint import open_latest
from jaxdet.training.experiment import Experiment
from tests.runs import logged, stop_after
from tests.tiny import get_config

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The shapes with LVIS's fields: one rare class, and one that each image may show unlisted."""
    folder = tmp_path_factory.mktemp("lvis")
    for split, count in (("train", 16), ("val", 8)):
        write_coco(ShapesDataset(split, count, 64), folder, split)
        path = folder / "annotations" / f"instances_{split}.json"
        document = json.loads(path.read_text())
        for category, frequency in zip(document["categories"], "rcff", strict=True):
            category["frequency"] = frequency
        ids = [category["id"] for category in document["categories"]]
        for image in document["images"]:
            image.update(neg_category_ids=ids[1:], not_exhaustive_category_ids=ids[:1])
        path.write_text(json.dumps(document))
    return folder


@pytest.fixture
def experiment(root, tmp_path):
    """Makes an experiment of LVIS's recipe, tiny, whose workdir has a name."""
    config = get_config()
    make_lvis(config)
    config.eval_every = config.epochs
    config.data.update(name="coco", root=str(root), repeat_threshold=0.9, max_instances=6)
    config.model.detector.update(federated_classes=3, detections=10, score_threshold=0.001)
    check(config)
    return lambda name: Experiment(config, tmp_path / name)


def weights(run: Experiment):
    with open_latest(run.checkpoint_folder) as (checkpoints, step):
        return jax.device_get(checkpoints.restore_model(step, run.stateless, run.mesh))


def test_a_run_on_lvis_resumes_to_the_same_end(experiment, monkeypatch):
    whole = experiment("whole")
    metrics = train(whole)
    assert {"AP", "APr", "APc", "APf", "AR@10"} <= metrics["bbox"].keys() & metrics["segm"].keys()
    assert all(0 <= metrics["bbox"][f"AP{frequency}"] <= 1 for frequency in "rcf")
    result = json.loads((whole.workdir / "result.json").read_text())
    assert result["evaluated_on"]["metric"] == "lvis"

    stopped = experiment("stopped")
    stop_after(monkeypatch, 1)
    with pytest.raises(PreemptedError, match="saved step 1 of 4"):
        train(stopped)
    monkeypatch.undo()
    stopped = experiment("stopped")
    np.testing.assert_equal(train(stopped), metrics)
    jax.tree.map(np.testing.assert_array_equal, weights(stopped), weights(whole))
    found, expected = (
        [(line["step"], line["loss"]) for line in logged(run.workdir)] for run in (stopped, whole)
    )
    assert found == expected
