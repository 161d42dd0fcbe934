"""Few-shot detection: a run on base classes, then one on all of them that starts from it."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest

from jaxdet.config.imted import ENCODER, few_shot, few_shot_base
from jaxdet.config.mask_rcnn import check
from jaxdet.config.shapes import shrink_for_shapes
from jaxdet.data.fewshot import main as make_few_shot
from jaxdet.data.shapes import main as write_shapes
from jaxdet.errors import UserError
from jaxdet.evaluation.scoring import split_ap
from jaxdet.models.paths import path_name
from jaxdet.train import train
from jaxdet.training.checkpoint import Checkpoints
from jaxdet.training.experiment import Experiment
from jaxdet.training.fine_tune import start_from_detector
from jaxdet.training.optim import is_frozen
from jaxdet.training.transfer import move_classes, start_from_base_run
from tests.tiny import get_config

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    shapes = folder / "shapes"
    assert (
        write_shapes([str(shapes), "--train-images=16", "--val-images=8", "--image-size=64"]) == 0
    )
    arguments = [f"--root={shapes}", "--novel=box", "--shots=3", str(folder / "sets")]
    assert make_few_shot(arguments) == 0
    return folder / "sets"


def small(config):
    """Small enough to compile in seconds; 8 images a step, one for each test device."""
    shrink_for_shapes(config)
    config.batch_size = config.eval_batch_size = 8
    config.model.vit.update(width=16, depth=1, heads=2, global_blocks=(0,), out_indices=(0,))
    config.model.decoder.update(width=16, depth=1)
    config.model.pyramid.channels = 8
    config.model.detector.update(
        train_pre_nms=30, train_post_nms=20, test_pre_nms=30, test_post_nms=20, roi_batch=8
    )
    config.few_shot.novel = ("box",)
    config.log_every_steps = 1
    config.epochs = config.eval_every = config.checkpoint_every = 2.0
    return config


def base_config(data):
    config = small(few_shot_base("s", drop_path=0.0))
    config.data.root = str(data / "base")
    check(config)
    return config


def few_config(data, base_run):
    config = small(few_shot("s", shots=3, drop_path=0.0))
    config.data.root = str(data / "3shot_seed0")
    config.few_shot.base_run = str(base_run)
    check(config)
    return config


@pytest.fixture(scope="module")
def base_run(data, tmp_path_factory):
    experiment = Experiment(base_config(data), tmp_path_factory.mktemp("base") / "work")
    return experiment, train(experiment)


@pytest.fixture(scope="module")
def fine_tuned(data, base_run, tmp_path_factory):
    config = few_config(data, base_run[0].workdir)
    experiment = Experiment(config, tmp_path_factory.mktemp("tuned") / "work")
    return experiment, train(experiment)


def weights(experiment):
    """Parameters and batch statistics of a run's end, by name."""
    with Checkpoints(experiment.checkpoint_folder) as checkpoints:
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one),
            dict(zip(("params", "stats"), experiment.stateless.abstract, strict=True)),
        )
        state = checkpoints.restore(checkpoints.latest, target)
    return [
        {path_name(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (state["params"], state["stats"])
    ]


def test_the_frozen_parameters_are_bit_identical_and_all_others_move(base_run, fine_tuned):
    (before, stats), (after, new_stats) = weights(base_run[0]), weights(fine_tuned[0])
    assert before.keys() == after.keys()
    frozen = {name for name in before if is_frozen(name, ENCODER)}
    assert {"backbone.pos_embed", "pyramid.up4_norm.scale", "pyramid.up2.kernel"} <= frozen
    for name in frozen | {"box_head.pos_embed"}:
        assert before[name].tobytes() == after[name].tobytes(), name
    for name in before.keys() - frozen - {"box_head.pos_embed"}:
        assert before[name].shape != after[name].shape or (before[name] != after[name]).any(), name
    # As in the published code, where "frozen" means parameters.
    assert all((stats[name] != new_stats[name]).any() for name in stats)


def test_base_and_novel_ap_are_reported(base_run, fine_tuned, capsys):
    metrics = fine_tuned[1]
    per_category = metrics["bbox"]["per_category"]
    split = metrics["few_shot"]
    assert "segm" not in metrics
    assert split["novel_bbox"] == pytest.approx(per_category["box"])
    others = [per_category[name] for name in ("disc", "triangle", "star")]
    assert split["base_bbox"] == pytest.approx(np.mean(others))
    assert split["overall_bbox"] == pytest.approx(metrics["bbox"]["AP"])
    result = json.loads((fine_tuned[0].workdir / "result.json").read_text())
    assert result["metrics"]["few_shot"]["base_bbox"] == pytest.approx(split["base_bbox"])
    assert np.isnan(base_run[1]["few_shot"]["novel_bbox"])
    assert all("segmentation" not in entry for entry in found(fine_tuned[0]))


def found(experiment):
    return json.loads((experiment.workdir / "detections.json").read_text())


def test_classes_move_by_their_id():
    def head(classes, start):
        rng = np.random.default_rng(start)

        def normal(shape):
            return rng.normal(size=shape).astype(np.float32)

        return {
            "backbone": {"kernel": normal(3)},
            "box_head": {
                "embed": {"kernel": normal((2, 2))},
                "logits": {
                    "kernel": normal((2, classes + 1)),
                    "bias": normal(classes + 1),
                },
                "deltas": {"kernel": normal((2, 4 * classes))},
            },
            "mask_head": {"logits": {"kernel": normal((1, 1, 2, classes))}},
        }

    base, fresh = head(2, 0), head(4, 1)
    for keep_deltas in (False, True):
        moved = move_classes(base, fresh, [10, 30], [5, 10, 20, 30], keep_deltas)
        equal = np.testing.assert_array_equal
        equal(moved["backbone"]["kernel"], base["backbone"]["kernel"])
        equal(moved["box_head"]["embed"]["kernel"], base["box_head"]["embed"]["kernel"])
        old, new, result = (p["box_head"]["logits"]["kernel"] for p in (base, fresh, moved))
        equal(result[:, [1, 3, 4]], old[:, [0, 1, 2]])  # two classes and background
        equal(result[:, [0, 2]], new[:, [0, 2]])
        old, new, result = (p["mask_head"]["logits"]["kernel"] for p in (base, fresh, moved))
        equal(result[..., [1, 3]], old)
        equal(result[..., [0, 2]], new[..., [0, 2]])
        old, new, result = (
            p["box_head"]["deltas"]["kernel"].reshape(2, -1, 4) for p in (base, fresh, moved)
        )
        equal(result[:, [0, 2]], new[:, [0, 2]])
        equal(result[:, [1, 3]], old if keep_deltas else new[:, [1, 3]])


def test_classes_move_in_every_stage_of_a_cascade():
    """Its boxes are of no class."""

    def stage(classes, start):
        logits = start + np.arange(classes + 1, dtype=np.float32)
        return {"logits": {"bias": logits}, "deltas": {"bias": start + np.arange(4.0)}}

    base, fresh = ({"box_head": {0: stage(n, s), 1: stage(n, s)}} for n, s in ((2, 0), (3, 50)))
    for keep_deltas in (False, True):
        moved = move_classes(base, fresh, [10, 30], [10, 20, 30], keep_deltas)["box_head"]
        for each in moved.values():
            np.testing.assert_array_equal(each["logits"]["bias"], [0, 51, 1, 2])
            start = 0 if keep_deltas else 50
            np.testing.assert_array_equal(each["deltas"]["bias"], start + np.arange(4))


def test_a_run_starts_another_by_the_names_of_its_classes(data, base_run, tmp_path, capsys):
    """Category ids are renumbered: 1 is no longer the class that it was."""
    root = tmp_path / "set"
    shutil.copytree(data / "3shot_seed0", root)
    for file in root.glob("annotations/instances_*.json"):
        document = json.loads(file.read_text())
        for entry in document["categories"]:
            entry["id"] = 100 - entry["id"]
        for entry in document["annotations"]:
            entry["category_id"] = 100 - entry["category_id"]
        file.write_text(json.dumps(document))
    config = few_config(data, None)
    config.few_shot.base_run, config.init_from = None, str(base_run[0].workdir)
    config.data.root = str(root)
    experiment = Experiment(config, tmp_path / "tuned")
    fresh = [
        jax.tree.map(lambda leaf: np.full(leaf.shape, -7, leaf.dtype), tree)
        for tree in experiment.stateless.abstract
    ]
    params, stats, origin = start_from_detector(experiment, *fresh)
    old, old_stats = weights(base_run[0])
    names = [category.name for category in experiment.val_set.categories]
    base_names = [category.name for category in base_run[0].val_set.categories]
    assert set(names) - set(base_names) == {"box"}
    logits = params["box_head"]["logits"]["bias"]
    for place, name in enumerate(names):
        expected = -7 if name == "box" else old["box_head.logits.bias"][base_names.index(name)]
        assert logits[place] == expected, name
    assert origin["classes"]["new"] == ["box"]
    assert set(origin["classes"]["moved"]) | set(origin["classes"]["kept"]) == set(base_names)
    assert origin["new_arrays"] == []
    for tree, stored in ((params, old), (stats, old_stats)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = path_name(path)
            assert ".logits." in name or ".deltas." in name or (leaf == stored[name]).all(), name
    assert "classes by name" in capsys.readouterr().out


def test_a_base_run_that_does_not_fit_is_rejected(data, base_run, tmp_path):
    with pytest.raises(UserError, match=r"checkpoints does not exist; give the --workdir"):
        start_from_base_run(Experiment(few_config(data, tmp_path / "none"), tmp_path / "one"), {})
    config = few_config(data, base_run[0].workdir)
    config.model.vit.heads = 4
    with pytest.raises(UserError, match=r"config\.model\.vit\.heads was 2 and is now 4"):
        start_from_base_run(Experiment(config, tmp_path / "two"), {})


def test_ap_of_base_and_novel_classes_and_of_unknown_ones():
    per_category = {"disc": 0.5, "box": 0.25, "star": float("nan")}
    assert split_ap(per_category, ["box"])["novel"] == 0.25
    assert split_ap(per_category, ["box"])["base"] == 0.5
    assert np.isnan(split_ap(per_category, ["star"])["novel"])
    assert np.isnan(split_ap(per_category, ["moon"])["novel"])
    with pytest.raises(UserError, match=r"config\.few_shot\.novel names 'moon'"):
        split_ap(per_category, ["moon", "box"])


def test_a_misspelt_novel_class_stops_a_run_before_it_starts(tmp_path):
    config = get_config()
    config.few_shot.novel = ("star", "moon")
    with pytest.raises(UserError, match=r"config\.few_shot\.novel names 'moon'"):
        train(Experiment(config, tmp_path))
    assert not (tmp_path / "checkpoints").exists()
