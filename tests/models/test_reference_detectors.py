"""Whole detectors against published implementations: the same weights, the same outputs."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from checkpoints_convert.cli import main as convert_main
from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from jaxdet.config.mask_rcnn import benchmark, check, vitdet
from jaxdet.errors import UserError
from jaxdet.evaluation.evaluate import evaluate
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.paths import path_name
from jaxdet.training.experiment import Experiment

NUM_CLASSES = 4
BOX_TOLERANCE = 6e-4
"""In pixels of an image of 128; 5.4e-4 was measured."""


def tiny_config(kind: str):
    if kind == "vitdet":
        config = vitdet(
            "b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.0, epochs=1.0, layer_decay=0.7
        )
        shape = {"width": 32, "depth": 4, "pretrain_grid": 4, "window": 3}
        shape |= {"global_blocks": (1, 3), "out_indices": (0, 1, 2, 3)}
    else:
        config = benchmark("b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.0, epochs=1.0)
        shape = {"width": 64, "depth": 8, "pretrain_grid": 8, "window": 4}
        shape |= {"global_blocks": (1, 3, 5, 7), "out_indices": (1, 3, 5, 7)}
    config.image_size = 128
    config.model.dtype = "float32"
    config.model.vit.update(heads=2, **shape)
    if kind == "beitfpn":
        config.model.vit.update(qkv_bias="qv", layer_scale=0.1)
    config.model.pyramid.channels = 16
    config.model.heads.update(box_conv_dim=16, box_fc_dim=32, mask_conv_dim=16)
    config.model.detector.update(
        anchor_sizes=(16.0, 32.0, 64.0, 128.0, 256.0), test_pre_nms=200, test_post_nms=50
    )
    return config


@pytest.fixture(scope="module", params=["vitfpn", "beitfpn", "vitdet"])
def case(request, shared):
    """(stateless model, params, stats, reference outputs) of one stored detector."""
    pytest.importorskip("torch")
    name = f"maskrcnn_{request.param}_tiny"
    converted = convert(read(shared / "reference" / f"{name}.pth"), Options()).arrays
    arrays = {path: tensor.read() for path, tensor in converted.items()}
    config = tiny_config(request.param)
    stateless = StatelessModel(lambda rngs: build_detector(config, NUM_CLASSES, rngs))

    def take(path, leaf):
        value = arrays.pop(path_name(path))
        assert value.shape == leaf.shape, path_name(path)
        return jnp.asarray(value)

    abstract = jax.eval_shape(stateless.init, jax.random.key(0))
    params, stats = jax.tree_util.tree_map_with_path(take, abstract[0]), abstract[1]
    stats = jax.tree_util.tree_map_with_path(take, stats)
    assert not arrays, f"left over: {sorted(arrays)}"
    with np.load(shared / "reference" / f"{name}_outputs.npz") as outputs:
        return stateless, params, stats, dict(outputs)


@pytest.fixture(scope="module")
def found(case):
    """All that the tests compare, by one compiled function per detector."""
    stateless, params, stats, outputs = case
    images = jnp.asarray(outputs["image"].transpose(0, 2, 3, 1))
    sizes = jnp.full((len(images), 2), 128, jnp.int32)
    rois = jnp.stack([outputs["proposals_0"], outputs["proposals_1"]])

    @jax.jit
    def compute(params, stats):
        model = stateless.bind(params, stats)
        features = model.features(images, sizes)
        valid = jnp.ones(rois.shape[:2], bool)
        return {
            "pyramid": features.pyramid,
            "rpn": model.rpn(features.pyramid),
            "box_head": model._classify(model.box_stages[0], features, rois, valid, train=False),
            "detections": model.detect({"image": images, "image_hw": sizes}),
        }

    with jax.default_matmul_precision("highest"):
        return jax.device_get(compute(params, stats))


def test_pyramid_and_rpn(case, found):
    outputs, (objectness, deltas) = case[3], found["rpn"]
    for level in range(5):
        name = f"p{level + 2}"
        expected = outputs[name].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found["pyramid"][level], expected, atol=1e-3, err_msg=name)
        expected = outputs[f"objectness_{name}"].transpose(0, 2, 3, 1).reshape(2, -1)
        np.testing.assert_allclose(objectness[level], expected, atol=1e-3, err_msg=name)
        expected = outputs[f"deltas_{name}"].transpose(0, 2, 3, 1).reshape(2, -1, 4)
        np.testing.assert_allclose(deltas[level], expected, atol=1e-3, err_msg=name)


def test_box_head_on_the_reference_proposals(case, found):
    outputs, (logits, deltas) = case[3], found["box_head"]
    for i in range(2):
        np.testing.assert_allclose(logits[i], outputs[f"class_logits_{i}"], atol=1e-3)
        np.testing.assert_allclose(deltas[i], outputs[f"box_deltas_{i}"], atol=1e-3)


def test_detections(case, found):
    outputs, detections = case[3], found["detections"]
    for i in range(2):
        count = len(outputs[f"det_scores_{i}"])
        boxes, scores, labels, valid, masks = (array[i, :count] for array in detections)
        assert detections.valid[i].sum() == valid.sum() == count
        np.testing.assert_allclose(scores, outputs[f"det_scores_{i}"], atol=1e-4)
        np.testing.assert_array_equal(labels, outputs[f"det_classes_{i}"])
        np.testing.assert_allclose(boxes, outputs[f"det_boxes_{i}"], atol=BOX_TOLERANCE)
        np.testing.assert_allclose(masks, outputs[f"det_masks_{i}"], atol=1e-3)


@pytest.fixture
def coco_folder(shared, tmp_path):
    """The reference's two images as a folder in COCO's format, with an object each."""
    with np.load(shared / "reference" / "maskrcnn_vitdet_tiny_outputs.npz") as outputs:
        images = outputs["image"].transpose(0, 2, 3, 1)
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    square = [10, 10, 60, 10, 60, 60, 10, 60]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 128, "width": 128}
            for i in range(len(images))
        ],
        "categories": [{"id": k + 1, "name": f"class{k}"} for k in range(NUM_CLASSES)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 1,
                "bbox": [10, 10, 50, 50],
                "area": 2500,
                "iscrowd": 0,
                "segmentation": [square],
            }
            for i in range(len(images))
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def evaluation_config(folder, init):
    config = tiny_config("vitdet")
    config.data.update(name="coco", root=str(folder), threads=1)
    config.batch_size = config.eval_batch_size = 8
    config.init = str(init)
    check(config)
    return config


@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_a_converted_detector_is_evaluated_without_a_checkpoint(
    shared, coco_folder, tmp_path, suffix
):
    pytest.importorskip("torch")
    source = shared / "reference" / f"maskrcnn_vitdet_tiny.{suffix}"
    init, workdir = tmp_path / "model_final.npz", tmp_path / "work"
    assert convert_main([str(source), str(init)]) == 0
    if suffix == "pth":  # as an interrupted run leaves it
        (workdir / "checkpoints").mkdir(parents=True)
    with jax.default_matmul_precision("highest"):
        evaluate(Experiment(evaluation_config(coco_folder, init), workdir))
    found = json.loads((workdir / "detections.json").read_text())
    with np.load(shared / "reference" / "maskrcnn_vitdet_tiny_outputs.npz") as outputs:
        for i in range(2):
            mine = [entry for entry in found if entry["image_id"] == i]
            scores = np.array([entry["score"] for entry in mine])
            np.testing.assert_allclose(scores, outputs[f"det_scores_{i}"], atol=1e-4)
            classes = [entry["category_id"] - 1 for entry in mine]
            np.testing.assert_array_equal(classes, outputs[f"det_classes_{i}"])
            x, y, w, h = np.array([entry["bbox"] for entry in mine]).T
            boxes = np.stack([x, y, x + w, y + h], -1)
            np.testing.assert_allclose(boxes, outputs[f"det_boxes_{i}"], atol=BOX_TOLERANCE)
    result = json.loads((workdir / "result.json").read_text())
    assert result["checkpoint"] == str(init)
    assert result["config"]["model"]["detector"]["pixel_mean"] == [123.675, 116.28, 103.53]
    origin = json.loads((workdir / "init.json").read_text())
    assert origin["source"]["file"] == source.name


def test_a_detector_of_other_classes_or_pixels_is_rejected(shared, coco_folder, tmp_path):
    pytest.importorskip("torch")
    source = shared / "reference" / "maskrcnn_vitdet_tiny.pkl"
    init = tmp_path / "model_final.npz"
    assert convert_main([str(source), str(init)]) == 0
    config = evaluation_config(coco_folder, init)
    config.model.detector.pixel_mean = (103.53, 116.28, 123.675)
    with pytest.raises(UserError, match=r"give --config\.model\.detector\.pixel_mean="):
        evaluate(Experiment(config, tmp_path / "work"))
    content = json.loads((coco_folder / "instances.json").read_text())
    content["categories"].append({"id": 5, "name": "more"})
    (coco_folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"box_head\.deltas\.\w+ is \(.*16.*\) and the config's"):
        evaluate(Experiment(evaluation_config(coco_folder, init), tmp_path / "work"))
    assert not (tmp_path / "work").exists()
