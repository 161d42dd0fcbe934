"""Files that are damaged, or that would run code, or that claim more than they hold."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import pickle
import re
import subprocess
import warnings
import zipfile

import numpy as np
import pytest

from checkpoints_convert.conversion import convert
from checkpoints_convert.conversion_plan import Options
from checkpoints_convert.reading import read
from jaxdet.errors import UserError

torch = pytest.importorskip("torch")


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path):
    """An object that leaves a folder behind when a reader runs it."""
    yield RunsCode(tmp_path / "ran")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_pytorch_file_with_code_is_rejected_unread(trap, tmp_path, options):
    path = tmp_path / "hostile.pth"
    torch.save({"model": {"a": torch.ones(2)}, "args": trap}, path, **options)
    with pytest.raises(UserError, match=r"Python objects beside tensors \((posix|nt)\.mkdir\)"):
        read(path)


def test_a_pickle_with_code_is_rejected_unread(trap, tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "x": trap}))
    with pytest.raises(UserError, match=r"Python objects beside tensors \((posix|nt)\.mkdir\)"):
        read(path)


@pytest.mark.parametrize("value", [subprocess.Popen, eval, np.load, argparse.Namespace(a=1)])
def test_a_pickle_admits_arrays_alone(tmp_path, value):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "x": value}))
    with pytest.raises(UserError, match="Python objects beside tensors"):
        read(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickled_arrays_are_read(tmp_path, protocol):
    path = tmp_path / "model.pkl"
    arrays = {"a.weight": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": np.arange(3)}
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol))
    source = read(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(source.state[name].read(), array)
    assert source.beside == ["__author__", "matching_heuristics"]


def test_an_array_that_is_not_stored_as_numpy_stores_it_is_rejected(tmp_path):
    class Huge:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (2**40,), b"b")

    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": Huge()}}))
    with pytest.raises(UserError, match="an array is not stored as NumPy stores it"):
        read(path)


def test_an_npz_of_objects_is_rejected_unread(trap, tmp_path):
    path = tmp_path / "hostile.npz"
    np.savez(path, a=np.array([trap], dtype=object))
    with pytest.raises(UserError, match=r"Python objects beside tensors \(object arrays\)"):
        read(path)


def test_a_zip_bomb_is_rejected(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, a=np.zeros(10_000_000, np.float32))
    with pytest.raises(UserError, match="would unpack to more than 10 times its size"):
        read(path)


def test_a_tensor_that_claims_more_than_is_stored_is_rejected(tmp_path):
    path = tmp_path / "hostile.pth"
    torch.save({"a": torch.ones(1).expand(1000, 1000)}, path)
    with pytest.raises(UserError, match="a claims more values than are stored"):
        read(path)


@pytest.mark.parametrize("kind", ["meta", "sparse", "quantized"])
def test_tensors_that_are_no_plain_numbers_are_rejected(tmp_path, kind):
    path, tensor = tmp_path / "hostile.pth", torch.ones(3)
    if kind == "quantized":
        with warnings.catch_warnings(action="ignore"):
            tensor = torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
    torch.save({"a": tensor.to_sparse() if kind == "sparse" else tensor}, path)
    if kind == "meta":
        torch.save({"a": tensor.to("meta")}, path)
    with pytest.raises(UserError, match=f"a is a {kind} tensor"):
        read(path)


UNSOUND = {
    "layout": "timm",
    "config": {},
    "source": {"file": "x", "sha256": "y"},
    "pixel_mean": [math.inf, 0, 0],
    "pixel_std": [1, 1, 1],
}


@pytest.mark.parametrize(
    "report",
    ["{}", "{", "[" * 100_000, '{"layout": {}, "config": []}', "NaN", json.dumps(UNSOUND)],
    ids=range(6),
)
def test_a_forged_report_is_no_report(tmp_path, report):
    from safetensors.torch import save_file

    path = tmp_path / "forged.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata={"jaxdet": report})
    if report == "NaN":
        assert read(path).report is None
        return
    with pytest.raises(UserError, match=r"its report is not jaxdet's|cannot be read"):
        read(path)


@pytest.mark.parametrize("number", ["1" + "0" * 20, "9" * 250, "-1", "00", "1_0"])
def test_absurd_block_numbers_take_no_memory(timm_state, save_torch, number):
    state = timm_state()
    for name in [name for name in state if name.startswith("blocks.1.")]:
        state[name.replace(".1.", f".{number}.", 1)] = state.pop(name)
    with pytest.raises(UserError, match=r"lacks block 1|that the layout timm does not know"):
        convert(read(save_torch(state)), Options())


def test_one_storage_under_many_names_is_rejected(tmp_path):
    path = tmp_path / "hostile.pth"
    tensor = torch.ones(1000, 100)
    torch.save({f"a{i}": tensor for i in range(100)}, path)
    with pytest.raises(UserError, match="claims 10000000 values in"):
        read(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b", "a\nb", "", "a" * 400])
def test_a_name_that_is_a_path_is_rejected(save_torch, name):
    path = save_torch({"x": np.ones(1), name: np.ones(2)})
    with pytest.raises(UserError, match="holds a tensor of the name"):
        read(path)


def test_a_torchscript_program_is_rejected(tmp_path):
    path = tmp_path / "program.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/data.pkl", b"")
        archive.writestr("program/constants.pkl", b"")
    with pytest.raises(UserError, match=r"TorchScript program.* save its state_dict\(\)"):
        read(path)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["pth", "old.pth", "safetensors", "npz", "pkl"])
def test_a_file_that_is_cut_off_is_rejected(timm_state, save_torch, tmp_path, kind, share):
    state, path = timm_state(), tmp_path / f"source.{kind}"
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file({name: torch.from_numpy(value) for name, value in state.items()}, path)
    elif kind == "npz":
        np.savez(path, **state)
    elif kind == "pkl":
        path.write_bytes(pickle.dumps({"model": state}))
    else:
        save_torch(state, path.name, _use_new_zipfile_serialization=kind == "pth")
    assert read(path).state.keys() == state.keys()
    cut(path, share)
    with pytest.raises(UserError, match=r"cut off|cannot be read") as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_values_damaged_in_an_npz_are_noticed(timm_state, tmp_path):
    path = tmp_path / "source.npz"
    np.savez(path, **timm_state())
    content = bytearray(path.read_bytes())
    start = content.index(timm_state()["norm.bias"].tobytes())
    content[start : start + 4] = b"\x00\x00\x00\x00"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read \(Bad CRC"):
        read(path).state["norm.bias"].read()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a file of weights"),
        (b"<!DOCTYPE html><html>404</html>", "is not a file of weights"),
        (b"\x00" * 100, "is not a file of weights"),
        (b"PK\x03\x04" + bytes(50), "is cut off"),
        (b"\x80\x04junk", "cannot be read"),
        (b"\xff" * 7 + b"\x00{" + bytes(50), "cannot be read"),
        (pickle.dumps([1, 2]), "holds a list, not tensors by name"),
        (pickle.dumps({"a": 1}), "holds no tensors"),
    ],
    ids=["empty", "html", "zeros", "zip", "pickle", "safetensors", "list", "numbers"],
)
def test_what_is_no_checkpoint_is_rejected(tmp_path, content, reason):
    path = tmp_path / "source.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.pth is not a file"):
        read(tmp_path / "nothing.pth")


def test_a_training_checkpoint_with_what_they_hold(timm_state, save_torch):
    path = save_torch(
        timm_state(),
        wrap=lambda x: {
            "model": x,
            "args": argparse.Namespace(lr=1.0),
            "best": np.float64(3.0),
            "epoch": 3,
        },
    )
    source = read(path)
    assert source.beside == ["args", "best", "epoch"]
    assert convert(source, Options(), pixels="imagenet").report["unknown"] == []


def test_parameters_that_want_a_gradient_are_read(tmp_path):
    torch.save({"a": torch.nn.Parameter(torch.ones(3))}, tmp_path / "a.pth")
    np.testing.assert_array_equal(read(tmp_path / "a.pth").state["a"].read(), np.ones(3))


def test_the_source_is_recorded(timm_state, save_torch):
    import hashlib

    path = save_torch(timm_state())
    source = read(path)
    assert source.bytes == path.stat().st_size
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_values_are_read_only_when_asked_for(tmp_path):
    """An archive whose arrays would not fit is planned from its headers alone."""
    path = tmp_path / "large.npz"
    with zipfile.ZipFile(path, "w") as archive:
        header = io.BytesIO()
        layout = {"descr": "<f4", "fortran_order": False, "shape": (10**9,)}
        np.lib.format.write_array_header_1_0(header, layout)
        archive.writestr("a.npy", header.getvalue() + bytes(10**6))
    with pytest.raises(UserError, match="claims 1000000000 values"):
        read(path)


@pytest.fixture
def onnx_file(timm_state, tmp_path):
    """A DINOv2 under transformers' names as PyTorch's exporter leaves it: linear weights turned and
    without their names, the position embedding in two parts.
    """
    onnx = pytest.importorskip("onnx")
    initialisers, nodes = [], []

    def store(name, values):
        initialisers.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))

    def take(kind, module, values):
        name = f"onnx::{kind}_{len(nodes)}"
        store(name, values)
        nodes.append(onnx.helper.make_node(kind, [name, "x"], ["y"], name=f"/{module}/{kind}"))

    width, names = 8, {"norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias"}
    for name, value in timm_state().items():
        block = re.fullmatch(r"blocks\.(\d)\.(.+)\.(weight|bias)", name)
        if name == "pos_embed":
            take("Concat", "backbone/embeddings", value[:, :1])
            take("Reshape", "backbone/embeddings", value[:, 1:])
        elif name == "cls_token":
            store("backbone.embeddings.cls_token", value)
        elif name.startswith("patch_embed"):
            leaf = name.rpartition(".")[2]
            store(f"backbone.embeddings.patch_embeddings.projection.{leaf}", value)
        elif block is None:
            store(f"backbone.{names[name]}", value)
        else:
            number, part, leaf = block.groups()
            parts = {"attn.proj": "attention.output.dense", "attn.qkv": "attention.attention"}
            values = [("", value)]
            if part == "attn.qkv":
                values = zip((".query", ".key", ".value"), np.split(value, 3), strict=True)
            for suffix, rows in values:
                path = f"backbone.encoder.layer.{number}.{parts.get(part, part)}{suffix}"
                if rows.ndim == 2:
                    take("MatMul", path.replace(".", "/").replace("layer/", "layer."), rows.T)
                else:
                    store(f"{path}.{leaf}", rows)
    for i in range(4):
        for branch in (1, 2):
            path = f"backbone.encoder.layer.{i}.layer_scale{branch}.lambda1"
            store(path, np.ones(width, np.float32))
    store("onnx::Unsqueeze_9", np.zeros(1, np.int64))
    graph = onnx.helper.make_graph(nodes, "exported", [], [], initialisers)
    path = tmp_path / "vit.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def test_an_onnx_file_has_its_modules_names_again(onnx_file, timm_state, save_torch):
    source = read(onnx_file)
    assert "onnx::Unsqueeze_9" in source.beside
    found = convert(source, Options(heads=2))
    assert found.report["layout"] == "DINOv2 (transformers)"
    expected = convert(read(save_torch(timm_state())), Options(heads=2), pixels="half").arrays
    assert expected.keys() == {path for path in found.arrays if "gamma" not in path}
    for path, tensor in expected.items():
        np.testing.assert_array_equal(found.arrays[path].read(), tensor.read(), err_msg=path)


def test_an_onnx_file_of_two_tensors_of_a_name_is_rejected(onnx_file):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    model.graph.initializer.append(model.graph.initializer[0])
    onnx.save(model, onnx_file)
    with pytest.raises(UserError, match="two tensors of one name"):
        read(onnx_file)


def test_a_damaged_onnx_file_is_one_sentence(onnx_file):
    content = onnx_file.read_bytes()
    onnx_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"vit\.onnx cannot be read"):
        read(onnx_file)
