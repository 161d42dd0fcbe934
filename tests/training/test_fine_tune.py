"""A training that starts from a trained detector of other classes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdet.config.mask_rcnn import check
from jaxdet.data.coco_annotations import Category
from jaxdet.errors import UserError
from jaxdet.training.experiment import Experiment
from jaxdet.training.fine_tune import (
    Trained,
    _check_same_vit,
    _config_of_run,
    fit_arrays,
    start_from_detector,
)
from jaxdet.weights.classes import COCO_CLASSES, match_classes
from tests.tiny import get_config
from tests.weights.converted import report, save


def arrays(classes, start=0):
    """What stands for a detector of so many classes, by path."""

    def numbered(*shape):
        return (start + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)

    return {
        "backbone.pos_embed": numbered(2, 2),
        "rpn.bias": numbered(3),
        "box_head.logits.bias": numbered(classes + 1),
        "box_head.deltas.bias": numbered(4 * classes),
        "mask_head.logits.bias": numbered(classes),
    }


def nested(flat):
    tree = {}
    for path, value in flat.items():
        *parts, leaf = path.split(".")
        section = tree
        for part in parts:
            section = section.setdefault(part, {})
        section[leaf] = value
    return tree


def experiment(init_from, names):
    config = get_config()
    config.init_from = str(init_from)
    categories = [Category(number, name) for number, name in enumerate(names, 1)]
    return SimpleNamespace(config=config, val_set=SimpleNamespace(categories=categories))


def test_a_converted_detector_starts_a_training_on_other_classes(tmp_path, capsys):
    path = tmp_path / "detector.npz"
    old, new = arrays(80), arrays(3, start=1000)
    save(path, old | {"rpn.bias": np.zeros(5, np.float32), "rpn.gain": np.ones(2, np.float32)})
    stats = {"box_head": {"mean": np.zeros(2, np.float32)}}
    params, kept_stats, origin = start_from_detector(
        experiment(path, ["dog", "Person", "wombat"]), nested(new), stats
    )
    dog = COCO_CLASSES.index("dog")
    np.testing.assert_array_equal(params["backbone"]["pos_embed"], old["backbone.pos_embed"])
    np.testing.assert_array_equal(params["rpn"]["bias"], new["rpn.bias"])  # of another shape
    bias = params["box_head"]["logits"]["bias"]
    assert [*bias] == [dog, 0, 1002, 80]
    assert [*params["mask_head"]["logits"]["bias"]] == [dog, 0, 1002]
    deltas = params["box_head"]["deltas"]["bias"].reshape(3, 4)
    assert [*deltas[:, 0]] == [4 * dog, 0, 1008]
    assert (kept_stats["box_head"]["mean"] == 0).all()
    classes = origin["classes"]
    assert (classes["kept"], classes["moved"], classes["new"]) == (
        [],
        ["dog", "Person"],
        ["wombat"],
    )
    assert len(classes["dropped"]) == 78
    assert origin["new_arrays"] == ["rpn.bias", "box_head.mean"]
    said = capsys.readouterr().out
    assert "4 of 6 arrays taken" in said
    assert "arrays without a place: rpn.bias, rpn.gain" in said


def fitted(old, new):
    """The arrays of a backbone after those of a trained one were given to it."""
    trained = Trained("runs/one", old, 1, ("a",), {})
    trees = fit_arrays(trained, (nested(new),), match_classes("a", "a"), (1, 1), get_config())
    return trees.trees[0]["backbone"], trees.new


def test_trained_positions_are_resized_to_another_image_size(monkeypatch):
    def cropped(embedding, grid, offset, rule):
        assert (offset, rule) == (0.0, "bicubic")
        return embedding[: grid[0], : grid[1]]

    monkeypatch.setattr("jaxdet.training.fine_tune.resize_embedding", cropped)
    path = "backbone.blocks.0.attn.rel_pos.height"
    old = np.stack([np.arange(7.0), np.ones(7)], -1).astype(np.float32)
    positions = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    found, new = fitted(
        {path: old, "backbone.pos_embed": positions},
        {path: np.zeros((3, 2)), "backbone.pos_embed": np.zeros((1, 1, 4), np.float32)},
    )
    height = found["blocks"]["0"]["attn"]["rel_pos"]["height"]
    np.testing.assert_allclose(height, [[2 / 3, 1], [3, 1], [16 / 3, 1]], rtol=1e-6)
    np.testing.assert_array_equal(found["pos_embed"], positions[:1, :1])
    assert new == []


@pytest.mark.parametrize(
    ("name", "rows", "fix"),
    [
        ("backbone.rel_pos_global.table", 7**2, r"--config\.image_size=64, which"),
        ("backbone.rel_pos_window.table", 3**2, r"--config\.model\.vit\.window=2, which"),
        ("backbone.registers", 4, "take the config of that detector"),
    ],
)
def test_what_cannot_be_resized_is_rejected_not_forgotten(name, rows, fix):
    with pytest.raises(UserError, match=rf"runs/one: {name} is .* cannot be resized to; .*{fix}"):
        fitted({name: np.ones((rows, 2))}, {name: np.zeros((25, 2))})


def test_classes_that_nothing_names_are_named_in_the_config(tmp_path, capsys):
    path = tmp_path / "detector.npz"
    old, new = arrays(3), arrays(2, start=1000)
    save(path, old)
    given = experiment(path, ["b", "d"])
    params, _, _ = start_from_detector(given, nested(new), {})
    assert [*params["box_head"]["logits"]["bias"]] == [1000, 1001, 3]
    assert "name them in config.init_classes" in capsys.readouterr().out
    given.config.init_classes = ("a", "b", "c")
    params, _, _ = start_from_detector(given, nested(new), {})
    assert [*params["box_head"]["logits"]["bias"]] == [1, 1001, 3]
    given.config.init_classes = ("a", "b")
    with pytest.raises(UserError, match=r"init_classes must name the 3 classes of .* names 2"):
        start_from_detector(given, nested(new), {})


def test_what_is_no_detector_is_rejected_with_what_to_give(tmp_path):
    path = tmp_path / "weights.npz"
    save(path, {"backbone.pos_embed": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match=r"whole detector for --init-from; .* backbone as --init"):
        start_from_detector(experiment(path, ["a"]), {}, {})
    with pytest.raises(UserError, match=r"checkpoints does not exist; give the --workdir of a run"):
        start_from_detector(experiment(tmp_path, ["a"]), {}, {})


@pytest.mark.parametrize("logits", [np.float32(0), np.zeros(0, np.float32)])
def test_an_output_of_no_classes_makes_no_detector(tmp_path, logits):
    path = tmp_path / "weights.npz"
    save(path, arrays(3) | {"box_head.logits.bias": logits})
    with pytest.raises(UserError, match="must hold a whole detector for --init-from"):
        start_from_detector(experiment(path, ["a"]), {}, {})


def test_names_of_classes_cannot_forge_lines(tmp_path, capsys):
    path = tmp_path / "detector.npz"
    save(path, arrays(1))
    given = experiment(path, ["a\nerror: \x1b[31mforged", "b" * 5000])
    start_from_detector(given, nested(arrays(2)), {})
    lines = capsys.readouterr().out.splitlines()
    assert not any(line.startswith("error") for line in lines)
    assert "\x1b" not in "".join(lines)
    assert max(map(len, lines)) < 500


def test_a_vit_whose_arrays_would_mean_something_else_is_rejected(tmp_path):
    ours, theirs = (Experiment(get_config(), tmp_path).plain_config for _ in range(2))
    _check_same_vit("runs/one", theirs, ours)
    theirs["model"]["vit"].update(absolute_position="sincos", drop_path=0.5)  # where it started
    _check_same_vit("runs/one", theirs, ours)
    theirs["model"]["vit"]["heads"] = 4
    with pytest.raises(UserError, match=r"config\.model\.vit\.heads was 4 and is now 2"):
        _check_same_vit("runs/one", theirs, ours)
    theirs["model"]["vit"]["heads"] = 2
    theirs["model"]["detector"]["pixel_std"] = [1.0, 1.0, 1.0]
    with pytest.raises(UserError, match=r"config\.model\.detector\.pixel_std was"):
        _check_same_vit("runs/one", theirs, ours)


def test_a_converted_run_says_its_own_classes(tmp_path):
    path = tmp_path / "detector.npz"
    given = experiment(path, ["class 7"])
    pixels = {key: [*given.config.model.detector[key]] for key in ("pixel_mean", "pixel_std")}
    classes = [f"class {number}" for number in range(80)]  # as many as COCO's
    save(path, arrays(80), report(config={}, classes=classes, **pixels))
    params, _, origin = start_from_detector(given, nested(arrays(1, start=1000)), {})
    assert [*params["box_head"]["logits"]["bias"]] == [7, 80]
    assert origin["classes"]["moved"] == ["class 7"]
    given.config.init_classes = COCO_CLASSES
    _, _, origin = start_from_detector(given, nested(arrays(1, start=1000)), {})
    assert origin["classes"]["new"] == ["class 7"]


def test_boxes_for_all_classes_are_taken_though_the_one_class_is_another(tmp_path):
    path = tmp_path / "detector.npz"
    given = experiment(path, ["b"])
    given.config.init_classes = ("a",)
    old, new = arrays(1), arrays(1, start=9)
    says = {"model.heads.class_agnostic_boxes": True}
    pixels = {key: [*given.config.model.detector[key]] for key in ("pixel_mean", "pixel_std")}
    for config, expected in ((says, old), ({}, new)):
        save(path, old, report(config=config, **pixels))
        params, _, _ = start_from_detector(given, nested(new), {})
        deltas = params["box_head"]["deltas"]["bias"]
        np.testing.assert_array_equal(deltas, expected["box_head.deltas.bias"])
    given.config.model.heads.class_agnostic_boxes = True
    params, _, _ = start_from_detector(given, nested(new), {})
    np.testing.assert_array_equal(params["box_head"]["deltas"]["bias"], old["box_head.deltas.bias"])


def test_a_run_trained_on_a_gpu_is_read_without_one(tmp_path):
    theirs = Experiment(get_config(), tmp_path).plain_config
    theirs["image_size"] = 96
    theirs["model"]["vit"]["attention"] = "cudnn"
    config = _config_of_run(get_config(), theirs)
    assert (config.image_size, config.model.vit.attention) == (96, "auto")


def test_a_converted_detector_may_have_another_pyramid_and_other_heads(tmp_path):
    path = tmp_path / "detector.npz"
    given = experiment(path, ["a"])
    pixels = {key: [*given.config.model.detector[key]] for key in ("pixel_mean", "pixel_std")}
    says = {"model.pyramid.kind": "fpn", "model.heads.box_convs": 4, "model.vit.heads": 2}
    save(path, arrays(1), report(config=says, **pixels))
    params, _, origin = start_from_detector(given, nested(arrays(1, start=9)), {})
    assert [*params["rpn"]["bias"]] == [0, 1, 2]
    assert origin["source"] == {"file": "mae.pth", "sha256": "abc123"}
    save(path, arrays(1), report(config=says | {"model.vit.heads": 4}, **pixels))
    with pytest.raises(UserError, match=r"is made for model\.vit\.heads 4; the config says 2"):
        start_from_detector(given, {}, {})
    save(path, arrays(1), report(config=says, **pixels | {"pixel_std": [1.0, 1.0, 1.0]}))
    with pytest.raises(UserError, match=r"trained with pixel_std \[1\.0"):
        start_from_detector(given, {}, {})


def test_weights_come_from_one_place(tmp_path):
    config = get_config()
    config.init_from = str(tmp_path)
    check(config)
    config.few_shot.base_run = str(tmp_path)
    with pytest.raises(
        UserError, match=r"config\.init_from='.*' must be none where config\.init or"
    ):
        check(config)
    config.init_from = str(tmp_path / "none")
    with pytest.raises(UserError, match=r"init_from=.* does not exist; give the folder of a run"):
        check(config)
    config.init = str(tmp_path)
    with pytest.raises(UserError, match=r"not a file; a run's folder is given as --init-from"):
        check(config)
