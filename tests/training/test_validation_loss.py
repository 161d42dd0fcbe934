"""The training losses of the validation images."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.training import validation_loss as module
from jaxdet.training.experiment import Experiment
from jaxdet.training.step import make_loss_function, with_total
from jaxdet.training.validation_loss import ValidationLoss
from tests.tiny import get_config

pytestmark = pytest.mark.usefixtures("shared_programs")


def experiment_of(tmp_path, drop_path):
    config = get_config()
    config.model.vit.drop_path = drop_path
    return Experiment(config, tmp_path)


def test_it_is_the_model_s_losses_of_each_image_once(tmp_path, monkeypatch):
    experiment, calls = experiment_of(tmp_path, 0.9), []
    losses = make_loss_function(experiment.stateless, experiment.mesh)
    undropped = ValidationLoss(experiment_of(tmp_path, 0.0))

    def kept(*arguments):
        calls.append(arguments)
        return losses(*arguments)

    monkeypatch.setattr(module, "make_loss_function", lambda *_: kept)
    params, stats = jax.jit(experiment.stateless.init)(jax.random.key(0))
    validation_loss = ValidationLoss(experiment)
    found = validation_loss(params, stats)
    parts = {name: value for name, value in found.items() if name != "loss"}
    assert set(parts) == {
        "loss_rpn_objectness",
        "loss_rpn_box",
        "loss_class",
        "loss_box",
        "loss_mask",
    }
    assert found["loss"] == pytest.approx(sum(parts.values()), rel=1e-5)
    # Nothing is learned: the classes are about as likely as each other, pixels as not.
    assert found["loss_mask"] == pytest.approx(np.log(2), rel=0.1)
    assert undropped(params, stats) == pytest.approx(found, rel=1e-6)
    check_rows(losses, calls, found["loss"])
    assert validation_loss(params, stats) == found
    halved = jax.tree.map(lambda leaf: leaf / 2, params)
    assert validation_loss(halved, stats)["loss"] != found["loss"]


def check_rows(losses, calls, mean):
    """Nine images in batches of eight: the last has one, and each row's part is of a sum."""
    (params, stats, batch, key), last = calls

    def loss(is_real):
        is_real = jax.device_put(is_real, batch["is_real"].sharding)
        found, share = losses(params, stats, {**batch, "is_real": is_real}, key)
        assert share == is_real.mean()
        return float(found["loss"])

    whole, some = loss(np.ones(8, bool)), np.arange(8) < 3
    assert loss(some) + loss(~some) == pytest.approx(whole, rel=1e-5)
    assert last[2]["is_real"].tolist() == [True] + [False] * 7
    assert mean == pytest.approx((8 * whole + 8 * float(losses(*last)[0]["loss"])) / 9, rel=1e-5)


def test_the_total_is_the_sum():
    assert with_total({"loss_a": 1.0, "loss_b": 2.0}) == {"loss": 3.0, "loss_a": 1.0, "loss_b": 2.0}


def test_images_without_objects_are_refused_before_training(tmp_path, monkeypatch):
    experiment = Experiment(get_config(), tmp_path)
    monkeypatch.setattr(type(experiment.val_set), "has_objects", lambda *_: False)
    with pytest.raises(UserError, match=r"config\.eval_loss needs validation images"):
        ValidationLoss(experiment)
