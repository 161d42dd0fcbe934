"""Pre-training from the command line, and what detectors take of it."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints_convert.report import text
from jaxdet.config.imted import few_shot_base, shrink_for_shapes
from jaxdet.config.mae import check_pretraining
from jaxdet.config.mask_rcnn import check
from jaxdet.config.shapes import mini, pretraining, start_from_pretraining
from jaxdet.errors import UserError
from jaxdet.flags import load_config
from jaxdet.main import main as detect
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.paths import path_name
from jaxdet.models.settings import VitSettings
from jaxdet.models.vit import ViT
from jaxdet.pretrain import build_mae, main
from jaxdet.weights.load import initialise, read_weights

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "mini" / "pretrain.py"

WORDS = {
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


def run(workdir: Path, **words) -> int:
    given = [f"--config.{word}={value}" for word, value in {**WORDS, **words}.items()]
    return main([f"--config={CONFIG}", f"--workdir={workdir}", *given])


def losses(workdir: Path) -> list[float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("pretrain") / "run"
    assert run(workdir, epochs=6) == 0
    return workdir


def named(params) -> dict[str, np.ndarray]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def shrink(config):
    """A detector's config of the size that `WORDS` pre-trains."""
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
    with Image.open(finished / "reconstructions.png") as picture:
        # Eight images, three columns each of 128 pixels with 8 between them.
        assert picture.size == (6 * 136 + 8, 4 * 136 + 8)
    weights = read_weights(finished / "weights.npz")
    assert not weights.is_detector
    assert "holds     a backbone with a decoder" in text(weights.report)
    config = weights.report["config"]
    assert (config["model.vit.depth"], config["model.decoder.pretrain_grid"]) == (1, 8)
    assert json.loads((finished / "config.json").read_text())["batch_size"] == 8


def test_a_run_goes_on_where_it_was_and_to_the_same_end(finished, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxdet.pretrain.Progress.update", lambda self, step, _: step == 5 and stop())
        assert run(tmp_path, epochs=6) == 130
    assert not (tmp_path / "weights.npz").exists()
    assert run(tmp_path, epochs=6) == 0
    np.testing.assert_allclose(losses(tmp_path), losses(finished), rtol=1e-6)
    again, whole = (read_weights(folder / "weights.npz") for folder in (tmp_path, finished))
    for name, value in whole.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], value, err_msg=name)


def test_another_config_in_the_same_folder_is_refused(finished, capsys):
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


def test_imted_refuses_a_decoder_of_another_size(finished):
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
    ("word", "value", "reason"),
    [
        ("image_size", 60, "is a multiple of the patch, 8"),
        ("model.mask_ratio", 0.999, "leaves some of the 64 patches seen"),
        ("data.crop_area", (0.5, 0.2), "has the smaller share first"),
        ("optim.warmup_epochs", 1e5, "is shorter than"),
        ("model.decoder.heads", 3, "divides the width"),
        ("model.decoder.width", 6, "multiple of 4"),
        ("batch_size", 0, "lies between"),
    ],
)
def test_a_config_that_cannot_be_is_refused(word, value, reason):
    config = pretraining()
    config.update_from_flattened_dict({word: value})
    with pytest.raises(UserError, match=rf"config\.{word}=.*{reason}"):
        check_pretraining(config)


def test_a_config_of_the_other_command_is_refused(capsys):
    assert main([f"--config={CONFIG.with_name('random.py')}"]) == 2
    assert "this config is for another command: config has no word" in capsys.readouterr().err
    assert detect([f"--config={CONFIG}"]) == 2
    assert "this config is for another command: config has no word" in capsys.readouterr().err


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
    encoder = {word: given.model.vit[word] for word in ("width", "depth", "heads", "patch")}
    assert encoder.items() <= mae["model"]["vit"].items()
