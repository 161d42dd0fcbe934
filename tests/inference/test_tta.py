"""Test-time augmentation: Detectron2's boxes, merging and masks; what a mirror may not change."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from PIL import ImageOps
from pycocotools import mask as mask_api

from jaxdet.errors import UserError
from jaxdet.inference.coco_results import encode_mask
from jaxdet.inference.detector import load
from jaxdet.inference.export import export_detector
from jaxdet.inference.tta import Augmented, View
from jaxdet.models.batching import BATCH_AXIS
from jaxdet.models.detections import Detections
from jaxdet.models.settings import Settings

SIZES = (160, 192, 224)
"""Sides of the padded images: three, so that a view's shape says which it is."""

MOST = 9
"""Detections of a view."""


@pytest.fixture(scope="module")
def stored(reference):
    return reference("tta.npz")


def padded(values, rows=MOST):
    return np.pad(values, ((0, rows - len(values)), *((0, 0),) * (values.ndim - 1)))


def given_detections(stored):
    """A detector whose outputs are the stored ones of the view that it is shown."""
    names = ("boxes", "scores", "classes")
    tables = [np.stack([padded(stored[f"aug{k}_{name}"]) for k in range(6)]) for name in names]
    counts = np.array([len(stored[f"aug{k}_scores"]) for k in range(6)])
    masks, boxes = (
        np.stack([stored[f"aug{k}_{name}"] for k in range(6)]) for name in ("masks", "mask_boxes")
    )

    def detect_boxes(inputs):
        view = SIZES.index(inputs["image"].shape[1])
        plain = stored[f"aug{2 * view}_image"].transpose(1, 2, 0)
        height, width = plain.shape[:2]
        mirror = stored[f"aug{2 * view + 1}_image"].transpose(1, 2, 0)
        shown = inputs["image"][0, :height, :width]
        # Neither where the pixels are not Detectron2's; padding must have stayed where it was.
        is_known = jnp.all(shown == plain) | jnp.all(shown == mirror)
        is_known &= ~jnp.any(inputs["image"][0, :, width:])
        number = jnp.where(is_known, 2 * view + jnp.all(shown == mirror), 6)
        box, score, label = (jnp.asarray(table)[number][None] for table in tables)
        valid = (jnp.arange(MOST) < jnp.asarray(counts)[number])[None] & is_known
        return Detections(box, score, label.astype(jnp.int32), valid, None), number[None]

    def masks_of(features, found):
        number = features[0]
        is_there = jnp.allclose(found.boxes[0], jnp.asarray(boxes)[number], atol=1e-3)
        return jnp.where(is_there, jnp.asarray(masks)[number], jnp.nan)[None]

    settings = Settings(num_classes=4, detections=int(stored["detections_per_image"]))
    assert settings.nms_threshold == stored["nms_thresh"]
    model = SimpleNamespace(detect_boxes=detect_boxes, masks_of=masks_of, settings=settings)
    return SimpleNamespace(bind=lambda params, stats: model, abstract=({"mask_head": ()}, {}))


def test_boxes_merging_and_masks_are_detectron2s(stored):
    mesh = Mesh(np.array(jax.devices()[:1]), (BATCH_AXIS,))
    augmented = Augmented(given_detections(stored), mesh, flip=True)
    views = []
    for number, size in enumerate(SIZES):
        image = stored[f"aug{2 * number}_image"].transpose(1, 2, 0)
        canvas = np.zeros((1, size, size, 3), np.uint8)
        canvas[0, : image.shape[0], : image.shape[1]] = image
        views.append(View(canvas, stored["aug_hw"][2 * number][None].astype(np.int32)))
    original_hw = stored["original_hw"][None].astype(np.int32)
    for _ in range(2):
        found = jax.device_get(augmented({}, {}, views, original_hw))
    programs = augmented._detect, augmented._segment, augmented._merge
    # One program a size; here all sizes have features of one shape.
    assert [program._cache_size() for program in programs] == [len(SIZES), 1, 1]

    assert found.valid.all()
    for name, expected in (("boxes", "boxes"), ("scores", "scores"), ("labels", "classes")):
        np.testing.assert_allclose(getattr(found, name)[0], stored[f"merged_{expected}"], rtol=1e-5)
    np.testing.assert_allclose(found.masks[0], stored["merged_masks"], atol=1e-6)
    height, width = stored["original_hw"].tolist()
    bitmasks = np.unpackbits(stored["final_bitmasks"], axis=-1)[..., :width].astype(bool)
    for mask, box, expected in zip(found.masks[0], found.boxes[0], bitmasks, strict=True):
        pasted = mask_api.decode(encode_mask(mask, box, height, width))
        np.testing.assert_array_equal(pasted, expected)
    np.testing.assert_allclose(found.boxes[0], stored["final_boxes"], rtol=1e-5)


def test_a_mirrored_image_has_the_mirrored_detections(finished, photo):
    workdir = finished[0].workdir
    keys = {"tta_sizes": "64", "nms": "soft_linear", "detections": "5"}
    detector = load(workdir, batch=8, keys=keys)
    plain, mirror = detector.predict([photo, ImageOps.mirror(photo)])
    assert 0 < len(plain.scores) <= 5
    np.testing.assert_allclose(mirror.scores, plain.scores, rtol=1e-4)
    boxes = mirror.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (photo.width, 0, photo.width, 0)
    np.testing.assert_allclose(boxes, plain.boxes, atol=0.05)
    np.testing.assert_array_equal(mirror.labels, plain.labels)
    with pytest.raises(UserError, match="tta_sizes must be empty for a StableHLO file"):
        export_detector(detector, 1)


def test_keys_of_training_cannot_be_set(finished):
    with pytest.raises(UserError, match="'lr' must be a key that a trained detector"):
        load(finished[0].workdir, keys={"lr": "1"})
    with pytest.raises(UserError, match=r"tta_sizes=\(40,\) must be multiples of 32"):
        load(finished[0].workdir, keys={"tta_sizes": "40"})
    with pytest.raises(UserError, match="'shared', whose tables are of that size"):
        load(finished[0].workdir, keys={"tta_sizes": "96"})
