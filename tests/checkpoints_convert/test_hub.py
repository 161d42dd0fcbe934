"""Addresses of the hub, with a stand-in for the package that downloads, or for the hub itself."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from checkpoints_convert.cli import main
from jaxdet.errors import UserError
from jaxdet.weights.file import read_weights
from jaxdet.weights.hub import download, is_address, repository_of
from tests.checkpoints_convert.hub_server import COMMIT, Repository
from tests.checkpoints_convert.hub_server import hub as serve


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


def test_a_token_that_may_not_read_is_one_sentence(monkeypatch):
    def snapshot(name, **options):
        error = ConnectionError("403 Client Error")
        error.response = SimpleNamespace(status_code=403)
        raise error

    hub(monkeypatch, snapshot)
    with pytest.raises(UserError, match=r"\(your token may not read: make one that may\); check"):
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


needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)
OUTCOMES = """
import sys
from jaxdet.weights.hub import download
from jaxdet.errors import UserError
for address in sys.argv[1:]:
    try:
        print(sorted(file.name for file in download(address).iterdir()))
    except UserError as error:
        print(error)
"""


def run_python(endpoint, home, *arguments):
    """What a Python that finds the hub at this endpoint prints; the package reads it at import."""
    environment = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(["", *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout, done.stderr


@needs_hub
def test_what_the_hub_answers_is_one_sentence(tmp_path):
    """Of the real package against a server of its protocol."""
    files = {"model.safetensors": b"weights", "config.json": b"{}", "pytorch_model.bin": b"code"}
    repositories = {
        "a/b": Repository(files, revisions=("main", "v1.0", COMMIT)),
        "timm/vit": Repository(files),
        "a/gated": Repository(status=(403, "GatedRepo")),
        "a/pickled": Repository({"pytorch_model.bin": b"code"}),
        "a/changed": Repository(files, served={"model.safetensors": b"Weights"}),
        "a/cut": Repository(files, served={"model.safetensors": b"weig"}),
    }
    both = "['config.json', 'model.safetensors']"
    expected = {
        "hf://a/b": both,
        "hf://a/b@v1.0": both,
        "timm://vit": both,
        "hf://a/b@v9": "cannot be downloaded (it has no such revision)",
        "hf://a/gated": "gives access on request: accept the terms on its page, then `hf auth",
        "hf://a/none": "cannot be downloaded (the hub has no such repository, or a private one",
        "hf://a/pickled": "holds no model.safetensors",
        "hf://a/changed": "hf://a/changed: model.safetensors has not the SHA-256 that the hub says",
        "hf://a/cut": "cannot be downloaded (Consistency check failed",
    }
    with serve(repositories) as endpoint:
        out, errors = run_python(endpoint, tmp_path, "-c", OUTCOMES, *expected)
    lines = out.splitlines()
    assert len(lines) == len(expected), errors
    for line, wanted in zip(lines, expected.values(), strict=True):
        assert wanted in line
        assert len(line) < 500
    # The server is gone: what is here is taken, the rest is one sentence.
    lines = run_python(endpoint, tmp_path, "-c", OUTCOMES, "hf://a/b", "hf://a/other")[0]
    assert lines.splitlines()[0] == both
    assert "hf://a/other cannot be downloaded (" in lines.splitlines()[1]


@needs_hub
def test_shards_are_downloaded_and_converted(tmp_path, timm_state, save_safetensors):
    state = timm_state()
    halves = list(state)[::2], list(state)[1::2]
    files, places = {}, {}
    for i, names in enumerate(halves):
        shard = f"model-{i + 1:05}-of-00002.safetensors"
        save_safetensors({name: state[name] for name in names}, tmp_path / shard)
        files[shard] = (tmp_path / shard).read_bytes()
        places |= dict.fromkeys(names, shard)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    lost = {name: content for name, content in files.items() if "00002-of" not in name}
    repositories = {"a/b": Repository(files), "a/lost": Repository(lost)}
    flags = ("--pixels=half", "--heads=2")
    command = ("-m", "checkpoints_convert")
    with serve(repositories) as endpoint:
        out, errors = run_python(
            endpoint, tmp_path, *command, "hf://a/b", f"{tmp_path}/out/", *flags
        )
        assert "written" in out, errors
        _, errors = run_python(endpoint, tmp_path, *command, "hf://a/lost", f"{tmp_path}/", *flags)
    weights = read_weights(tmp_path / "out" / "b.npz")
    assert weights.report["source"]["address"] == "hf://a/b"
    assert len(weights.arrays) > 50
    assert "model-00002-of-00002.safetensors is not a file" in errors
