"""The package as a user installs it: built into a wheel, and used from an empty folder."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("jaxdet", "checkpoints_convert")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A prefix with nothing but jaxdet in it, installed from a wheel of its own."""
    folder = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"
    for name in (*PACKAGES, "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    wheel = ["wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", str(source)]
    subprocess.run([*pip, *wheel], check=True)
    (built,) = folder.glob("jaxdet-*.whl")
    prefix = folder / "prefix"
    install = ["install", "--no-deps", "--ignore-installed", f"--prefix={prefix}", str(built)]
    subprocess.run([*pip, *install], check=True)
    return prefix


@pytest.fixture(scope="module")
def site(installed) -> Path:
    """Where the installed package lies."""
    (found,) = installed.glob("lib/python*/site-packages")
    return found


@pytest.fixture(scope="module")
def jaxdet(installed, site, finished, tmp_path_factory):
    """Runs a command from an empty folder with the installed package; returns what it printed.

    What a finished run has compiled is found by it.
    """
    empty = tmp_path_factory.mktemp("empty")
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_COMPILATION_CACHE_DIR": str(REPOSITORY / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }

    def run(*command: str) -> str:
        if command[0] == "jaxdet":
            command = (str(installed / "bin" / "jaxdet"), *command[1:])
        else:
            command = (sys.executable, *command)
        done = subprocess.run(
            command, cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder = empty
    return run


def test_the_wheel_holds_what_the_tree_does(site):
    def files(folder: Path, pattern: str = "*.py") -> set[str]:
        found = (path.relative_to(folder).as_posix() for path in folder.rglob(pattern))
        return {name for name in found if "__pycache__" not in name}

    for package in PACKAGES:
        ours = {name for name in files(site / package) if not name.startswith("configs/")}
        assert ours == files(REPOSITORY / package)
    assert files(site / "jaxdet" / "configs") == files(REPOSITORY / "configs")
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    for package, names in setup["options.package_data"].items():
        for pattern in names.split():
            assert list(site.joinpath(*package.split(".")).glob(pattern)), f"{package}: {pattern}"


def test_the_package_runs_from_where_it_is_installed(jaxdet, site):
    printed = jaxdet("-c", "import jaxdet; print(jaxdet.__file__)")
    assert Path(printed.strip()).is_relative_to(site)


def test_help_of_a_config_by_name(jaxdet):
    printed = jaxdet("jaxdet", "train", "--config=vitb_mae", "--help")
    assert "--workdir" in printed
    assert "  lr=8e-05 " in printed


def test_a_config_is_shown_by_name(jaxdet):
    assert "  width=768 " in jaxdet("jaxdet", "config", "vitb_mae", "--print")


def test_a_tiny_training_its_plan_and_its_report(jaxdet):
    tiny = f"--config={REPOSITORY / 'tests' / 'tiny.py'}"
    assert "box  AP" in jaxdet("jaxdet", "train", tiny, "--workdir=runs/tiny")
    result = json.loads((jaxdet.folder / "runs" / "tiny" / "result.json").read_text())
    assert result["step"] == 4
    assert "largest batch" in jaxdet("-m", "jaxdet.main", tiny, "--mode=plan")
    jaxdet("jaxdet", "report", "runs/tiny", "--out=report")
    assert (jaxdet.folder / "report" / "report.html").stat().st_size > 10_000
