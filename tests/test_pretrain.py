"""Pre-training from the command line, and what detectors take of it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints_convert.report import text
from checkpoints_convert.runs import read_run
from jaxdet.config.files import load_config
from jaxdet.config.imted import few_shot_base
from jaxdet.config.mae import check_pretraining
from jaxdet.config.mask_rcnn import check
from jaxdet.config.shapes import (
    mini,
    pretraining,
    shrink_for_shapes,
    start_from_pretraining,
)
from jaxdet.errors import UserError
from jaxdet.main import main as detect
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.paths import path_name
from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT
from jaxdet.pretrain import main
from jaxdet.training.pretraining import build_mae
from jaxdet.weights.file import read_weights
from jaxdet.weights.load import initialise
from tests.runs import break_step, finish, logged, start, stop_after

pytestmark = pytest.mark.usefixtures("shared_programs")

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "mini" / "pretrain.py"

KEYS = {
    "data.shapes.images": 16,
    "data.shapes.image_size": 64,
    "batch_size": 8,
    "model.vit.width": 32,
    "model.vit.depth": 1,
    "model.vit.heads": 2,
    "model.decoder.width": 16,
    "model.decoder.depth": 1,
    "optim.warmup_epochs": 0.5,
    "checkpoint_every": 2,
    "log_every_steps": 1,
}


def flags(workdir: Path, **keys) -> list[str]:
    given = [f"--config.{key}={value}" for key, value in {**KEYS, **keys}.items()]
    return [f"--config={CONFIG}", f"--workdir={workdir}", *given]


def run(workdir: Path, **keys) -> int:
    return main(flags(workdir, **keys))


def losses(workdir: Path) -> list[float]:
    return [line["loss"] for line in logged(workdir)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("pretrain") / "run"
    assert run(workdir, epochs=6) == 0
    return workdir


def named(params) -> dict[str, np.ndarray]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def shrink(config):
    """A detector's config of the size that `KEYS` pre-trains."""
    config.model.vit.update(width=32, depth=1, heads=2)
    config.model.decoder.update(width=16, depth=1)
    return config


def started(config, weights: Path) -> dict[str, np.ndarray]:
    """The parameters that a run of a config starts from, the others zero."""
    config.init = str(weights)
    check(config)
    stateless = StatelessModel(lambda rngs: build_detector(config, 4, rngs))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), stateless.abstract)
    return named(initialise(config, *zeros)[0])


def mini_detector():
    config = shrink(mini("mae"))
    config.model.vit.update(global_blocks=(0,), out_indices=(0,))
    config.model.pyramid.kind = "simple"
    return config


def imted_detector():
    config = few_shot_base("s", drop_path=0.0)
    shrink_for_shapes(config)
    start_from_pretraining(config)
    shrink(config)
    config.model.vit.update(global_blocks=(0,), out_indices=(0,))
    return config


def test_the_loss_falls_and_what_is_promised_is_written(finished):
    found = losses(finished)
    assert len(found) == 12
    assert np.mean(found[-3:]) < np.mean(found[:3])
    with Image.open(finished / "reconstructions.png") as sheet:
        # Eight images, three columns each of 128 pixels with 8 between them.
        assert sheet.size == (6 * 136 + 8, 4 * 136 + 8)
    weights = read_weights(finished / "weights.npz")
    assert not weights.is_detector
    assert "holds     a backbone with a decoder" in text(weights.report)
    config = weights.report["config"]
    assert (config["model.vit.depth"], config["model.decoder.pretrain_grid"]) == (1, 8)
    assert config["model.vit.heads"] == weights.report["vit"]["heads"]
    assert (config["model.vit.rope"], config["model.vit.norm_eps"]) == ("none", 1e-6)
    assert weights.report["recipe"]["model.vit.pretrain_grid"] == 8
    assert read_run(finished).state.keys() == weights.arrays.keys()
    assert json.loads((finished / "config.json").read_text())["batch_size"] == 8


def assert_same_end(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    weights, expected = (read_weights(workdir / "weights.npz") for workdir in (one, other))
    assert weights.arrays.keys() == expected.arrays.keys()
    for name, value in expected.arrays.items():
        np.testing.assert_array_equal(weights.arrays[name], value, err_msg=name)


def test_a_run_stopped_by_sigterm_saves_and_resumes_to_the_same_end(
    finished, tmp_path, monkeypatch, capsys
):
    stop_after(monkeypatch, 3)
    assert run(tmp_path, epochs=6) == 128 + signal.SIGTERM
    assert "saved step 3 of 12 in" in capsys.readouterr().err
    assert not (tmp_path / "weights.npz").exists()
    monkeypatch.undo()
    assert run(tmp_path, epochs=6, profile_steps=(5, 6)) == 0
    assert "resuming after step 3" in capsys.readouterr().out
    assert_same_end(tmp_path, finished)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_finished_run_of_the_version_before_writes_its_weights_again(finished, tmp_path):
    """Its checkpoints know nothing of the keys that came later."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "weights.npz").unlink()
    path = tmp_path / "run" / "checkpoints" / "12" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    for key in ("accumulate", "sharding", "on_nonfinite", "profile_steps"):
        del meta["config"][key]
    del meta["digests"], meta["crc32"]
    path.write_text(json.dumps(meta))
    assert run(tmp_path / "run", epochs=6) == 0
    assert_same_end(tmp_path / "run", finished)


def test_a_step_that_is_not_finite_stops_the_run_or_is_skipped(tmp_path, monkeypatch, capsys):
    break_step(monkeypatch, 5, ("norm", "scale"))
    assert run(tmp_path, epochs=6) == 2
    error = capsys.readouterr().err
    assert "error: training diverged: " in error
    assert "loss_pixels not finite at step 5 (gradient norms: decoder " in error
    assert "checkpoints/4 is the last checkpoint" in error
    assert run(tmp_path, epochs=6, on_nonfinite="skip") == 0
    assert "skipped a step, 1 so far: " in capsys.readouterr().err
    steps = logged(tmp_path)
    assert [line["loss"] is None for line in steps] == [step == 5 for step in range(1, 13)]
    assert [line["skipped_steps"] for line in steps][3:6] == [0, 1, 1]


def test_two_processes_with_microbatches_learn_as_one_without(finished, tmp_path):
    finish(start(["jaxdet.pretrain", *flags(tmp_path, epochs=6, accumulate=2)], 2))
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=1e-5)
    reports = [read_weights(workdir / "weights.npz").report for workdir in (tmp_path, finished)]
    assert reports[0]["used"] == reports[1]["used"]


def test_another_config_in_the_same_folder_is_rejected(finished, capsys):
    assert run(finished, epochs=6, **{"model.mask_ratio": 0.5}) == 2
    assert "config.model.mask_ratio was 0.75 and is now 0.5" in capsys.readouterr().err


def test_a_benchmark_s_detector_takes_the_encoder_and_leaves_the_rest(finished, capsys):
    weights = read_weights(finished / "weights.npz")
    params = started(mini_detector(), weights.path)
    taken = {name for name, value in params.items() if value.any()}
    expected = {name for name in weights.arrays if name.startswith("backbone.")}
    expected -= {"backbone.class_token", "backbone.class_pos_embed"}
    biases = {name for name in expected if not weights.arrays[name].any()}
    assert taken == expected - biases
    for name in expected:
        np.testing.assert_array_equal(params[name], weights.arrays[name], err_msg=name)
    left = len(weights.arrays) - len(expected)
    assert f"and {left - 2} more not taken, as config.model says" in capsys.readouterr().out


def test_imted_takes_all_of_it(finished):
    weights = read_weights(finished / "weights.npz")
    params = started(imted_detector(), weights.path)
    assert any(name.startswith("box_head.blocks.") for name in weights.arrays)
    for name, value in weights.arrays.items():
        np.testing.assert_array_equal(params[name], value, err_msg=name)
    assert not params["box_head.logits.kernel"].any()


def test_imted_rejects_a_decoder_of_another_size(finished):
    config = imted_detector()
    config.model.decoder.heads = 4
    with pytest.raises(UserError, match=r"made for model\.decoder\.heads 2; the config says 4"):
        started(config, finished / "weights.npz")


def test_with_every_patch_seen_the_tokens_are_the_detector_s(finished):
    config = shrink(pretraining())
    weights = read_weights(finished / "weights.npz").arrays

    settings = VitSettings(
        **config.model.vit,
        image_size=64,
        pretrain_grid=8,
        window=4,
        global_blocks=(0,),
        out_indices=(0,),
        relative_position="none",
        class_token=True,
    )

    def backbone(rngs):
        return ViT(settings, dtype="float32", rngs=rngs)

    def filled(stateless, prefix):
        """A model's parameters with those of the file whose names start so, the others zero."""

        def value(path, leaf):
            name = f"backbone.{path_name(path).removeprefix(prefix)}"
            return weights[name] if path_name(path).startswith(prefix) else np.zeros(leaf.shape)

        return jax.tree_util.tree_map_with_path(value, stateless.abstract[0])

    @jax.jit
    def both(images, mae_params, backbone_params):
        seen = jax.numpy.tile(jax.numpy.arange(64), (2, 1))
        tokens = mae.bind(mae_params, {}).encode(images, seen)
        return tokens, detector.bind(backbone_params, {})(images)[0]

    mae, detector = StatelessModel(lambda rngs: build_mae(config, rngs)), StatelessModel(backbone)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    tokens, maps = both(images, filled(mae, "encoder."), filled(detector, ""))
    np.testing.assert_allclose(tokens[:, 0, 1:].reshape(maps.shape), maps, atol=1e-5)
    assert np.std(maps) > 0.1


def test_a_folder_of_images_will_do_and_a_broken_one_is_named(tmp_path, capsys):
    assert run(tmp_path / "run", epochs=1, **{"data.root": tmp_path / "absent"}) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert run(tmp_path / "run", epochs=1, **{"data.root": tmp_path}) == 2
    assert "holds no images" in capsys.readouterr().err
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    assert run(tmp_path / "run", epochs=1, **{"data.root": tmp_path}) == 2
    assert "broken.jpg cannot be read as an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("image_size", 60, "must be a multiple of config.model.vit.patch=8"),
        ("model.mask_ratio", 0.999, "must leave some of the 64 patches seen"),
        ("data.crop_area", (0.5, 0.2), "must have the smaller share first"),
        ("optim.warmup_epochs", 1e5, "must be below config.epochs=16"),
        ("model.decoder.heads", 3, "must divide config.model.decoder.width=64"),
        ("model.decoder.width", 6, "multiple of 4"),
        ("batch_size", 0, "must be an integer of at least 1"),
    ],
)
def test_a_config_out_of_bounds_is_rejected(key, value, reason):
    config = pretraining()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"config\.{key}=.*{reason}"):
        check_pretraining(config)


def test_a_config_of_the_other_command_is_rejected(capsys):
    assert main([f"--config={CONFIG.with_name('random.py')}"]) == 2
    assert "give it to `jaxdet train`" in capsys.readouterr().err
    assert detect([f"--config={CONFIG}"]) == 2
    assert "give it to `jaxdet pretrain`" in capsys.readouterr().err


def test_the_miniature_compares_one_recipe_from_two_starts():
    folder = CONFIG.parent
    random, mae = (load_config(folder / f"{name}.py").to_dict() for name in ("random", "mae"))
    assert random["optim"] == mae["optim"]
    assert random["data"] == mae["data"]
    assert (random["epochs"], random["batch_size"]) == (mae["epochs"], mae["batch_size"])
    assert random["model"]["vit"].pop("absolute_position") == "random"
    assert mae["model"]["vit"].pop("absolute_position") == "pretrained"
    assert random["model"] == mae["model"]
    mae_config = mini("mae")
    mae_config.init = "absent.npz"
    with pytest.raises(UserError, match=r"is not a file; make it: python -m jaxdet\.pretrain"):
        check(mae_config)
    given = load_config(CONFIG)
    encoder = {key: given.model.vit[key] for key in ("width", "depth", "heads", "patch")}
    assert encoder.items() <= mae["model"]["vit"].items()
