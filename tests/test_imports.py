"""No import runs up the layers or in a circle, imports inside functions among them."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

LAYERS = (
    ("errors", "lettering", "mask_format"),
    ("files", "flags", "parallel", "processes", "visualize"),
    ("config",),
    ("ops", "data"),
    ("models",),
    ("weights",),
    ("training",),
    ("inference",),
    ("evaluation",),
    ("train", "pretrain", "predict", "serve"),
    ("benchmark.reference", "benchmark.cost"),
    ("benchmark.trials", "benchmark.reporting"),
    ("main", "benchmark"),
    ("cli",),
    ("__main__",),
)
"""From the bottom up; parts of one layer do not know each other."""


def modules() -> dict[str, Path]:
    """Files by the module's name without "jaxdet."."""
    package = REPOSITORY / "jaxdet"
    found = {}
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of jaxdet that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return {name.removeprefix("jaxdet.") for name in found} & known.keys()


def layer_of(module: str) -> tuple[int, str]:
    """The height of a module's layer, and which of its parts the module is in."""
    parts = [
        (height, part)
        for height, layer in enumerate(LAYERS)
        for part in layer
        if module == part or module.startswith(f"{part}.")
    ]
    return max(parts, key=lambda found: len(found[1]))


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {
        name: imported(path, known) - {name, "__init__"}
        for name, path in known.items()
        if name != "__init__"
    }


def test_no_import_runs_up(graph):
    upward = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if layer_of(other)[1] != layer_of(name)[1] and layer_of(other)[0] >= layer_of(name)[0]
    ]
    assert not upward


def test_no_imports_form_a_circle(graph):
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)
