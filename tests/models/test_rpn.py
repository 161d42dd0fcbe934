"""Proposals against Detectron2's, and the order of the head's outputs."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdet.models.rpn import RPNHead, propose
from jaxdet.ops.anchors import pyramid_anchors

LEVELS = range(2, 7)
STRIDES = (4, 8, 16, 32, 64)


@pytest.mark.parametrize("image", [0, 1])
def test_proposals_agree_with_reference(reference, image):
    stored = reference("rpn.npz")
    grids = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
    compute = partial(
        propose,
        anchors=pyramid_anchors(grids, STRIDES, (32.0, 64.0, 128.0, 256.0, 512.0), (0.5, 1.0, 2.0)),
        pre_nms=int(stored["pre_nms_topk"]),
        post_nms=int(stored["post_nms_topk"]),
        nms_threshold=float(stored["nms_thresh"]),
    )
    found = jax.jit(compute)(
        [jnp.asarray(stored[f"logits_p{level}"][image]) for level in LEVELS],
        [jnp.asarray(stored[f"deltas_p{level}"][image]) for level in LEVELS],
        jnp.asarray(stored["image_sizes"][image]),
    )
    assert found.valid.all()
    np.testing.assert_allclose(found.boxes, stored[f"proposals_{image}"], atol=1e-3)
    np.testing.assert_allclose(found.scores, stored[f"proposal_logits_{image}"], atol=1e-5)


def test_unusable_proposals_are_not_valid():
    """Outside the image, not finite, or suppressed: the unused entries come last."""
    anchors = np.array([(0, 0, 8, 8), (1, 0, 8, 8), (20, 20, 28, 28), (0, 8, 8, 16)], np.float32)
    deltas = np.zeros((4, 4), np.float32)
    deltas[3, 0] = np.nan
    compute = partial(
        propose,
        anchors=[anchors, np.array([(0, 0, 16, 4)], np.float32)],
        pre_nms=10,
        post_nms=6,
        nms_threshold=0.7,
    )
    found = jax.jit(compute)(
        [jnp.array([1.0, 2.0, 9.0, 8.0]), jnp.array([-1.0])],
        [jnp.asarray(deltas), jnp.zeros((1, 4))],
        jnp.array([16, 16]),
    )
    np.testing.assert_array_equal(found.valid, [True, True, False, False, False, False])
    np.testing.assert_array_equal(found.scores[:2], [2.0, -1.0])
    np.testing.assert_array_equal(found.boxes[:2], [(1, 0, 8, 8), (0, 0, 16, 4)])


def test_outputs_are_in_the_order_of_anchors():
    """Row, column, shape: as `pyramid_anchors` lists them."""
    head = RPNHead(4, num_anchors=3, num_convs=1, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4, 4)), jnp.float32)
    (objectness,), (deltas,) = head([x])
    hidden = np.maximum(head.convs[0](x), 0)
    expected = np.einsum("nyxc,ca->nyxa", hidden, head.objectness.kernel[0, 0])
    np.testing.assert_allclose(objectness, expected.reshape(2, 60), atol=1e-5)
    kernel = np.asarray(head.deltas.kernel[0, 0]).reshape(4, 3, 4)
    expected = np.einsum("nyxc,cad->nyxad", hidden, kernel)
    np.testing.assert_allclose(deltas, expected.reshape(2, 60, 4), atol=1e-5)
