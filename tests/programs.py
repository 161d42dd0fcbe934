"""Equal runs in one process share what is traced and compiled of them.

Every run of a test would trace its model and its step anew, and load what was compiled, which takes
longer than all the rest of it. Runs of equal configs on the same devices compute the same: they may
have one model, one optimizer and one compiled step.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxdet.training.run import Run


def share(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, the runs and detectors of this process share their programs."""
    from jaxdet.evaluation import evaluate
    from jaxdet.inference import detector
    from jaxdet.training import loop
    from jaxdet.training.experiment import Experiment
    from jaxdet.training.pretraining import Pretraining

    models = {}
    for kind in (Experiment, Pretraining):
        _share_property(monkeypatch, kind, "stateless", models, _of_model)
        _share_property(monkeypatch, kind, "optimizer", {}, _of_optimizer)
    build = detector.build_stateless

    def build_once(config, num_classes, mesh):
        key = _of_config(config, num_classes, mesh)
        if key not in models:
            models[key] = build(config, num_classes, mesh)
        return models[key]

    monkeypatch.setattr(detector, "build_stateless", build_once)
    monkeypatch.setattr(loop, "make_train_step", functools.cache(loop.make_train_step))
    monkeypatch.setattr(loop, "random_state", _kept_on_the_host(loop.random_state))
    make, detects = detector.detect_function, {}

    def detect_function(config, stateless, mesh):
        key = config.model.detector.to_json(), stateless, mesh
        if key not in detects:
            detects[key] = make(config, stateless, mesh)
        return detects[key]

    for module in (evaluate, detector):
        monkeypatch.setattr(module, "detect_function", detect_function)


def _share_property(monkeypatch, owner: type[Run], name: str, known: dict, key_of) -> None:
    make = owner.__dict__[name].func

    def get(run: Run) -> Any:
        key = key_of(run)
        if key not in known:
            known[key] = make(run)
        return known[key]

    shared = functools.cached_property(get)
    shared.__set_name__(owner, name)
    monkeypatch.setattr(owner, name, shared)


def _of_config(config: ConfigDict, num_classes: int, mesh: jax.sharding.Mesh) -> Hashable:
    """What a model follows from."""
    trained = config.optim.get("train")  # a ViT that is not trained drops no path
    return config.model.to_json(), trained, config.image_size, num_classes, mesh


def _of_model(run: Run) -> Hashable:
    return _of_config(run.config, len(run.identity.get("categories", ())), run.mesh)


def _of_optimizer(run: Run) -> Hashable:
    config = run.config
    lengths = config.epochs, config.batch_size, run.steps_per_epoch
    return config.model.to_json(), config.optim.to_json(), lengths


def _kept_on_the_host(make):
    known = {}

    def random_state(run: Run, shardings: Any) -> Any:
        key = run.stateless, run.optimizer, run.config.seed
        if key not in known:
            known[key] = jax.device_get(make(run, shardings))
        # Steps take over the memory of the state that they are given.
        return jax.device_put(jax.tree.map(np.copy, known[key]), shardings)

    return random_state
