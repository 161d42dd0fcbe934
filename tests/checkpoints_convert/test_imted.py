"""MAE's encoder and decoder, and imTED's detectors, into jaxdet and back."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from checkpoints_convert.cli import main
from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from jaxdet.config.imted import imted
from jaxdet.config.mask_rcnn import check
from jaxdet.errors import UserError
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.paths import path_name
from jaxdet.weights.load import initialise

torch = pytest.importorskip("torch")


@pytest.fixture
def autoencoder(reference_file, tmp_path):
    """MAE's official code's encoder and decoder of random weights: converted, and its tensors."""
    source = reference_file("mae_full_tiny.pth")
    out = tmp_path / "mae_full.npz"
    assert main(["--target=imted", str(source), str(out)]) == 0
    return out, torch.load(source, weights_only=True)["model"]


def tiny_config(init, parts="modulated"):
    config = imted("b", drop_path=0.0, masks=False, parts=parts)
    config.image_size = config.data.long_side = 64
    config.model.vit.update(
        width=32, depth=4, heads=2, pretrain_grid=4, global_blocks=(0, 1, 2, 3), out_indices=(3,)
    )
    config.model.pyramid.channels = 8
    config.init = str(init)
    return config


def started(config):
    """The parameters a run of this config starts from, by name."""
    check(config)
    stateless = StatelessModel(lambda rngs: build_detector(config, 3, rngs))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), stateless.abstract)
    params, _, _ = initialise(config, *zeros)
    return {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(params)}


def decoder_size(state):
    depth = len({name.split(".")[1] for name in state if name.startswith("decoder_blocks.")})
    width = state["decoder_embed.weight"].shape[0]
    side = round((state["decoder_pos_embed"].shape[1] - 1) ** 0.5)
    return {"width": width, "depth": depth, "heads": 2, "pretrain_grid": side}


def test_the_decoder_arrives_in_the_detector_as_it_was(autoencoder):
    out, state = autoencoder
    config = tiny_config(out)
    config.model.decoder.update(decoder_size(state))
    params = started(config)
    equal = np.testing.assert_array_equal
    equal(params["backbone.class_token"], state["cls_token"][0, 0])
    equal(params["backbone.class_pos_embed"], state["pos_embed"][0, 0])
    equal(params["backbone.pos_embed"].reshape(-1, 32), state["pos_embed"][0, 1:])
    equal(params["box_head.norm.scale"], state["norm.weight"])
    equal(params["box_head.norm.bias"], state["norm.bias"])
    equal(params["box_head.embed.kernel"], state["decoder_embed.weight"].T)
    position = params["box_head.pos_embed"]
    equal(position.reshape(-1, position.shape[-1]), state["decoder_pos_embed"][0, 1:])
    for i in range(config.model.decoder.depth):
        theirs, ours = f"decoder_blocks.{i}", f"box_head.blocks.{i}"
        equal(params[f"{ours}.norm1.scale"], state[f"{theirs}.norm1.weight"])
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            equal(params[f"{ours}.{layer}.kernel"], state[f"{theirs}.{layer}.weight"].T)
            equal(params[f"{ours}.{layer}.bias"], state[f"{theirs}.{layer}.bias"])
    # The decoder's own last norm, its prediction and the outputs for classes are not MAE's.
    assert not params["box_head.box_norm.scale"].any()
    assert not params["box_head.logits.kernel"].any()


@pytest.mark.parametrize(
    ("parts", "start", "taken", "left"),
    [
        ("pyramid", "pretrained", "box_head.blocks.0.norm1.scale", "box_head.embed.kernel"),
        ("encoder", "random", "backbone.class_token", "box_head.blocks.0.norm1.scale"),
        ("baseline", "pretrained", "backbone.class_token", "box_head.fc.kernel"),
    ],
)
def test_each_step_of_the_ladder_takes_its_part(autoencoder, parts, start, taken, left):
    out, state = autoencoder
    config = tiny_config(out, parts)
    config.model.decoder.update(**decoder_size(state), start=start)
    params = started(config)
    assert params[taken].any()
    assert not params[left].any()


def test_an_encoder_alone_is_rejected_with_the_reason(reference_file, tmp_path, capsys):
    source, out = reference_file("mae_tiny.pth"), tmp_path / "mae.npz"
    assert main(["--target=imted", str(source), str(out)]) == 2
    assert "an encoder and no decoder, which imTED's box head is made from" in (
        capsys.readouterr().err
    )
    assert not out.exists()
    assert main([str(source), str(out)]) == 0
    with pytest.raises(UserError, match=r"lacks .* convert the file with encoder and decoder .*"):
        started(tiny_config(out))


def test_a_published_detector_comes_back_as_it_was(reference_file, tmp_path, capsys):
    source, ours, back = (
        reference_file("imted_tiny.pth"),
        tmp_path / "imted.npz",
        tmp_path / "imted.pth",
    )
    assert main([str(source), str(ours)]) == 0
    assert "a whole detector of 4 classes" in capsys.readouterr().out
    assert main(["--to=torch", str(ours), str(back)]) == 0
    assert "tensors under imTED's names" in capsys.readouterr().out
    expected = torch.load(source, weights_only=True)["state_dict"]
    content = torch.load(back, weights_only=True)
    found = content["state_dict"]
    assert content["meta"] == {}
    assert set(found) == {name for name in expected if "num_batches_tracked" not in name}
    for name, value in found.items():
        if name.endswith("decoder_pos_embed"):
            np.testing.assert_array_equal(value[:, 1:], expected[name][:, 1:])
        else:
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_an_incomplete_detector_is_rejected(reference_file, tmp_path):
    content = torch.load(reference_file("imted_tiny.pth"), weights_only=True)
    for name in ("neck.fpn_convs.2.conv.weight", "roi_head.mfm_fc.weight", "backbone.cls_token"):
        state = {key: value for key, value in content["state_dict"].items() if key != name}
        torch.save({"state_dict": state}, tmp_path / "part.pth")
        with pytest.raises(UserError, match="the file lacks"):
            convert(read(tmp_path / "part.pth"), Options())
