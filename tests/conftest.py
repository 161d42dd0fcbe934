"""Fixtures shared by all tests."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

# Shape annotations are checked as these are traced; before the first import of jaxdet.
install_import_hook(["jaxdet.ops", "jaxdet.models"], "beartype.beartype")

REPOSITORY = Path(__file__).resolve().parent.parent
COMMITTED_REFERENCE = REPOSITORY / "tests" / "reference"

# Most of the time of the tests is compilation, which these bring down to a quarter. Those after the
# first may be gone from later versions of XLA, which do not start with a flag they do not know.
FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(REPOSITORY / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# A seventh of the time that tracing takes was spent looking for garbage.
gc.set_threshold(100_000, 50, 100)


def shared_folder() -> Path | None:
    """The folder of reference material, or None where this machine has none."""
    given = os.environ.get("JAXDET_SHARED")
    folder = Path(given or REPOSITORY.parent / "shared")
    if given and not (folder / "reference").is_dir():
        raise FileNotFoundError(f"JAXDET_SHARED={given} must hold a folder named reference")
    return folder if (folder / "reference").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("no reference material: set JAXDET_SHARED to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def reference_file() -> Callable[[str], Path]:
    """The path of a stored reference by its name: in JAXDET_SHARED if that is set, else the
    committed copy, else in the folder `shared` beside the repository."""
    folders, shared = [COMMITTED_REFERENCE], shared_folder()
    if shared is not None:
        folders.insert(0 if "JAXDET_SHARED" in os.environ else 1, shared / "reference")

    def find(name: str) -> Path:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        pytest.skip(f"{name} is not among the committed references; set JAXDET_SHARED")

    return find


@pytest.fixture(scope="session")
def reference(reference_file) -> Callable[[str], dict[str, np.ndarray]]:
    """Loads stored reference arrays by file name."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(reference_file(name), allow_pickle=False) as arrays:
            return dict(arrays)

    return load


@pytest.fixture(scope="session")
def shared_programs():
    """What equal runs trace and compile is shared by all tests of this process from then on."""
    from tests.programs import share

    with pytest.MonkeyPatch.context() as monkeypatch:
        share(monkeypatch)
        yield


@pytest.fixture(scope="session")
def finished(shared_programs, tmp_path_factory):
    """A finished run of tests/tiny.py of four steps, evaluated and saved after two and four: the
    experiment and its metrics. Its workdir is not to be written to: all workers share it."""
    from jaxdet.train import train
    from jaxdet.training.experiment import Experiment
    from tests.tiny import get_config

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    experiment, metrics = Experiment(get_config(), folder / "work"), folder / "metrics.pickle"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not metrics.exists():
            metrics.write_bytes(pickle.dumps(train(experiment)))
    return experiment, pickle.loads(metrics.read_bytes())


@pytest.fixture(scope="session")
def detector(finished):
    """The detector of the finished run."""
    from jaxdet.inference.detector import load

    return load(finished[0].workdir, batch=8)


@pytest.fixture(scope="session")
def evaluated(finished):
    """The finished run's validation images, and what its evaluation found on them, per image."""
    experiment, _ = finished
    results = json.loads((experiment.workdir / "detections.json").read_text())
    dataset = experiment.val_set
    found = [[r for r in results if r["image_id"] == image_id] for image_id in dataset.image_ids]
    assert sum(map(len, found)) > len(found)
    return [dataset[index].image for index in range(len(dataset))], found


@pytest.fixture(scope="session")
def photo(evaluated):
    return Image.fromarray(evaluated[0][0])


@pytest.fixture
def files(evaluated, tmp_path):
    """The finished run's validation images as files without loss."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(evaluated[0]):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def compiled_blocks(monkeypatch):
    """Equal blocks of a ViT are compiled once, and not all in one program."""
    from flax import nnx

    from jaxdet.models.block import Block

    monkeypatch.setattr(Block, "__call__", nnx.jit(Block.__call__, static_argnums=5))
