"""What LVIS asks of the detector: scores and losses class by class, a mask of one class alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdet.benchmark.cost.step import batch_shapes
from jaxdet.config.mask_rcnn import make_cascade
from jaxdet.models.box_stages import class_scores, counted_classes
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.mask_head import MaskHead
from jaxdet.models.roi_samples import Samples
from jaxdet.models.settings import Settings
from tests.tiny import get_config

CLASSES = 5


def test_scores_are_detectron2s(reference):
    stored = reference("lvis_losses.npz")
    settings = Settings(num_classes=40, class_loss="sigmoid")
    scores = class_scores(settings, jnp.asarray(stored["fed0_class_logits"]))
    np.testing.assert_allclose(scores, stored["fed0_scores"][:, :-1], rtol=1e-6, atol=1e-7)


def test_each_stage_draws_its_own_classes():
    settings = Settings(num_classes=100, class_loss="sigmoid", federated_classes=50)
    labels = jnp.array([3, 7, 100, 100])
    truth = jnp.ones(4, bool)
    samples = Samples(jnp.zeros((4, 4)), labels, truth, truth, jnp.zeros(4, jnp.int32))
    weights = np.ones(100, np.float32)
    drawn = [
        np.asarray(counted_classes(settings, weights, samples, jax.random.key(0), stage=stage))
        for stage in (0, 0, 1)
    ]
    assert [each.sum() for each in drawn] == [49, 49, 49]  # the background is the fiftieth
    assert all(each[[3, 7]].all() for each in drawn)
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()


def test_a_federated_loss_knows_how_many_images_show_a_class():
    config = get_config()
    config.model.detector.update(class_loss="sigmoid", federated_classes=3)
    config.model.heads.norm = "layer"
    make_cascade(config)
    asked = []

    def image_counts():
        asked.append(True)
        return np.arange(CLASSES)

    model = StatelessModel(
        lambda rngs: build_detector(config, CLASSES, rngs, image_counts=image_counts)
    )
    assert not asked  # neither evaluation nor a plan has to open training data
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.batch_size))
    losses, _ = jax.eval_shape(
        lambda params, stats, batch, keys: model.bind(params, stats).losses(batch, keys),
        *model.abstract,
        batch_shapes(config),
        keys,
    )
    assert len(asked) == 3
    assert {f"loss_class_stage{stage}" for stage in range(3)} <= losses.keys()


def test_a_label_s_mask_is_that_of_all_classes():
    head = MaskHead(
        4, CLASSES, num_convs=1, conv_dim=6, norm="layer", dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    head.logits.bias[...] = jnp.arange(CLASSES, dtype=jnp.float32)
    x = jax.random.normal(jax.random.key(1), (6, 3, 3, 4))
    labels = jnp.array([0, 4, 2, 2, 1, CLASSES])
    valid = jnp.ones(6, bool)
    every = head(x, valid=valid, train=False)
    alone = head(x, valid=valid, train=False, labels=labels)
    assert alone.shape == (*every.shape[:3], 1)
    expected = jnp.take_along_axis(every[:5], labels[:5, None, None, None], -1)
    np.testing.assert_allclose(alone[:5], expected, rtol=1e-5, atol=1e-6)
    assert not alone[5].any()  # the background has no mask
