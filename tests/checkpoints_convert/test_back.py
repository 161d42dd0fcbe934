"""Trained weights under the names that they came from, and timm's call that takes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from checkpoints_convert.back import to_original
from checkpoints_convert.cli import main
from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from checkpoints_convert.tensors import of_array
from checkpoints_convert.timm_model import NoTimmClassError, timm_model
from checkpoints_convert.vit import to_timm
from jaxdet.errors import UserError
from jaxdet.weights.file import read_weights
from tests.checkpoints_convert.test_real_classes import FAMILIES, SMALL, converted
from tests.tiny import get_config

pytest.importorskip("torch")

SUMS = ("backbone.class_token", "backbone.class_pos_embed", "backbone.registers")
"""Where a class has no position of its own for a token, the two are one tensor."""


def trained(arrays):
    """Arrays of the same shapes with other values."""
    rng = np.random.default_rng(1)
    return {
        path: of_array(rng.normal(size=tensor.shape).astype(np.float32))
        for path, tensor in arrays.items()
    }


@pytest.mark.parametrize("name", [*FAMILIES, "hf_beit", "hf_sam", "timm_samvit"])
def test_the_original_with_trained_values_converts_to_these(reference_file, name, monkeypatch):
    """Whatever the layout; BEiT's tables, which are resized, stay the original's."""
    heads = int(np.load(reference_file(f"{name}_outputs.npz"))["heads"])
    conversion = converted(reference_file, name, heads)
    arrays = trained(conversion.arrays)
    original = read(reference_file(f"{name}.safetensors"))
    back, unplaced = to_original(arrays, conversion.report, original)
    assert back.keys() == original.state.keys()
    assert all(tensor.shape == original.state[each].shape for each, tensor in back.items())
    computed = {path for path in arrays if path.startswith("backbone.rel_pos_")}
    computed |= {"backbone.registers"} if name == "hf_deit" else set()
    assert set(unplaced) == computed
    monkeypatch.setattr(
        "tests.checkpoints_convert.test_real_classes.read", lambda _: replace(original, state=back)
    )
    again = converted(reference_file, name, heads).arrays
    for path in arrays.keys() - computed - set(SUMS):
        np.testing.assert_array_equal(again[path].read(), arrays[path].read(), err_msg=path)
    if SUMS[0] in arrays:
        sums = [sum(each[path].read() for path in SUMS[:2]) for each in (again, arrays)]
        np.testing.assert_allclose(sums[0], sums[1], atol=1e-6)


@pytest.mark.parametrize("name", [*SMALL, "hf_vitdet"])
def test_files_of_other_packages_too(reference_file, name):
    suffix = ".npz" if name == "big_vision" else ".safetensors"
    options = {"heads": 2, "suffix": suffix, "pixels": "half"}
    conversion = converted(reference_file, f"layouts/{name}", **options)
    arrays = trained(conversion.arrays)
    original = read(reference_file(f"layouts/{name}{suffix}"))
    back, unplaced = to_original(arrays, conversion.report, original)
    assert unplaced == []
    again = convert(
        replace(original, state=back), Options(heads=2, activation="gelu"), pixels="half"
    )
    for path in arrays.keys() - {*SUMS}:
        np.testing.assert_array_equal(again.arrays[path].read(), arrays[path].read(), err_msg=path)


def test_another_original_is_refused(reference_file):
    conversion = converted(reference_file, "hf_vit", 3)
    other = read(reference_file("hf_dinov2.safetensors"))
    with pytest.raises(UserError, match="give the file that they were converted from"):
        to_original(conversion.arrays, conversion.report, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_timm_s_class_takes_them_and_gives_the_same_tokens(reference_file, name):
    """Strictly, and blocks' tokens are those of the real class that the file is of."""
    pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    expected = np.load(reference_file(f"{name}_outputs.npz"))
    conversion = converted(reference_file, name, int(expected["heads"]))
    model = model_of(timm_model(conversion.arrays, conversion.report))
    state = to_timm(conversion.arrays, conversion.report)
    model.load_state_dict(
        {each: torch.from_numpy(np.array(tensor.read())) for each, tensor in state.items()},
        strict=True,
    )
    if name in ("nvidia_radio", "hf_beit_shared"):
        return  # positions of another size are resized in another way; a class token is made up
    tokens = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: tokens.append(output.numpy()))
    with torch.no_grad():
        model.forward_features(torch.from_numpy(expected["image"]))
    wanted = expected["tokens"]
    patches = [each[:, -wanted.shape[2] * wanted.shape[3] :] for each in tokens]
    found = np.stack(patches).reshape(wanted.shape)
    np.testing.assert_allclose(found, wanted, atol=1e-3, rtol=0)


def model_of(call):
    """What the printed call makes, in a session that has imported timm."""
    import timm

    return eval(str(call), {"timm": timm}).eval()


CALLS = {
    "hf_dinov2": ("vit_base_patch16_224", {"patch_size": 14, "init_values": 1e-5}),
    "timm_clip_quickgelu": ("vit_base_patch16_clip_224", {"act_layer": "quick_gelu"}),
    "timm_aimv2": ("aimv2_large_patch14_224", {"qkv_bias": False, "class_token": False}),
    "hf_dinov3_gated": ("vit_small_patch16_dinov3", {"swiglu_mlp": True, "num_reg_tokens": 4}),
    "timm_eva02_clip": ("eva02_tiny_patch14_224", {"scale_mlp": True, "qkv_fused": False}),
    "timm_pe_spatial": ("vit_pe_spatial_base_patch16_512", {"rope_grid_indexing": "xy"}),
    "hf_beit_shared": ("beit_base_patch16_224", {"use_rel_pos_bias": True}),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_call_names_the_class_and_its_parts(reference_file, name):
    heads = int(np.load(reference_file(f"{name}_outputs.npz"))["heads"])
    conversion = converted(reference_file, name, heads)
    call = timm_model(conversion.arrays, conversion.report)
    architecture, arguments = CALLS[name]
    assert call.name == architecture
    assert arguments.items() <= call.arguments.items()
    assert call.arguments["num_heads"] == heads


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model.vit.norm_eps": 1e-4}, "norm_eps=0.0001"),
        ({"model.vit.norm": "rms", "model.vit.norm_eps": 1e-5}, "RMSNorm lacks a gated MLP"),
        ({"model.vit.heads": None}, "how many attention heads"),
    ],
)
def test_where_timm_has_no_class_it_is_said(timm_state, save_torch, change, reason):
    conversion = convert(read(save_torch(timm_state())), Options(heads=2), pixels="half")
    config = {**conversion.report["config"], **change}
    config = {key: value for key, value in config.items() if value is not None}
    with pytest.raises(NoTimmClassError, match=reason):
        timm_model(conversion.arrays, {**conversion.report, "config": config})


def test_clip_s_patches_have_no_bias_and_others_always_one(timm_state, save_torch):
    state = timm_state()
    conversion = convert(read(save_torch(state)), Options(heads=2), pixels="half")
    arrays = {p: t for p, t in conversion.arrays.items() if p != "backbone.patch_embed.bias"}
    bias = to_timm(arrays, conversion.report)["patch_embed.proj.bias"].read()
    np.testing.assert_array_equal(bias, 0)
    config = {**conversion.report["config"], "model.vit.pre_norm": True}
    back = to_timm(conversion.arrays, {**conversion.report, "config": config})
    assert "patch_embed.proj.bias" not in back
    moved = state["pos_embed"][:, 1:] + state["patch_embed.proj.bias"]
    np.testing.assert_array_equal(back["pos_embed"].read()[:, 1:], moved)
    np.testing.assert_array_equal(back["pos_embed"].read()[:, 0], state["pos_embed"][:, 0])


def convert_to(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_a_run_is_exported_whole_and_its_backbone_alone(finished, tmp_path, capsys):
    experiment, _ = finished
    run = experiment.workdir
    whole, backbone, tensors = (tmp_path / n for n in ("run.npz", "vit.npz", "run.safetensors"))
    assert convert_to(run, whole) == 0
    assert convert_to(whole, backbone, "--target=backbone") == 0
    assert convert_to(whole, tensors) == 0
    weights, alone = read_weights(whole), read_weights(backbone)
    assert weights.is_detector
    assert not alone.is_detector
    assert {path for path in weights.arrays if path.startswith("backbone.")} == {*alone.arrays}
    assert weights.report["vit"]["heads"] == alone.report["config"]["model.vit.heads"] == 2
    assert not any(key.startswith("model.heads") for key in alone.report["config"])
    assert read(tensors).state.keys() == weights.arrays.keys()
    capsys.readouterr()
    assert convert_to(whole) == 0
    assert "a run of jaxdet train" in capsys.readouterr().out
    assert convert_to("--to=torch", whole, tmp_path / "timm.safetensors") == 0
    assert "no tables for windows of another size" in capsys.readouterr().out


def test_an_exported_run_is_the_run_s_detector(finished, detector, tmp_path):
    import jax

    from jaxdet.inference.detector import load_converted

    experiment, _ = finished
    assert convert_to(experiment.workdir, tmp_path / "run.npz") == 0
    config = get_config()
    config.initialisation = "own"
    again = load_converted(tmp_path / "run.npz", config, detector.categories, batch=8)
    for found, expected in ((again.params, detector.params), (again.stats, detector.stats)):
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_fine_tuned_run_goes_back_under_its_original_s_names(
    finished, timm_state, save_torch, tmp_path, monkeypatch, capsys
):
    """Here of a backbone alone; the values that it was given are those it goes back with."""
    original = save_torch(timm_state(), "original.pth")
    npz, out = tmp_path / "a.npz", tmp_path / "b.pth"
    assert convert_to(original, npz, "--pixels=half", "--heads=2") == 0
    assert convert_to("--to=torch", f"--like={original}", npz, out) == 0
    import torch

    found = torch.load(out, weights_only=True)["model"]
    state = timm_state()
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        name: value.shape for name, value in state.items()
    }
    assert all(np.array_equal(found[name].numpy(), state[name]) for name in state)
    assert convert_to(f"--like={original}", npz, tmp_path / "c.npz") == 2
    assert "--like is of --to=torch" in capsys.readouterr().err
    other = save_torch(timm_state(seed=3), "other.pth")
    assert convert_to("--to=torch", f"--like={other}", npz, out) == 0
    assert "warning: " in capsys.readouterr().out
