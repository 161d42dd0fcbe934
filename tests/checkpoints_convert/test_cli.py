"""The command line: what it writes, what it says, and that it writes nothing after an error."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from checkpoints_convert.cli import main
from jaxdet.weights.file import read_weights

torch = pytest.importorskip("torch")


PIXELS = "--pixels=imagenet"


def failure(capsys, *arguments) -> str:
    """What the command prints for a mistake; it must be one line, with exit status 2."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_file_is_converted_and_reported(timm_state, save_torch, tmp_path, capsys):
    source = save_torch(timm_state())
    out = tmp_path / "out.npz"
    assert main([str(source), str(out), PIXELS]) == 0
    printed = capsys.readouterr().out
    assert "layout    DeiT, timm (recognised)" in printed
    assert f"written   {out}" in printed
    weights = read_weights(out)
    assert weights.report["source"]["file"] == source.name
    assert weights.arrays["backbone.pos_embed"].shape == (3, 3, 8)
    assert all(array.flags.c_contiguous for array in weights.arrays.values())

    assert main([str(out)]) == 0
    assert capsys.readouterr().out.strip() == printed[: printed.index("written")].strip()


def test_out_may_be_a_folder(timm_state, save_torch, tmp_path):
    source = save_torch(timm_state(), "vit-b-300ep.pth.tar")
    assert main([str(source), f"{tmp_path}/new/", PIXELS]) == 0
    assert main([str(source), str(tmp_path), PIXELS]) == 0
    assert (tmp_path / "new" / "vit-b-300ep.npz").is_file()
    assert (tmp_path / "vit-b-300ep.npz").is_file()


def separate(state):
    """The state of a timm ViT with queries, keys and values apart, as transformers has them."""
    apart = dict(state)
    for name in state:
        if "attn.qkv" in name:
            parts = np.split(apart.pop(name), 3)
            apart |= {
                name.replace("qkv", part): rows for part, rows in zip("qkv", parts, strict=True)
            }
    return apart


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("pos_embed", np.s_[:0]),
        ("pos_embed", np.s_[:, :0]),
        ("patch_embed.proj.weight", np.s_[0, 0, 0, 0]),
        ("blocks.0.attn.q.bias", np.s_[0]),
        ("blocks.0.attn.k.weight", np.s_[:, :0]),
        ("blocks.0.attn.v.weight", np.s_[:, :-1]),
        ("blocks.0.mlp.fc1.weight", np.s_[:0]),
    ],
)
def test_tensors_of_other_shapes_are_one_sentence(
    timm_state, save_torch, tmp_path, capsys, name, index
):
    state = timm_state()
    state = separate(state) if name not in state else state
    state[name] = state[name][index]
    message = failure(capsys, save_torch(state), tmp_path / "out.npz", PIXELS)
    assert "source.pth" in message or name.rpartition(".")[0] in message
    assert not (tmp_path / "out.npz").exists()


def test_nothing_is_written_after_an_error(timm_state, save_torch, tmp_path, capsys):
    state = timm_state()
    state["blocks.3.mlp.fc2.bias"][0] = np.nan  # met only after most of the file is written
    source = save_torch(state)
    message = failure(capsys, source, f"{tmp_path}/new/folder/", PIXELS)
    assert "what becomes backbone.blocks.3.mlp.fc2.bias has values that are not finite" in message
    assert {path.name for path in tmp_path.iterdir()} == {source.name}


def test_an_older_result_survives_an_error(timm_state, save_torch, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert main([str(save_torch(timm_state())), str(out), PIXELS]) == 0
    before = out.read_bytes()
    state = timm_state()
    state["patch_embed.proj.bias"][0] = np.inf
    failure(capsys, save_torch(state), out, PIXELS)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("out", "options", "reason"),
    [
        ("out.pth", [], "out.pth must end in .npz, or be a folder"),
        ("out.npz", ["--to=torch"], "must end in .pth or .pt or .safetensors"),
        ("out.pth", ["--to=torch"], "must be a converted .npz or a run for --to=torch"),
        ("out.npz", ["--from=mocov3", "--allow-unknown"], None),
        ("out.npz", ["--from=clip"], "does not name its activation"),
        ("out.npz", ["--from=augreg"], "takes square patches of 3 channels"),
        (None, [], "give a second path"),
    ],
)
def test_mistakes_end_in_one_sentence(
    timm_state, save_torch, tmp_path, capsys, out, options, reason
):
    source = save_torch(timm_state())
    arguments = [source, *([tmp_path / out] if out else []), *options]
    if reason is None:
        # timm's names mean the same in every layout that descends from it.
        assert main([str(argument) for argument in arguments]) == 0
    else:
        assert reason in failure(capsys, *arguments)
        assert {path.name for path in tmp_path.iterdir()} == {source.name}


def test_a_converted_file_is_not_converted_again(timm_state, save_torch, tmp_path, capsys):
    out = tmp_path / "out.npz"
    assert main([str(save_torch(timm_state())), str(out), PIXELS]) == 0
    capsys.readouterr()
    assert "is converted already" in failure(capsys, out, tmp_path / "again.npz")
    assert "is the source itself" in failure(capsys, out, out)


def test_options_of_a_wrong_kind_are_rejected(capsys):
    for option in ("--window=0", "--window=x", "--from=resnet", "--pixels=grey"):
        message = failure(capsys, "a.pth", "b.npz", option)
        assert option.partition("=")[0] in message


def test_help_waits_for_no_heavy_package():
    program = (
        "import sys; from checkpoints_convert.cli import main; heavy = {'jax', 'scipy', 'torch'};"
        "assert main(['a.pth', '--window=x']) == 2; print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["mae_tiny", "beit_pretrained_tiny"])
def test_a_round_trip_through_torch_is_exact(reference_file, tmp_path, capsys, suffix, name):
    there, torch_file, back = (tmp_path / f for f in ("a.npz", f"b{suffix}", "c.npz"))
    options = ["--window=2", "--global-grid=5", f"--from={name.partition('_')[0]}"]
    assert main([str(reference_file(f"{name}.pth")), str(there), *options]) == 0
    assert main(["--to=torch", str(there), str(torch_file)]) == 0
    assert main([str(torch_file), str(back)]) == 0
    first, second = read_weights(there), read_weights(back)
    assert first.arrays.keys() == second.arrays.keys()
    for path, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[path], array, err_msg=path)
    for key in ("config", "pixel_mean", "pixel_std"):
        assert first.report[key] == second.report[key]


def test_the_torch_file_has_timms_names_and_the_source_s_values(reference_file, tmp_path):
    source = reference_file("mae_tiny.pth")
    there, back = tmp_path / "a.npz", tmp_path / "b.pth"
    assert main([str(source), str(there)]) == 0
    assert main(["--to=torch", str(there), str(back)]) == 0
    original = torch.load(source, weights_only=True)["model"]
    content = torch.load(back, weights_only=True)
    assert json.loads(content["jaxdet"])["layout"] == "MAE"
    for name, tensor in content["model"].items():
        assert torch.equal(tensor, original[name]), name
    assert original.keys() == content["model"].keys()


def test_pixels_may_be_named(timm_state, save_torch, tmp_path):
    out = tmp_path / "out.npz"
    assert main([str(save_torch(timm_state())), str(out), "--pixels=half"]) == 0
    report = read_weights(out).report
    assert report["pixel_mean"] == [127.5] * 3
    assert report["pixels_from"] == "as the flag says"


def test_a_report_that_is_none_is_rejected(tmp_path, save_torch, timm_state, capsys):
    source = save_torch(timm_state(), wrap=lambda x: {"model": x, "jaxdet": '{"config": {}}'})
    assert "its report is not jaxdet's" in failure(capsys, source, tmp_path / "out.npz")
    out = tmp_path / "out.npz"
    content = {"config": {}, "pixel_mean": [], "pixel_std": []}
    np.savez(out, **{"backbone.pos_embed": np.ones((2, 2, 4), np.float32)})
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("report.json", json.dumps(content))
    assert "its report is not the converter's" in failure(capsys, out)
