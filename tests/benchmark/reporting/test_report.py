"""The command: what it needs, and how it ends."""

from __future__ import annotations

import subprocess
import sys

import pytest
from PIL import Image

from jaxdet.benchmark.report import main, write_report
from jaxdet.errors import UserError


def test_nothing_to_report_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
    assert main([str(tmp_path / "missing")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_file_as_out_is_an_error(write, tmp_path):
    path = write("a")
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="another --out"):
        write_report([path], tmp_path / "taken")


def test_a_report_is_made_without_jax(write, tmp_path):
    paths = [write("a"), write("b", "vitb_mae", seed=1)]
    Image.new("RGB", (64, 32)).save(paths[0] / "detections.png")
    heavy = ("jax", "flax", "optax", "orbax", "tensorstore")
    code = (
        "import sys\n"
        "from jaxdet.benchmark.report import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        f"assert not sys.modules.keys() & set({heavy!r}), sorted(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, *map(str, paths), f"--out={tmp_path / 'out'}"]
    subprocess.run(command, check=True, timeout=60)


def test_a_wrong_flag_is_an_error(capsys):
    assert main(["runs", "--output=x"]) == 2
    assert "--output=x" in capsys.readouterr().err
