"""The notebook: every cell runs, on a tiny detector, and shows what it says."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from traitlets import default

from tests.conftest import REPOSITORY

EXPLORE = REPOSITORY / "notebooks" / "explore.ipynb"


class ThisInterpreter(AsyncKernelManager):
    """Starts the interpreter that runs the tests, whatever kernels are installed."""

    @default("kernel_spec_manager")
    def _without_folders(self):
        return KernelSpecManager(kernel_dirs=[])


@pytest.fixture
def notebook():
    return nbformat.read(EXPLORE, as_version=4)


@pytest.fixture
def like_this_process(finished, monkeypatch):
    """Lets the kernel compile as the tests do, so that it finds what they have compiled."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "jax"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def run(notebook, **parameters):
    """Executes a notebook with other values for names of its cell of parameters."""
    (position,) = (
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())
    )
    defaults: dict[str, object] = {}
    exec(notebook.cells[position].source, defaults)
    assert parameters.keys() <= defaults.keys()
    injected = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(position + 1, nbformat.v4.new_code_cell(injected))
    NotebookClient(
        notebook,
        kernel_manager_class=ThisInterpreter,
        timeout=600,
        resources={"metadata": {"path": str(EXPLORE.parent)}},
    ).execute()


def printed_by(notebook, cell_id):
    (cell,) = (cell for cell in notebook.cells if cell.get("id") == cell_id)
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shows_image(cell):
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_every_cell_runs(notebook, like_this_process, reference_file, tmp_path):
    pytest.importorskip("torch")
    run(
        notebook,
        CONFIG="tests/tiny.py",
        EPOCHS=2.0,
        WORKDIR=str(tmp_path / "run"),
        CHECKPOINT=str(reference_file("mae_tiny.pth")),
    )
    shown = {cell.id for cell in notebook.cells if cell.cell_type == "code" and shows_image(cell)}
    assert shown >= {"data", "evaluated", "predict", "attention", "heads", "pyramid"}
    assert printed_by(notebook, "install") == ""
    assert "step 4/4" in printed_by(notebook, "train")
    assert "'AP50'" in printed_by(notebook, "evaluated")
    assert "masks: bool" in printed_by(notebook, "arrays")
    assert "windows of 2 x 2 tokens" in printed_by(notebook, "attention")
    assert "one position in 16 pixels: (4, 4, 8)" in printed_by(notebook, "pyramid")
    assert "MAE" in printed_by(notebook, "convert")
    assert (tmp_path / "run" / "converted.npz").is_file()


def test_it_lies_here_without_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.parametrize(
    ("installs", "numpy_after", "expected"),
    [
        (True, np.__version__, ""),
        (True, "99.0", "Restarting, as this session has loaded other versions of numpy"),
        (False, np.__version__, "Missing: jaxdet"),
    ],
)
def test_a_session_restarts_only_where_a_loaded_package_is_replaced(
    installs, numpy_after, expected, notebook, monkeypatch, tmp_path, capsys
):
    """The cell that installs, where nothing is importable and pip is a stand-in."""
    (cell,) = (cell for cell in notebook.cells if cell.get("id") == "install")
    versions, calls = {"numpy": np.__version__, "pillow": "11.3"}, []

    class Shell:
        kernel = SimpleNamespace(do_shutdown=lambda restart: calls.append("restart"))

        def run_line_magic(self, name, line):
            calls.append(name)
            versions["numpy"] = numpy_after
            versions["never loaded"] = "1.0"

    def find_spec(name):
        return object() if installs and calls else None

    def distributions():
        return [SimpleNamespace(name=name, version=value) for name, value in versions.items()]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    owners = {"numpy": ["numpy"], "PIL": ["pillow"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    exec(TransformerManager().transform_cell(cell.source), {"get_ipython": Shell, "REPOSITORY": ""})
    assert calls == (["pip", "restart"] if "Restarting" in expected else ["pip"])
    out = capsys.readouterr().out
    assert out.startswith(expected)
    assert bool(out) == bool(expected)
