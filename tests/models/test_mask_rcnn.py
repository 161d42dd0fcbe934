"""The whole detector: what padding, placement and chance may not change, and what it detects."""

from __future__ import annotations

import re
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from jaxdet import parallel
from jaxdet.config.mask_rcnn import check
from jaxdet.models.batching import BATCH_AXIS
from jaxdet.models.box_stages import class_scores, stage_boxes
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.detections import select
from jaxdet.models.mask_rcnn import MaskRCNN
from jaxdet.models.paths import path_name
from jaxdet.models.roi_samples import sample_rois
from jaxdet.models.rpn import Proposals
from jaxdet.models.settings import Settings
from jaxdet.ops.boxes import iou
from jaxdet.training.data_parallel import over_devices
from jaxdet.training.step import gradient_function
from tests.tiny import get_config, with_fpn, with_pyramid

IMAGE_SIZE, BATCH, MAX_INSTANCES, CROP, CLASSES = 64, 8, 4, 28, 3
DETECTIONS = 12
SPREAD = {
    r"(objectness|rpn.*deltas|box_head.*logits)\.kernel$": 0.5,
    r"(deltas|logits)\.kernel$": 0.05,
}
"""Of the kernels that predict, fifty times what a run starts with: at the start all predictions are
nearly alike, and hardly depend on anything."""

OBJECTS = np.array([2, 1, 0, 4, 3, 1, 2, 0])
"""How many objects each image of the training batch has."""


def tiny_config(norm: str = "batch"):
    """The tests' tiny detector, narrower and with more proposals, and one of its variants."""
    config = get_config()
    if norm == "layer":
        with_fpn(config)
    elif norm not in ("single", "cascade"):
        with_pyramid(config, "imted" if norm == "imted" else "simple")
    config.image_size = IMAGE_SIZE
    config.model.vit.update(width=16, window=3, drop_path=0.2)
    config.model.pyramid.groups = 4
    config.model.detector.update(
        anchor_sizes=(8.0, 16.0, 24.0, 32.0, 64.0),
        rpn_batch=32,
        train_pre_nms=60,
        train_post_nms=40,
        test_pre_nms=60,
        test_post_nms=40,
        roi_batch=24,
        mask_roi_size=14,
        sampling_ratio=2,
        canonical_size=32.0,
        detections=DETECTIONS,
    )
    if norm == "imted":
        _as_imted(config)
    elif norm == "cascade":
        config.model.heads.norm = "layer"
        # Of two stages and a single scale: more only take longer to compile.
        config.model.heads.update(
            class_agnostic_boxes=True, cascade_thresholds=(0.6,), cascade_factors=(2.0,)
        )
    elif norm != "single":
        config.model.heads.norm = norm
    check(config)
    return config


def _as_imted(config) -> None:
    """The parts of imTED, its RoIs in three chunks of different rest."""
    config.model.vit.update(
        relative_position="none",
        depth=1,
        global_blocks=(0,),
        out_indices=(0,),
        class_token=True,
        resize_offset=0.1,
        remat="block",
    )
    config.model.pyramid.kind = "imted"
    config.model.decoder.update(width=8, depth=1, heads=2)
    config.model.heads.update(norm="none", box="decoder", box_features="modulated", roi_chunks=5)
    config.model.detector.update(box_loss="giou", box_loss_weight=10.0)


def tiny_stateless(norm: str = "batch", mesh: Mesh | None = None) -> StatelessModel:
    config = tiny_config(norm)
    return StatelessModel(lambda rngs: build_detector(config, CLASSES, rngs, mesh))


def image_keys(seed: int, images: int = BATCH) -> jax.Array:
    return jax.random.split(jax.random.key(seed), images)


@cache
def initial(norm: str):
    """Random parameters of a variant and its first batch statistics, on the host.

    Drawn without compiling: a program of a hundred small draws takes longer than a test.
    """
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path_name(path)
        if name.endswith(("scale", "var")):
            return np.ones(leaf.shape, leaf.dtype)
        if name.endswith(("bias", "mean")):
            return np.zeros(leaf.shape, leaf.dtype)
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if name.endswith("kernel") else 0.02
        spread = next((s for pattern, s in SPREAD.items() if re.search(pattern, name)), spread)
        return (spread * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tiny_stateless(norm).abstract)


class Detector:
    """One set of parameters, and the two computations every test calls, compiled once."""

    def __init__(self):
        stateless = tiny_stateless()
        self.params, self.stats = jax.device_put(initial("batch"))
        self.losses = jax.jit(gradient_function(stateless))
        self.detect = jax.jit(
            lambda params, stats, batch: stateless.bind(params, stats).detect(batch)
        )

    def train(self, batch, key: int = 0):
        """(gradients, metrics, new batch statistics) on the host."""
        return jax.device_get(self.losses(self.params, self.stats, batch, image_keys(key)))

    def find(self, images):
        """Detections on the host."""
        return jax.device_get(self.detect(self.params, self.stats, images))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def random_boxes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    corner = rng.uniform(0, 40, (*shape, 2))
    size = rng.uniform(8, 24, (*shape, 2))
    return np.concatenate([corner, corner + size], -1).astype(np.float32)


def random_batch(objects=OBJECTS) -> dict[str, np.ndarray]:
    rng, n = np.random.default_rng(0), len(objects)
    valid = np.arange(MAX_INSTANCES) < np.asarray(objects)[:, None]
    return {
        "image": rng.integers(0, 256, (n, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        "image_hw": np.full((n, 2), IMAGE_SIZE, np.int32),
        "boxes": random_boxes(rng, n, MAX_INSTANCES) * valid[..., None],
        "labels": rng.integers(0, CLASSES, (n, MAX_INSTANCES)).astype(np.int32) * valid,
        "masks": rng.integers(0, 2, (n, MAX_INSTANCES, CROP, CROP), np.uint8)
        * valid[..., None, None]
        * np.uint8(255),
        "outlined": np.zeros_like(valid),
        "valid": valid,
    }


@pytest.fixture(scope="module")
def batch():
    return random_batch()


def assert_equal_trees(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def all_finite(tree) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_losses_are_finite_and_every_part_learns(detector, batch):
    gradients, metrics, stats = detector.train(batch)
    losses = {name: value for name, value in metrics.items() if name.startswith("loss_")}
    assert set(losses) == {
        "loss_rpn_objectness",
        "loss_rpn_box",
        "loss_class",
        "loss_box",
        "loss_mask",
    }
    assert all(value > 0 for value in losses.values())
    np.testing.assert_allclose(metrics["loss"], sum(losses.values()), rtol=1e-6)
    assert all_finite((losses, stats, gradients))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))
    # Ground truth is among the proposals, so that every object has a foreground RoI at least.
    assert metrics["foreground_rois"] >= OBJECTS.mean()
    moved = jax.tree.map(lambda old, new: bool((old != new).any()), detector.stats, stats)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("content", ["copies of objects", "nonsense"])
def test_padded_ground_truth_changes_nothing(detector, batch, content):
    rng = np.random.default_rng(1)
    if content == "copies of objects":
        # Near the real ones, so that anchors and proposals would match them.
        boxes = np.roll(batch["boxes"], 1, axis=1) + rng.normal(size=batch["boxes"].shape)
        boxes[OBJECTS == 0] = random_boxes(rng, MAX_INSTANCES)
        labels = rng.integers(0, CLASSES, batch["labels"].shape)
    else:
        boxes = rng.normal(scale=1e6, size=batch["boxes"].shape)
        labels = np.full_like(batch["labels"], 1000)
    valid = batch["valid"]
    other = {"boxes": boxes, "labels": labels, "masks": ~batch["masks"], "outlined": ~valid}
    changed = dict(batch)
    for name, values in other.items():
        padded = ~batch["valid"].reshape(BATCH, MAX_INSTANCES, *[1] * (values.ndim - 2))
        changed[name] = np.where(padded, values, batch[name]).astype(batch[name].dtype)
    assert_equal_trees(detector.train(changed), detector.train(batch))
    # The same boxes as objects do count.
    counted = {**changed, "valid": np.ones_like(batch["valid"])}
    assert detector.train(counted)[1]["loss_rpn_box"] != detector.train(batch)[1]["loss_rpn_box"]


def test_images_without_objects(detector):
    gradients, metrics, stats = detector.train(random_batch(objects=np.zeros(BATCH, int)))
    assert metrics["loss_rpn_box"] == metrics["loss_box"] == metrics["loss_mask"] == 0
    assert metrics["loss_rpn_objectness"] > 0
    assert metrics["loss_class"] > 0
    assert metrics["foreground_rois"] == 0
    assert all_finite((metrics, gradients))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients["mask_head"]))
    assert_equal_trees(stats["mask_head"], jax.device_get(detector.stats["mask_head"]))


def test_chance_follows_from_the_key(detector, batch):
    one = detector.train(batch, key=1)
    assert_equal_trees(one, detector.train(batch, key=1))
    one, two = one[1], detector.train(batch, key=2)[1]
    assert all(one[name] != two[name] for name in one if name.startswith("loss"))


def spread_gradients(batch, *, devices: int, accumulate: int, norm: str):
    """Gradients, metrics and statistics of a batch over devices, accumulated in microbatches."""
    mesh = Mesh(np.array(jax.devices()[:devices]), (BATCH_AXIS,))
    stateless = tiny_stateless(norm, mesh)
    whole, split = parallel.replicated(mesh), parallel.batch_sharding(mesh)
    shardings = parallel.state_sharding(mesh, stateless.abstract[0], "replicated")
    compute = jax.jit(
        over_devices(gradient_function(stateless, accumulate=accumulate), mesh, shardings)
    )
    arguments = (
        *jax.device_put(initial(norm), whole),
        jax.device_put(batch, split),
        jax.device_put(image_keys(0, len(batch["image"])), whole),
    )
    return jax.device_get(compute(*arguments))


def assert_same_step(one, two, rtol: float = 1e-5):
    """Equal losses, gradients and statistics but for rounding."""
    close = partial(np.testing.assert_allclose, rtol=rtol, atol=rtol / 10)
    jax.tree.map(close, one[1:], two[1:])
    # Some parameters only move what a batch norm takes out again: their gradients are rounding.
    rounding = 1e-8 * optax.tree.norm(two[0])

    def assert_close(a, b):
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(b) + rounding

    jax.tree.map(assert_close, one[0], two[0])


@pytest.mark.parametrize(("devices", "accumulate"), [(8, 1), (2, 2)])
def test_how_a_batch_is_laid_out_changes_nothing(detector, batch, devices, accumulate):
    """One image on each device, or two microbatches of two, against all at once on one device."""
    found = spread_gradients(batch, devices=devices, accumulate=accumulate, norm="batch")
    assert_same_step(found, detector.train(batch))


@pytest.mark.parametrize("norm", ["cascade", "imted"])
def test_layout_changes_nothing_for_heads_in_microbatches(batch, norm):
    found, whole = (
        spread_gradients(batch, devices=devices, accumulate=accumulate, norm=norm)
        for devices, accumulate in ((2, 4), (1, 1))
    )
    assert_same_step(found, whole)
    zero = [
        path_name(p) for p, leaf in jax.tree_util.tree_leaves_with_path(whole[0]) if not leaf.any()
    ]
    assert zero == (["box_head.pos_embed"] if norm == "imted" else [])  # sines, never trained


def test_statistics_of_microbatches_go_from_one_to_the_next(detector, batch):
    """The cheaper rule: each microbatch normalised by itself, losses and gradients averaged.

    Every image is there twice, so that each half has a batch's size, and the whole its statistics.
    """
    twice = np.array([image for i in range(4) for image in (i, i + 4, i, i + 4)])
    doubled = jax.tree.map(lambda a: a[twice], (batch, image_keys(0)))
    per_microbatch = gradient_function(
        tiny_stateless(), accumulate=2, batch_statistics="microbatch"
    )
    found = jax.device_get(jax.jit(per_microbatch)(detector.params, detector.stats, *doubled))
    stats, halves = detector.stats, []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        half = jax.tree.map(lambda a, part=part: a[part], doubled)
        gradients, metrics, stats = detector.losses(detector.params, stats, *half)
        halves.append((gradients, metrics))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    assert_same_step(found, (*mean, stats))
    whole = detector.train(batch)[1]["loss_class"]
    assert abs(found[1]["loss_class"] - whole) > 1e-4 * whole


IMAGE_HW = np.array(
    [(64, 64), (40, 64), (64, 23), (17, 9), (0, 0), (33, 33), (64, 64), (5, 64)], np.int32
)


@pytest.fixture(scope="module")
def images(batch):
    return {"image": batch["image"], "image_hw": IMAGE_HW}


@pytest.fixture(scope="module")
def found(detector, images):
    return detector.find(images)


def test_detections_are_ranked_and_few(found):
    assert found.scores.shape == found.valid.shape == (BATCH, DETECTIONS)
    assert found.boxes.shape == (BATCH, DETECTIONS, 4)
    assert found.masks.shape == (BATCH, DETECTIONS, 28, 28)
    assert found.valid[0].all()
    # Valid ones first, best first.
    assert (np.diff(found.valid.astype(int)) <= 0).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores[found.valid] > 0.05).all()
    assert (found.scores[~found.valid] == 0).all()
    assert ((found.labels >= 0) & (found.labels < CLASSES)).all()
    assert len(set(found.labels[found.valid])) > 1
    masks = found.masks[found.valid]
    assert ((masks > 0) & (masks < 1)).all()


def test_detections_lie_inside_their_image(found):
    for boxes, valid, (height, width) in zip(found.boxes, found.valid, IMAGE_HW, strict=True):
        assert (boxes[valid] >= 0).all()
        assert (boxes[valid] <= [width, height, width, height]).all()
        assert (boxes[valid][:, 2:] > boxes[valid][:, :2]).all()
    assert not found.valid[4].any(), "an image without an area has no detections"
    assert found.valid[np.arange(BATCH) != 4].any(1).all()


def test_detections_of_one_class_hardly_overlap(found):
    for boxes, labels, valid in zip(found.boxes, found.labels, found.valid, strict=True):
        overlap = np.array(iou(boxes, boxes))
        rivals = (
            (labels[:, None] == labels) & valid[:, None] & valid & ~np.eye(DETECTIONS, dtype=bool)
        )
        assert (overlap[rivals] <= 0.5 + 1e-6).all()


def test_pixels_outside_the_image_do_not_matter(detector, images, found):
    rows, columns = np.arange(IMAGE_SIZE)[:, None, None], np.arange(IMAGE_SIZE)[None, :, None]
    height, width = IMAGE_HW.T.reshape(2, BATCH, 1, 1, 1)
    inside = (rows < height) & (columns < width)
    assert_equal_trees(
        detector.find({**images, "image": np.where(inside, images["image"], 0)}), found
    )
    # The last row inside does.
    is_last = rows == height - 1
    changed = detector.find({**images, "image": np.where(is_last, 0, images["image"])})
    for i in np.flatnonzero(IMAGE_HW.all(1)):
        assert (changed.scores[i] != found.scores[i]).any()


def loops(jaxpr) -> list[str]:
    """Names of all loops in a computation and of all that calls the host."""
    found = []
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("scan", "while") or "callback" in name:
            found.append(name)
        for value in equation.params.values():
            for body in value if isinstance(value, tuple | list) else (value,):
                body = getattr(body, "jaxpr", body)
                found += loops(body) if hasattr(body, "eqns") else []
    return found


def test_no_loop_runs_over_images_or_classes_and_none_on_the_host():
    def trace(images: int, classes: int) -> list[str]:
        stateless = StatelessModel(lambda rngs: build_detector(tiny_config(), classes, rngs))
        batch = {
            "image": jax.ShapeDtypeStruct((images, IMAGE_SIZE, IMAGE_SIZE, 3), jnp.uint8),
            "image_hw": jax.ShapeDtypeStruct((images, 2), jnp.int32),
        }

        def detect(params, stats, batch):
            return stateless.bind(params, stats).detect(batch)

        return loops(jax.make_jaxpr(detect)(*stateless.abstract, batch).jaxpr)

    found = trace(1, 2)
    assert found == trace(4, 40)
    assert set(found) <= {"scan", "while"}, "something calls the host"
    # NMS of proposals and of detections, and RoIAlign twice: in a form for CPUs and one for others.
    assert len(found) == 2 * 2 + 2 * 2


def test_sampling_matches_real_ground_truth_alone():
    """Proposals lie on real, on padded and on no objects; the real ones are candidates too."""
    valid = jnp.array([True, False, True, False])
    objects = jnp.array([(0, 0, 10, 10), (20, 0, 30, 10), (0, 20, 10, 30), (20, 20, 30, 30)], float)
    elsewhere = objects + 40
    proposals = Proposals(
        jnp.concatenate([objects, elsewhere, objects + 1]),
        jnp.zeros(12),
        # Those a pixel off are padding themselves.
        jnp.arange(12) < 8,
    )
    settings = Settings(num_classes=80, roi_batch=16, roi_positive=0.5)
    samples = sample_rois(
        settings, proposals, objects, jnp.array([5, 6, 7, 8]), valid, jax.random.key(0)
    )
    count = 8 + 2
    np.testing.assert_array_equal(samples.sampled, np.arange(16) < count)
    np.testing.assert_array_equal(samples.foreground, np.arange(16) < 4)
    rois = [tuple(roi) for roi in np.asarray(samples.rois[:count]).tolist()]
    expected = [*objects.tolist(), *elsewhere.tolist(), *objects[valid].tolist()]
    assert sorted(rois) == sorted(tuple(box) for box in expected)
    for roi, label, matched in zip(rois, samples.labels, samples.matched, strict=False):
        if roi in ((0, 0, 10, 10), (0, 20, 10, 30)):
            assert roi == tuple(objects[matched].tolist())
            assert label == 5 + matched
        else:
            assert label == 80


def test_sampling_is_random_and_takes_few_foreground():
    boxes = jnp.asarray(random_boxes(np.random.default_rng(0), 40))
    proposals = Proposals(boxes, jnp.zeros(40), jnp.ones(40, bool))
    settings = Settings(num_classes=80, roi_batch=16, roi_positive=0.25)
    objects, labels, valid = boxes[:10], jnp.arange(10), jnp.ones(10, bool)
    samplings = set()
    for seed in range(3):
        key = jax.random.key(seed)
        samples = sample_rois(settings, proposals, objects, labels, valid, key)
        np.testing.assert_array_equal(samples.foreground, np.arange(16) < 4)
        assert samples.sampled.all()
        samplings.add(samples.rois.tobytes())
    assert len(samplings) == 3


def test_normalisation():
    stub = SimpleNamespace(
        settings=Settings(num_classes=1, pixel_mean=(10.0, 20.0, 30.0), pixel_std=(1.0, 2.0, 4.0))
    )
    images = np.full((2, 4, 4, 3), (13, 26, 42), np.uint8)
    normalised = MaskRCNN.normalise(stub, jnp.asarray(images), jnp.array([[4, 4], [2, 3]]))
    expected = np.zeros((2, 4, 4, 3))
    expected[0] = expected[1, :2, :3] = (3, 3, 3)
    np.testing.assert_allclose(normalised, expected)


@pytest.mark.parametrize("padding", [0, 10])
def test_selection_agrees_with_reference(reference, padding):
    """Detectron2's final boxes, also where the list of proposals ends in padding."""
    stored = reference("roi_heads.npz")
    count, classes = stored["class_logits"].shape[0], stored["class_logits"].shape[1] - 1
    settings = Settings(
        num_classes=classes,
        score_threshold=float(stored["score_thresh"]),
        nms_threshold=float(stored["nms_thresh"]),
        detections=int(stored["topk"]),
    )
    # Padding that would win: certain of a class, in the middle of the image, without a rival.
    boxes = np.concatenate([stored["proposal_boxes"], np.tile((20, 20, 90, 80), (padding, 1))])
    logits = np.concatenate(
        [stored["class_logits"], np.tile(99.0 * np.eye(classes + 1)[2], (padding, 1))]
    )
    deltas = np.concatenate([stored["box_deltas"], np.zeros((padding, classes * 4))])
    boxes, logits, deltas = (jnp.asarray(x, jnp.float32) for x in (boxes, logits, deltas))
    found, scores, labels, valid = select(
        settings,
        stage_boxes(
            deltas, boxes, jnp.asarray(stored["image_size"]), box_weights=settings.box_weights
        ),
        class_scores(settings, logits),
        jnp.arange(count + padding) < count,
    )
    assert valid.all()
    np.testing.assert_allclose(found, stored["det_boxes"], atol=2e-5)  # measured: 8e-6
    np.testing.assert_allclose(scores, stored["det_scores"], atol=1e-5)
    np.testing.assert_array_equal(labels, stored["det_classes"])


def test_selection_by_soft_suppression(reference):
    stored = reference("roi_heads.npz")
    boxes, logits, deltas, hw = (
        jnp.asarray(stored[name])
        for name in ("proposal_boxes", "class_logits", "box_deltas", "image_size")
    )
    valid = jnp.ones(len(boxes), bool)

    def selected(**changes):
        settings = Settings(num_classes=logits.shape[1] - 1, detections=30, **changes)
        refined = stage_boxes(deltas, boxes, hw, box_weights=settings.box_weights)
        return jax.device_get(select(settings, refined, class_scores(settings, logits), valid))

    # No IoU is above 1: nothing is suppressed either way.
    everything = selected(nms="hard", nms_threshold=1.0)
    assert_equal_trees(selected(nms="soft_linear", nms_threshold=1.0), everything)
    _, scores, _, valid = selected(nms="soft_gaussian", nms_min_score=0.05)
    assert scores[0] == everything[1][0]
    assert (np.diff(scores) <= 0).all()
    assert (scores <= everything[1]).all()
    assert (scores[valid] > 0.05).all()
    assert (scores < everything[1]).any()


def test_a_single_scale_learns_in_every_part():
    """Without a pyramid: all anchors and RoIs on the transformer's last map."""
    stateless = tiny_stateless("single")
    params, stats = initial("single")
    assert params["rpn"]["objectness"]["kernel"].shape[-1] == 5 * 3
    batch = random_batch(objects=[2, 1])
    compute = jax.jit(gradient_function(stateless))
    gradients, metrics, _ = jax.device_get(compute(params, stats, batch, image_keys(0, 2)))
    assert all(metrics[name] > 0 for name in metrics if name.startswith("loss_"))
    assert all_finite((metrics, gradients))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_patches_of_14_pixels_have_maps_and_anchors_of_their_own():
    """P5 has an odd side, and P6 half of it rounded up."""
    config, side = tiny_config(), 3 * 28
    config.image_size = side
    config.model.vit.patch = 14
    config.model.detector.strides = (3.5, 7, 14, 28, 56)
    check(config)
    stateless = StatelessModel(lambda rngs: build_detector(config, CLASSES, rngs))
    given = random_batch(OBJECTS[:1]) | {"image": np.zeros((1, side, side, 3), np.uint8)}

    def run(params, stats, batch):
        model = stateless.bind(params, stats)
        maps = model.features(batch["image"], batch["image_hw"]).pyramid
        return maps, model.detect(batch).boxes

    maps, boxes = jax.eval_shape(run, *stateless.abstract, given)
    maps = [jnp.zeros(m.shape) for m in maps]
    assert [m.shape[1] for m in maps] == [24, 12, 6, 3, 2]
    assert boxes.shape == (1, DETECTIONS, 4)
    settings = Settings(num_classes=CLASSES, strides=(3.5, 7.0, 14.0, 28.0, 56.0))
    anchors = MaskRCNN.anchors(SimpleNamespace(settings=settings), maps)
    np.testing.assert_array_equal((anchors[0][3, :2] + anchors[0][3, 2:]) / 2, [3.5, 0])
    assert [len(level) for level in anchors] == [3 * m.shape[1] ** 2 for m in maps]
