"""The training losses of the validation images."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.training.experiment import Experiment
from jaxdet.training.step import with_total
from jaxdet.training.validation_loss import ValidationLoss
from tests.tiny import get_config

pytestmark = pytest.mark.usefixtures("shared_programs")


def test_it_is_the_model_s_losses_and_the_same_each_time(tmp_path):
    experiment = Experiment(get_config(), tmp_path)
    experiment.config.model.vit.drop_path = 0.9  # would make each call another number
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
    assert validation_loss(params, stats) == found
    halved = jax.tree.map(lambda leaf: leaf / 2, params)
    assert validation_loss(halved, stats)["loss"] != found["loss"]


def test_the_total_is_the_sum():
    assert with_total({"loss_a": 1.0, "loss_b": 2.0}) == {"loss": 3.0, "loss_a": 1.0, "loss_b": 2.0}


def test_images_without_objects_are_refused_before_training(tmp_path, monkeypatch):
    experiment = Experiment(get_config(), tmp_path)
    monkeypatch.setattr(type(experiment.val_set), "has_objects", lambda *_: False)
    with pytest.raises(UserError, match=r"config\.eval_loss needs validation images"):
        ValidationLoss(experiment)
