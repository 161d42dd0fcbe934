"""The whole line on the built-in shapes: train, interrupt, resume, evaluate."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image

from checkpoints_convert.cli import main as convert_main
from jaxdet import parallel
from jaxdet import train as train_module
from jaxdet.benchmark.reporting.result_file import read_run
from jaxdet.config.mask_rcnn import check
from jaxdet.config.roles import difference
from jaxdet.data.dataset import Category
from jaxdet.data.shapes import ShapesDataset
from jaxdet.errors import UserError
from jaxdet.evaluation.evaluate import evaluate
from jaxdet.evaluation.result_files import Evaluation
from jaxdet.train import train, training_batches
from jaxdet.training.checkpoint import digest
from jaxdet.training.experiment import Experiment
from jaxdet.training.step import abstract_state, make_train_step
from jaxdet.weights.load import initialise
from tests.events import read_events
from tests.runs import break_step
from tests.tiny import get_config as small_config

pytestmark = pytest.mark.usefixtures("shared_programs")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_metrics_config_and_images(finished):
    experiment, metrics = finished
    workdir = experiment.workdir
    result = json.loads((workdir / "result.json").read_text())
    assert result["step"] == experiment.total_steps == 4
    assert result["metrics"]["bbox"]["AP"] == metrics["bbox"]["AP"]
    assert result["config"] == experiment.plain_config
    plain = json.dumps(result["config"], sort_keys=True, separators=(",", ":"))
    assert result["config_sha256"] == hashlib.sha256(plain.encode()).hexdigest()
    assert result["epochs"] == 4 * 8 / experiment.trained_images
    assert result["images"] == {"train": experiment.trained_images, "val": 9}
    assert result["init"] is None
    seconds = result["evaluation"]["seconds"]
    assert seconds["detect"] > 0
    assert seconds["score"] > 0
    assert result["evaluation"]["images_per_second"] == 9 / seconds["detect"]
    assert (workdir / "detections.png").read_bytes().startswith(b"\x89PNG")
    assert isinstance(json.loads((workdir / "detections.json").read_text()), list)
    inspected = read_run(workdir).inspection
    assert len(inspected.images) == 9
    assert sum(inspected.objects["train"]) >= experiment.trained_images
    drawn = {(e.step, each.tag) for e in read_events(workdir) for each in e.summary.value}
    assert {(0, "config"), (1, "loss"), (4, "loss"), (2, "val/bbox/AP")} <= drawn
    assert {(4, "detections"), (4, "metrics"), (4, "per_category")} <= drawn
    steps = [line["step"] for line in lines(workdir) if "loss" in line]
    assert steps == [1, 2, 3, 4]
    evaluated = [line for line in lines(workdir) if "val/bbox/AP" in line]
    assert [line["step"] for line in evaluated] == [2, 4]
    assert evaluated[-1]["val/tide/segm/main/Bkg"] == metrics["tide"]["segm"]["main"]["Bkg"]


def test_a_finished_run_is_evaluated_again_and_not_trained(finished, tmp_path):
    experiment, metrics = finished
    workdir = tmp_path / "work"
    shutil.copytree(experiment.workdir, workdir)
    (workdir / "result.json").unlink()
    again = train(Experiment(small_config(), workdir))
    np.testing.assert_equal(again, metrics)
    assert (workdir / "result.json").exists()


def test_evaluation_of_the_newest_checkpoint_gives_the_run_s_numbers(finished, tmp_path):
    experiment, metrics = finished
    workdir = tmp_path / "work"
    shutil.copytree(experiment.workdir, workdir)
    trained = json.loads((workdir / "result.json").read_text())
    detections = (workdir / "detections.json").read_bytes()
    inspected = (workdir / "inspection.json").read_bytes()
    config = small_config()
    config.eval_workers = 2
    np.testing.assert_equal(evaluate(Experiment(config, workdir)), metrics)
    assert (workdir / "detections.json").read_bytes() == detections
    assert (workdir / "inspection.json").read_bytes() == inspected
    evaluated = json.loads((workdir / "result.json").read_text())
    changed = {name for name in trained if trained[name] != evaluated[name]}
    assert changed == {"evaluation", "checkpoint"}  # how long it took, and where it lies


def test_evaluations_write_the_validation_loss_where_it_is_asked_for(
    finished, tmp_path, monkeypatch
):
    found = []

    def fit(task):
        params, stats = task.run.stateless.abstract
        state = {"params": params, "stats": stats, "step": 4}
        found.append(task.evaluate(state))
        return state

    experiment, _ = finished
    (evaluated,) = [line for line in lines(experiment.workdir) if "val/bbox/AP" in line][-1:]
    metrics = {"bbox": {"AP": evaluated["val/bbox/AP"], "AP50": 0.0}}
    evaluation = Evaluation(metrics, [], None, {})
    monkeypatch.setattr(train_module, "fit", fit)
    monkeypatch.setattr(train_module, "report", lambda *_, **__: None)
    monkeypatch.setattr(train_module, "evaluated_checkpoint", lambda *_: SimpleNamespace(step=4))
    monkeypatch.setattr(train_module, "Evaluator", lambda _: lambda *_: evaluation)
    monkeypatch.setattr(train_module, "ValidationLoss", lambda _: lambda *_: {"loss": 1.5})
    monkeypatch.setattr(train_module, "_track", lambda *_: None)
    monkeypatch.setattr(train_module, "object_counts", lambda _: pytest.fail("of LVIS's metric"))
    for eval_loss in (False, True):
        config = small_config()
        config.data.metric = "lvis"
        config.eval_loss = eval_loss
        train(Experiment(config, tmp_path))
        assert found.pop().scalars.get("val/loss") == (1.5 if eval_loss else None)


def test_a_digest_is_of_names_and_numbers_alone():
    state = {"b": jnp.arange(8.0), "a": {"c": jnp.ones(3)}}
    split = jax.device_put(state["b"], parallel.batch_sharding(parallel.data_mesh(8, 8)))
    assert digest({"b": split}, {"a": state["a"]}) == digest(state)
    assert digest({"b": state["b"], "a": {"d": state["a"]["c"]}}) != digest(state)
    assert digest({**state, "b": state["b"].at[3].add(1e-6)}) != digest(state)
    assert digest({**state, "b": state["b"].reshape(2, 4)}) != digest(state)


def test_a_changed_config_is_rejected_with_the_difference(finished):
    experiment, _ = finished
    config = small_config()
    config.optim.lr = 2e-3
    with pytest.raises(UserError, match=r"config\.optim\.lr was 0\.001 and is now 0\.002"):
        train(Experiment(config, experiment.workdir))


def test_evaluation_as_another_model_is_rejected(finished):
    experiment, _ = finished
    config = small_config()
    config.model.vit.width = 64
    with pytest.raises(UserError, match=r"config\.model\.vit\.width was 32 and is now 64"):
        evaluate(Experiment(config, experiment.workdir))


def test_evaluation_keeps_the_config_the_checkpoint_was_trained_with(finished, tmp_path):
    experiment, _ = finished
    workdir = tmp_path / "work"
    shutil.copytree(experiment.workdir, workdir)
    config = small_config()
    config.optim.lr = 0.5
    config.data.shapes.val_images = 3
    config.model.detector.nms = "soft_linear"  # a key for test time may differ
    evaluate(Experiment(config, workdir))
    result = json.loads((workdir / "result.json").read_text())
    assert result["config"]["model"]["detector"].pop("nms") == "soft_linear"
    trained = experiment.plain_config
    assert trained["model"]["detector"].pop("nms") == "hard"
    assert result["config"] == trained
    assert result["evaluated_on"]["shapes"]["val_images"] == 3


def test_a_run_may_be_resumed_from_elsewhere(finished, tmp_path):
    experiment, metrics = finished
    workdir = tmp_path / "work"
    shutil.copytree(experiment.workdir, workdir)
    config = small_config()
    config.data.update(root="/moved", threads=2)
    config.log_every_seconds = 1.0
    np.testing.assert_equal(train(Experiment(config, workdir)), metrics)


def test_other_classes_are_rejected(finished, monkeypatch):
    experiment, _ = finished
    classes = (*ShapesDataset.categories[:3], Category(4, "moon"))
    monkeypatch.setattr(ShapesDataset, "categories", classes)
    for run in (train, evaluate):
        with pytest.raises(UserError, match=r"categories was .*'star'.* is now .*'moon'"):
            run(Experiment(small_config(), experiment.workdir))


def test_evaluation_without_a_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"checkpoints does not exist; train first"):
        evaluate(Experiment(small_config(), tmp_path))


def test_a_divergence_stops_the_run_and_names_the_step(tmp_path, monkeypatch):
    break_step(monkeypatch, 2, ("rpn", "objectness", "bias"))
    with pytest.raises(UserError, match=r"training diverged: .*loss.* at step 2"):
        train(Experiment(small_config(), tmp_path / "work"))


def test_a_pre_trained_config_does_not_start_from_random_weights(tmp_path):
    config = small_config("mae")
    with pytest.raises(UserError, match=r"config\.init is not set: no published file .* convert"):
        train(Experiment(config, tmp_path / "work"))
    assert not (tmp_path / "work").exists()


OFFICIAL = {
    "random": None,
    "supervised": "deit_tiny.pth",
    "mocov3": "mocov3_tiny.pth",
    "beit": "beit_pretrained_tiny.pth",
    "mae": "mae_tiny.pth",
}
"""Tiny checkpoints of the five initialisations, of the size of `small_config`."""

LAYOUTS = {"supervised": "deit", "beit": "beit"}
"""Those whose names others have too."""

QUICK_COMPILER = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def ten_step_config(initialisation):
    config = small_config(initialisation)
    config.model.vit.update(depth=4, global_blocks=(1, 3), out_indices=(3,))
    config.epochs = 5.0
    config.batch_size = 2
    if initialisation == "beit":
        config.model.vit.update(qkv_bias="qv", layer_scale=0.1)
    else:
        config.model.vit.absolute_trainable = False
    return config


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Makes (init, training step) of a config, compiled once for all of one structure."""
    known = {}

    def get(experiment):
        structure = experiment.config.model.vit.qkv_bias
        if structure not in known:
            key = jax.random.key(0)
            init = jax.jit(experiment.stateless.init).lower(key)
            init = init.compile(compiler_options=QUICK_COMPILER)
            step = make_train_step(experiment.stateless, experiment.optimizer, experiment.mesh)
            state = abstract_state(experiment.stateless, experiment.optimizer)
            batch = parallel.shard_batch(next(training_batches(experiment)), experiment.mesh)
            lowered = step.lower(state, batch, key)
            known[structure] = init, lowered.compile(compiler_options=QUICK_COMPILER)
        return known[structure]

    return get


@pytest.mark.parametrize("initialisation", OFFICIAL)
def test_every_initialisation_trains_ten_steps(initialisation, compiled, reference_file, tmp_path):
    config, name = ten_step_config(initialisation), OFFICIAL[initialisation]
    if name is not None:
        pytest.importorskip("torch")
        config.init = str(tmp_path / "init.npz")
        arguments = [str(reference_file(name)), config.init, "--window=2", "--global-grid=4"]
        arguments += [f"--from={LAYOUTS[initialisation]}"] if initialisation in LAYOUTS else []
        assert convert_main(arguments) == 0
    check(config)
    experiment = Experiment(config, tmp_path / "work")
    experiment.mesh = jax.make_mesh(
        (1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1]
    )
    init, step = compiled(experiment)
    params, stats = init(jax.random.key(0))
    if name is not None:
        params, stats, origin = initialise(config, params, stats)
        assert origin["source"]["file"] == name
        with np.load(config.init) as converted:
            kernel = converted["backbone.blocks.2.attn.qkv.kernel"]
        np.testing.assert_array_equal(
            params["backbone"]["blocks"][2]["attn"]["qkv"]["kernel"], kernel
        )
    start = jax.device_get(params)["backbone"]
    state = {
        "params": params,
        "stats": stats,
        "opt_state": experiment.optimizer.init(params),
        "step": jnp.int32(0),
    }
    # One batch again and again, whose loss must fall: ten steps are too few to see it on others.
    batch = parallel.shard_batch(next(training_batches(experiment)), experiment.mesh)
    losses = []
    for _ in range(10):
        state, metrics = step(state, batch, jax.random.key(0))
        assert all(np.isfinite(float(value)) for value in metrics.values())
        # Not the box losses, which grow while more of the sampled boxes become objects.
        losses.append(
            sum(float(metrics[f"loss_{part}"]) for part in ("class", "mask", "rpn_objectness"))
        )
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.02
    end = jax.device_get(state["params"])["backbone"]
    still = {
        jax.tree_util.keystr(path)
        for path, same in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(np.array_equal, start, end)
        )
        if same
    }
    assert still == (set() if config.model.vit.absolute_trainable else {"['pos_embed']"})


@pytest.fixture
def coco_folder(tmp_path):
    """The shapes written out as a folder in COCO's format."""
    shapes = ShapesDataset("train", 16, 64)
    (tmp_path / "images").mkdir()
    annotations = shapes.ground_truth()
    for index, record in enumerate(annotations["images"]):
        record["file_name"] = f"{index}.png"
        Image.fromarray(shapes[index].image).save(tmp_path / "images" / record["file_name"])
    (tmp_path / "instances.json").write_text(json.dumps(annotations))
    return tmp_path


def coco_config(folder):
    """Of the length and sizes of `finished`, whose compiled programs it thus shares."""
    config = small_config()
    config.data.update(name="coco", root=str(folder))
    return config


def test_a_coco_folder_trains_and_evaluates(coco_folder, capsys):
    train(Experiment(coco_config(coco_folder), coco_folder / "work"))
    result = json.loads((coco_folder / "work" / "result.json").read_text())
    assert result["step"] == 4
    assert set(result["metrics"]["bbox"]["per_category"]) == {"disc", "box", "triangle", "star"}
    assert capsys.readouterr().out.count("16 images, 16 of them with objects") == 1


def test_an_unreadable_image_stops_the_run_by_name(coco_folder):
    image = coco_folder / "images" / "3.png"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(UserError) as raised:
        train(Experiment(coco_config(coco_folder), coco_folder / "work"))
    assert str(image) in str(raised.value)


def test_a_batch_that_does_not_divide_over_the_devices_is_rejected(tmp_path):
    config = small_config()
    config.batch_size = 6
    with pytest.raises(UserError, match=r"batch_size=6 must be a multiple of 8: 8 device"):
        train(Experiment(config, tmp_path / "work"))


def test_difference_names_the_first_key_that_differs():
    assert difference({"a": 1}, {"a": 1}) is None
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "config.a.b was 1 and is now 2"
    assert difference({"a": 1}, {}) == "config.a was 1 and is now None"
