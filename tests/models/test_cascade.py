"""The stages of a cascade against Detectron2's CascadeROIHeads: the same weights and RoIs."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from jaxdet.config.mask_rcnn import check, make_cascade
from jaxdet.errors import UserError
from jaxdet.models.box_stages import box_stages, class_scores, stage_boxes, stage_losses
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.paths import path_name
from jaxdet.models.roi_features import Features
from jaxdet.models.roi_samples import Samples, rematch
from jaxdet.models.settings import Settings
from jaxdet.ops import losses
from jaxdet.ops.boxes import decode, iou
from jaxdet.ops.matching import match
from tests.models.test_reference_detectors import tiny_config

CLASSES, STAGES, IMAGES, OBJECTS = 4, (0, 1, 2), (0, 1), 10
NAME = "maskrcnn_cascade_vitdet_tiny"


def cascade_config():
    config = tiny_config("vitdet")
    make_cascade(config)
    config.model.detector.update(roi_batch=32)
    check(config)
    return config


@pytest.fixture(scope="module")
def stored(shared):
    with np.load(shared / "reference" / f"{NAME}_outputs.npz") as outputs:
        return dict(outputs)


@pytest.fixture(scope="module")
def batch(stored):
    """The two images and their objects, padded to as many as the other has."""
    padded = {"boxes": np.zeros((2, OBJECTS, 4), np.float32)}
    padded |= {"labels": np.zeros((2, OBJECTS), np.int32), "valid": np.zeros((2, OBJECTS), bool)}
    for n in IMAGES:
        count = len(stored[f"gt_boxes_{n}"])
        padded["boxes"][n, :count] = stored[f"gt_boxes_{n}"]
        padded["labels"][n, :count] = stored[f"gt_classes_{n}"]
        padded["valid"][n, :count] = True
    images = stored["image"].transpose(0, 2, 3, 1)
    return {"image": images, "image_hw": stored["image_sizes"].astype(np.int32), **padded}


def samples_of(stored, stage: int, n: int) -> Samples:
    """What the reference trains a stage on."""
    name = f"train_stage{stage}_{{}}_{n}"
    label = stored[name.format("matched_label")]
    return Samples(
        rois=jnp.asarray(stored[name.format("proposals")]),
        labels=jnp.asarray(stored[name.format("gt_classes")], jnp.int32),
        sampled=jnp.ones(len(label), bool),
        foreground=jnp.asarray(label == 1),
        matched=jnp.asarray(stored[name.format("matched_gt")], jnp.int32),
    )


SETTINGS = Settings(
    num_classes=CLASSES,
    class_agnostic_boxes=True,
    cascade_thresholds=(0.6, 0.7),
    cascade_factors=(2.0, 3.0),
)


@pytest.fixture(scope="module")
def arrays(shared):
    """The reference's parameters under our paths."""
    pytest.importorskip("torch")
    converted = convert(read(shared / "reference" / f"{NAME}.pth"), Options()).arrays
    return {path: tensor.read() for path, tensor in converted.items()}


def load(arrays, dtype: str):
    """A detector's functions and its parameters, computed in a dtype."""
    config = cascade_config()
    config.model.dtype = dtype
    stateless = StatelessModel(lambda rngs: build_detector(config, CLASSES, rngs))
    shapes, _ = stateless.abstract
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(arrays[path_name(path)], dtype), shapes
    )
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    assert len(jax.tree.leaves(params)) == len(arrays)
    return stateless, params


def pyramid_of(stored, dtype: str) -> list[jax.Array]:
    """The reference's own, so that no activation near zero is on its other side."""
    maps = (stored[f"p{level}"].transpose(0, 2, 3, 1) for level in range(2, 7))
    return [jnp.asarray(x, dtype) for x in maps]


@pytest.fixture(scope="module")
def found(arrays, stored, batch):
    """All that a test compares of the network, by one compiled function."""
    stateless, params = load(arrays, "float32")
    both = [samples_of(stored, 0, n) for n in IMAGES]
    samples = jax.tree.map(lambda *each: jnp.stack(each), *both)
    rois = [jnp.stack([stored[f"stage{k}_proposals_{n}"] for n in IMAGES]) for k in STAGES]

    @jax.jit
    def compute(params, batch, pyramid):
        model = stateless.bind(params, {})
        features = model.features(batch["image"], batch["image_hw"])
        valid = jnp.ones(rois[0].shape[:2], bool)
        keys = jax.random.split(jax.random.key(0), len(IMAGES))

        def box_losses(pyramid):
            each = model._box_stage(features._replace(pyramid=pyramid), samples, batch, keys, 1)
            each = jax.tree.map(jnp.mean, each)
            return sum(each.values()), each

        gradients, each = jax.grad(box_losses, has_aux=True)(pyramid)
        return {
            "pyramid": features.pyramid,
            "stages": [
                model._classify(stage, features, rois[k], valid, train=False)
                for k, stage in enumerate(model.box_stages)
            ],
            "losses": each,
            "gradients": gradients,
            "detections": model.detect(batch),
        }

    with jax.default_matmul_precision("highest"):
        return jax.device_get(compute(params, batch, pyramid_of(stored, "float32")))


def test_pyramid(stored, found):
    for level, x in enumerate(found["pyramid"], start=2):
        np.testing.assert_allclose(x, stored[f"p{level}"].transpose(0, 2, 3, 1), atol=1e-3)


@pytest.mark.parametrize("k", STAGES)
def test_a_stage_on_the_reference_proposals(stored, found, k):
    logits, deltas = found["stages"][k]
    weights = box_stages_of()[k].box_weights
    for n in IMAGES:
        np.testing.assert_allclose(logits[n], stored[f"stage{k}_class_logits_{n}"], atol=1e-3)
        np.testing.assert_allclose(deltas[n], stored[f"stage{k}_box_deltas_{n}"], atol=1e-3)
        rois = stored[f"stage{k}_proposals_{n}"]
        refined = decode(stored[f"stage{k}_box_deltas_{n}"], rois, weights)
        np.testing.assert_allclose(refined, stored[f"stage{k}_refined_boxes_{n}"], atol=1e-3)
        refined = decode(deltas[n], rois, weights)
        np.testing.assert_allclose(refined, stored[f"stage{k}_refined_boxes_{n}"], atol=1e-3)


def box_stages_of():
    """The stages' numbers; their heads do not matter."""
    return box_stages(SETTINGS, nnx.List([nnx.Module() for _ in STAGES]))


def test_the_stages_have_the_published_numbers():
    stages = box_stages_of()
    assert [stage.suffix for stage in stages] == ["_stage0", "_stage1", "_stage2"]
    assert [stage.threshold for stage in stages] == [0.5, 0.6, 0.7]
    assert [stage.box_weights for stage in stages] == [
        (10, 10, 5, 5),
        (20, 20, 10, 10),
        (30, 30, 15, 15),
    ]
    assert [stage.gradient for stage in stages] == [1 / 3] * 3


@pytest.mark.parametrize("n", IMAGES)
def test_the_pool_is_matched_as_the_reference_matches_it(stored, batch, n):
    overlaps = iou(jnp.asarray(batch["boxes"][n]), jnp.asarray(stored[f"train_pool_{n}"]))
    matched, label = match(overlaps, jnp.asarray(batch["valid"][n]), (0.5,), (0, 1))
    np.testing.assert_array_equal(matched, stored[f"pool_matched_gt_{n}"])
    np.testing.assert_array_equal(label, stored[f"pool_matched_label_{n}"])


@pytest.mark.parametrize("n", IMAGES)
@pytest.mark.parametrize("k", STAGES[1:])
def test_a_further_stage_is_matched_anew_and_nothing_is_sampled(stored, batch, k, n):
    before, expected = samples_of(stored, k - 1, n), samples_of(stored, k, n)
    stages = box_stages_of()
    rois = stage_boxes(
        jnp.asarray(stored[f"train_stage{k - 1}_box_deltas_{n}"]),
        before.rois,
        jnp.asarray(batch["image_hw"][n]),
        box_weights=stages[k - 1].box_weights,
    )
    objects = (jnp.asarray(batch[name][n]) for name in ("boxes", "labels", "valid"))
    after = rematch(
        before, rois[:, 0], *objects, threshold=stages[k].threshold, num_classes=CLASSES
    )
    np.testing.assert_allclose(after.rois, expected.rois, atol=1e-3)
    for name in ("labels", "sampled", "foreground", "matched"):
        np.testing.assert_array_equal(getattr(after, name), getattr(expected, name))


def test_boxes_that_became_empty_leave_the_losses(batch):
    rois = jnp.array([[10, 10, 60, 60], [5, 5, 5, 30], [np.nan] * 4, [0, 0, 0, 0]], jnp.float32)
    samples = Samples(
        rois=rois,
        labels=jnp.zeros(4, jnp.int32),
        sampled=jnp.array([True, True, True, False]),
        foreground=jnp.ones(4, bool),
        matched=jnp.zeros(4, jnp.int32),
    )
    boxes, labels, valid = (jnp.asarray(batch[name][0]) for name in ("boxes", "labels", "valid"))
    after = rematch(samples, rois, boxes, labels, valid, threshold=0.6, num_classes=CLASSES)
    np.testing.assert_array_equal(after.sampled, [True, False, False, False])
    assert not after.foreground[1:].any()
    assert jnp.isfinite(after.rois).all()


@pytest.mark.parametrize("k", STAGES)
def test_the_losses_of_a_stage(stored, found, batch, k):
    stage = box_stages_of()[k]
    of_images = [
        stage_losses(
            SETTINGS,
            stage,
            jnp.asarray(stored[f"train_stage{k}_class_logits_{n}"]),
            jnp.asarray(stored[f"train_stage{k}_box_deltas_{n}"]),
            samples_of(stored, k, n),
            jnp.asarray(batch["boxes"][n]),
        )
        for n in IMAGES
    ]
    for ours, theirs in (("class", "cls"), ("box", "box_reg")):
        expected = stored[f"loss_{theirs}_stage{k}"]
        given = np.mean([each[f"loss_{ours}_stage{k}"] for each in of_images])
        np.testing.assert_allclose(given, expected, rtol=1e-5)
        np.testing.assert_allclose(found["losses"][f"loss_{ours}_stage{k}"], expected, rtol=1e-5)


def assert_gradients(given, stored, name: str) -> None:
    largest = np.abs(stored[f"{name}_p2"]).max()
    assert largest > 0
    for level in (2, 3, 4, 5):
        expected = stored[f"{name}_p{level}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(given[level - 2], expected, atol=1e-3 * largest)


def test_gradients_of_the_box_losses(stored, found):
    assert_gradients(found["gradients"], stored, "grad_box_losses")


def test_the_mask_head_trains_on_the_first_stage(arrays, stored):
    """In float64: in float32 a single ReLU is on its other side, and 21 of 32,768 gradients are
    off by up to 3.5e-3 of the largest. Measured here: 5e-7. So they are, too, where XLA's CPU
    compiler does not split the module, as the tests have it otherwise."""
    with jax.enable_x64(True):
        stateless, params = load(arrays, "float64")
        rois, labels, targets = (
            jnp.stack([stored[f"mask_{name}_{n}"] for n in IMAGES])
            for name in ("boxes", "classes", "targets")
        )
        foreground = jnp.ones(labels.shape, bool)

        @partial(jax.jit, compiler_options={"xla_cpu_parallel_codegen_split_count": 32})
        @jax.value_and_grad
        def loss(pyramid, params):
            model = stateless.bind(params, {})
            features = Features(pyramid, pyramid[2])
            logits = model._segment(features, rois, foreground, labels, train=True)
            of_label = logits[..., None], jnp.zeros_like(labels)
            return jax.vmap(losses.mask_loss)(*of_label, targets, foreground).mean()

        found, gradients = jax.device_get(loss(pyramid_of(stored, "float64"), params))
    np.testing.assert_allclose(found, stored["loss_mask"], rtol=1e-5)
    assert_gradients(gradients, stored, "grad_loss_mask")
    for n in IMAGES:
        first = samples_of(stored, 0, n)
        np.testing.assert_array_equal(first.rois[first.foreground], stored[f"mask_boxes_{n}"])


def by_box(boxes, scores, classes, masks):
    """Detections in an order that does not depend on scores that are nearly equal."""
    order = np.lexsort((*np.round(boxes, 2).T, classes))
    return boxes[order], scores[order], classes[order], masks[order]


def test_detections(stored, found):
    detections = found["detections"]
    for n in IMAGES:
        names = ("boxes", "scores", "classes", "masks")
        expected = by_box(*(stored[f"det_{name}_{n}"] for name in names))
        valid = detections.valid[n]
        assert valid.sum() == len(expected[0])
        given = (detections.boxes, detections.scores, detections.labels, detections.masks)
        boxes, scores, labels, masks = by_box(*(array[n][valid] for array in given))
        np.testing.assert_array_equal(labels, expected[2])
        np.testing.assert_allclose(boxes, expected[0], atol=1e-3)
        np.testing.assert_allclose(scores, expected[1], atol=1e-4)
        np.testing.assert_allclose(masks, expected[3], atol=1e-3)


def test_scores_are_the_mean_of_the_stages(stored):
    for n in IMAGES:
        stages = [
            class_scores(SETTINGS, jnp.asarray(stored[f"stage{k}_class_logits_{n}"]))
            for k in STAGES
        ]
        mean = sum(stages) / len(stages)
        np.testing.assert_allclose(mean, stored[f"scores_{n}"][:, :-1], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_agnostic_boxes": False}, "must be true for a cascade"),
        ({"cascade_factors": (2.0,)}, "must have as many factors as .*cascade_thresholds has IoUs"),
        ({"box": "decoder"}, "must be 'convs' where config.model.heads.class_agnostic_boxes"),
    ],
)
def test_what_a_cascade_must_have(changes, message):
    config = cascade_config()
    config.model.heads.update(changes)
    with pytest.raises(UserError, match=message):
        check(config)
