"""A training that starts from a trained detector of other classes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdet.config.mask_rcnn import check
from jaxdet.data.coco_annotations import Category
from jaxdet.errors import UserError
from jaxdet.training.experiment import Experiment
from jaxdet.training.fine_tune import _check_same_vit, start_from_detector
from jaxdet.weights.classes import COCO_CLASSES
from tests.tiny import get_config
from tests.weights.converted import save


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
