"""The notebook: every cell runs, on a tiny detector, and shows what it says."""

from __future__ import annotations

import nbformat
import pytest
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
def like_this_process(monkeypatch):
    """Lets the kernel compile as the tests do, so that it finds what they have compiled."""
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "jax"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def run(notebook, **parameters):
    """Executes a notebook with other values for words of its cell of parameters."""
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


def is_picture(cell):
    return any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_every_cell_runs(notebook, like_this_process, reference_file, tmp_path):
    pytest.importorskip("torch")
    run(
        notebook,
        CONFIG="tests/tiny.py",
        EPOCHS=1.0,
        WORKDIR=str(tmp_path / "run"),
        CHECKPOINT=str(reference_file("mae_tiny.pth")),
    )
    pictures = {cell.id for cell in notebook.cells if cell.cell_type == "code" and is_picture(cell)}
    assert pictures >= {"data", "evaluated", "predict", "attention", "heads", "pyramid"}
    assert "step 2/2" in printed_by(notebook, "train")
    assert "'AP50'" in printed_by(notebook, "evaluated")
    assert "masks: bool" in printed_by(notebook, "arrays")
    assert "windows of 2 x 2 tokens" in printed_by(notebook, "attention")
    assert "one position in 4 pixels: (16, 16, 8)" in printed_by(notebook, "pyramid")
    assert "MAE" in printed_by(notebook, "convert")
    assert (tmp_path / "run" / "converted.npz").is_file()


def test_it_lies_here_without_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
