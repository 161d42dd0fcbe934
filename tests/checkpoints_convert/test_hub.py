"""Addresses of the hub, with a stand-in for the package that downloads."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from checkpoints_convert.cli import main
from checkpoints_convert.hub import download, is_address, repository_of
from jaxdet.errors import UserError
from jaxdet.weights.file import read_weights


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://facebook/dinov2-small", ("facebook/dinov2-small", None)),
        ("hf://facebook/dinov2-small@v1.0", ("facebook/dinov2-small", "v1.0")),
        ("timm://vit_base_patch16_224.mae", ("timm/vit_base_patch16_224.mae", None)),
    ],
)
def test_an_address_names_a_repository(address, expected):
    assert is_address(address)
    assert repository_of(address) == expected


@pytest.mark.parametrize(
    "address", ["hf://one", "hf://a/b/c", "hf://../etc", "timm://a/b", "hf://", "hf://a/b@x/y"]
)
def test_other_addresses_are_rejected(address):
    with pytest.raises(UserError, match=r"must be hf://owner/name or timm://name"):
        repository_of(address)
    assert not is_address("weights/hf.pth")


@pytest.fixture
def save_safetensors():
    return pytest.importorskip("safetensors.numpy").save_file


def hub(monkeypatch, snapshot):
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot))


def test_weights_and_configs_alone_are_downloaded(tmp_path, monkeypatch):
    asked = {}

    def snapshot(name, **options):
        asked.update(options, name=name)
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    hub(monkeypatch, snapshot)
    assert download("timm://vit_tiny@main") == tmp_path
    assert (asked["name"], asked["revision"]) == ("timm/vit_tiny", "main")
    assert not any(pattern.endswith((".bin", ".pth", "*")) for pattern in asked["allow_patterns"])


def test_no_network_is_one_sentence(monkeypatch):
    def snapshot(name, **options):
        raise ConnectionError("no route\nto host")

    hub(monkeypatch, snapshot)
    with pytest.raises(UserError, match=r"hf://a/b cannot be downloaded \(no route\); check"):
        download("hf://a/b")


def test_no_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"install it with pip .*\[convert,hub\]"):
        download("hf://a/b")


def test_a_repository_without_safetensors_is_rejected(tmp_path, monkeypatch):
    hub(monkeypatch, lambda name, **options: str(tmp_path))
    with pytest.raises(UserError, match=r"hf://a/b holds no model\.safetensors"):
        download("hf://a/b")


def test_the_command_converts_what_was_downloaded(
    tmp_path, monkeypatch, timm_state, save_safetensors, capsys
):
    save_safetensors(timm_state(), tmp_path / "model.safetensors")
    hub(monkeypatch, lambda name, **options: str(tmp_path))
    assert main(["timm://vit_tiny", f"{tmp_path}/out/", "--pixels=half", "--heads=2"]) == 0
    assert read_weights(tmp_path / "out" / "vit_tiny.npz").report["pixel_mean"] == [127.5] * 3
    assert "vit_tiny.npz" in capsys.readouterr().out
