from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.ops import losses
from jaxdet.ops.anchors import pyramid_anchors

LEVELS = range(2, 7)
STRIDES = (4, 8, 16, 32, 64)
ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def rpn_inputs(stored, image):
    """One image of the stored network outputs, levels joined: the arguments of rpn_losses."""
    grids = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
    anchors = pyramid_anchors(grids, STRIDES, (32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0))
    return (
        np.concatenate([stored[f"logits_p{level}"][image] for level in LEVELS]),
        np.concatenate([stored[f"deltas_p{level}"][image] for level in LEVELS]),
        np.concatenate(anchors),
        stored[f"sampled_labels_{image}"],
        stored[f"matched_gt_{image}"],
        int(stored["batch_size_per_image"]),
    )


def test_rpn_losses_agree_with_reference(reference):
    stored = reference("rpn.npz")
    per_image = [losses.rpn_losses(*rpn_inputs(stored, image)) for image in range(2)]
    objectness, box = np.mean(per_image, axis=0)
    np.testing.assert_allclose(objectness, stored["loss_objectness"], rtol=1e-5)
    np.testing.assert_allclose(box, stored["loss_box"], rtol=1e-5)


def test_rpn_losses_without_objects(reference):
    objectness, deltas, anchors, labels, boxes, count = rpn_inputs(reference("rpn.npz"), 0)
    labels = np.where(labels == 1, -1, labels)

    def total(objectness, deltas):
        return losses.rpn_losses(objectness, deltas, anchors, labels, np.zeros_like(boxes), count)

    classification, regression = total(objectness, deltas)
    gradient = jax.jit(jax.grad(lambda *a: sum(total(*a)), (0, 1)))(objectness, deltas)
    expected = np.logaddexp(0, objectness[labels == 0]).sum() / count
    np.testing.assert_allclose(classification, expected, rtol=1e-5)
    assert regression == 0
    np.testing.assert_array_equal(np.asarray(gradient[0]) != 0, labels == 0)
    np.testing.assert_array_equal(gradient[1], 0)


def test_head_losses_agree_with_reference(reference):
    stored = reference("roi_heads.npz")
    labels, sampled = stored["gt_classes"], np.ones(40, bool)
    rois, matched = stored["proposal_boxes"], stored["gt_boxes"]
    classification = losses.classification_loss(stored["class_logits"], labels, sampled)
    np.testing.assert_allclose(classification, stored["loss_class"], rtol=1e-5)
    box = losses.box_loss(stored["box_deltas"], labels, rois, matched, sampled, ROI_WEIGHTS)
    np.testing.assert_allclose(box, stored["loss_box"], rtol=1e-5)
    logits = stored["mask_logits"].transpose(0, 2, 3, 1)
    mask = losses.mask_loss(logits, labels, stored["mask_targets"], labels < 5)
    np.testing.assert_allclose(mask, stored["loss_mask"], rtol=1e-5)


def head_losses(stored, rows, used):
    """The summed head losses of some stored RoIs as a function of the predictions, and these.

    Only `used` RoIs are sampled; the others have boxes of zeros.
    """
    labels = stored["gt_classes"][rows]
    rois = np.where(used[:, None], stored["proposal_boxes"][rows], 0)
    matched = np.where(used[:, None], stored["gt_boxes"][rows], 0)
    targets = stored["mask_targets"][rows]

    def total(logits, deltas, mask_logits):
        return (
            losses.classification_loss(logits, labels, used)
            + losses.box_loss(deltas, labels, rois, matched, used, ROI_WEIGHTS)
            + losses.mask_loss(mask_logits, labels, targets, used & (labels < 5))
        )

    mask_logits = stored["mask_logits"].transpose(0, 2, 3, 1)[rows]
    return jax.jit(total), (stored["class_logits"][rows], stored["box_deltas"][rows], mask_logits)


def test_unsampled_rois_change_neither_losses_nor_gradients(reference):
    stored = reference("roi_heads.npz")
    alone, predictions = head_losses(stored, np.arange(25), np.ones(25, bool))
    padded, padded_predictions = head_losses(stored, np.arange(40), np.arange(40) < 25)
    np.testing.assert_allclose(padded(*padded_predictions), alone(*predictions), rtol=1e-5)
    gradients = jax.grad(padded, (0, 1, 2))(*padded_predictions)
    expected_gradients = jax.grad(alone, (0, 1, 2))(*predictions)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient[:25], expected, rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(gradient[25:], 0)


def test_nothing_sampled_is_zero_with_zero_gradient(reference):
    total, predictions = head_losses(reference("roi_heads.npz"), np.arange(40), np.zeros(40, bool))
    value, gradients = jax.value_and_grad(total, (0, 1, 2))(*predictions)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("label", [0, 3])
def test_only_the_channel_of_the_class_learns(label):
    random = np.random.default_rng(0)
    labels, one = np.array([label]), np.ones(1, bool)
    rois, matched = np.array([[0, 0, 10, 10.0]]), np.array([[1, 1, 9, 12.0]])
    deltas = random.normal(size=(1, 16)).astype(np.float32)
    gradient = jax.grad(losses.box_loss)(deltas, labels, rois, matched, one, ROI_WEIGHTS)
    touched = np.flatnonzero(np.abs(gradient.reshape(4, 4)).sum(-1))
    np.testing.assert_array_equal(touched, [label])
    logits = random.normal(size=(1, 28, 28, 4)).astype(np.float32)
    gradient = jax.grad(losses.mask_loss)(logits, labels, np.ones((1, 28, 28), bool), one)
    touched = np.flatnonzero(np.abs(gradient).sum((0, 1, 2)))
    np.testing.assert_array_equal(touched, [label])


def test_low_precision_predictions_are_summed_in_float32(reference):
    stored = reference("roi_heads.npz")
    total, predictions = head_losses(stored, np.arange(40), np.ones(40, bool))
    rounded = [jnp.asarray(p, jnp.bfloat16) for p in predictions]
    assert total(*rounded).dtype == jnp.float32
    exact = total(*(p.astype(jnp.float32) for p in rounded))
    np.testing.assert_allclose(total(*rounded), exact, rtol=1e-6)


def test_giou_box_loss_counts_the_true_class_of_foreground_alone():
    rois = np.array([(0, 0, 10, 10), (5, 5, 25, 15), (0, 0, 8, 8), (0, 0, 0, 0)], np.float32)
    matched = np.array([(0, 0, 10, 20), (5, 5, 25, 15), (0, 0, 8, 8), (np.inf,) * 4], np.float32)
    rois, matched = jnp.asarray(rois), jnp.asarray(matched)
    labels, sampled = np.array([1, 0, 2, 0]), np.array([True, True, True, False])
    deltas = np.zeros((4, 8), np.float32)
    deltas[0, :4] = deltas[1, 4:] = 3.0  # of other classes

    def loss(deltas):
        return losses.giou_box_loss(deltas, labels, rois, matched, sampled, ROI_WEIGHTS)

    # The first box is half of its object, the second all of its; background does not count.
    np.testing.assert_allclose(loss(deltas), (1 - 0.5) / 3, rtol=1e-5)
    gradient = np.asarray(jax.grad(loss)(deltas))
    assert np.isfinite(gradient).all()
    assert gradient[0, 4:].any()
    assert not gradient[0, :4].any()
    assert not gradient[2:].any()


@pytest.fixture(scope="module")
def lvis(reference):
    return reference("lvis_losses.npz")


FEDERATED_CASES = range(4)


def federated_case(lvis, number):
    """Logits, labels, which RoIs count (all), and the published set of classes, as a mask."""
    logits, labels, classes = (
        lvis[f"fed{number}_{name}"] for name in ("class_logits", "gt_classes", "classes")
    )
    counted = np.isin(np.arange(logits.shape[1] - 1), classes)
    return logits, labels, np.ones(len(labels), bool), counted


def test_federated_loss_and_its_gradient_are_detectron2s(lvis):
    value_and_grad = jax.jit(jax.value_and_grad(losses.sigmoid_classification_loss))
    for number in FEDERATED_CASES:
        loss, gradient = value_and_grad(*federated_case(lvis, number))
        np.testing.assert_allclose(loss, lvis[f"fed{number}_loss_class"], rtol=1e-6)
        expected = lvis[f"fed{number}_grad_logits"]
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)
        everything = losses.sigmoid_classification_loss(*federated_case(lvis, number)[:3])
        np.testing.assert_allclose(everything, lvis[f"fed{number}_loss_class_sigmoid_all"], 1e-6)


def test_rois_that_are_not_sampled_have_no_sigmoid_loss(lvis):
    logits, labels, sampled, counted = federated_case(lvis, 0)
    padded = [np.concatenate([a, a[:5]]) for a in (logits, labels)]
    sampled = np.arange(len(padded[0])) < len(logits)
    loss = losses.sigmoid_classification_loss(*padded, sampled, counted)
    np.testing.assert_allclose(loss, lvis["fed0_loss_class"], rtol=1e-6)


def test_federated_classes_are_those_present_and_as_many_drawn_as_are_left(lvis):
    draw = jax.jit(
        jax.vmap(losses.federated_classes, (0, None, None, None, None)), static_argnums=4
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    for number in FEDERATED_CASES:
        _, labels, sampled, published = federated_case(lvis, number)
        asked = int(lvis[f"fed{number}_num_classes_asked"])
        weights = lvis["class_image_count"].astype(np.float32) ** lvis[f"fed{number}_freq_power"]
        np.testing.assert_allclose(weights, lvis[f"fed{number}_weights"], rtol=1e-6)
        drawn = np.asarray(draw(keys, labels, sampled, lvis[f"fed{number}_weights"], asked))
        assert (drawn.sum(1) == published.sum()).all()  # the background counts among the asked
        assert drawn[:, labels[labels < len(weights)]].all()
    # Both are means of 4000 draws: their difference has a standard deviation of at most .0112.
    drawn = np.asarray(draw(keys, *federated_case(lvis, 0)[1:3], lvis["fed0_weights"], 20))
    expected = lvis["fed0_inclusion_frequency_4000_draws"][:-1]
    np.testing.assert_allclose(drawn.mean(0), expected, atol=0.045)
