"""Worker processes: the same batches whatever their number, also after SIGKILL."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdet.data.coco import CocoDataset
from jaxdet.data.loader import Batch, LoaderSettings, eval_batches, train_batches
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.shapes import ShapesDataset
from jaxdet.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent.parent

RUN = """
import zlib
from jaxdet.data.loader import LoaderSettings, train_batches
from jaxdet.data.lsj import LargeScaleJitter
from jaxdet.data.shapes import ShapesDataset

if __name__ == "__main__":
    batches = train_batches(
        ShapesDataset("train", 20, 96), LargeScaleJitter(64), LoaderSettings(4, workers=2),
        max_instances=5, mask_size=14, seed=3,
    )
    for batch in batches:
        digests = [f"{name}={zlib.crc32(array)}" for name, array in sorted(batch.items())]
        print(" ".join(digests), flush=True)
"""


def training(settings: LoaderSettings, start_step: int = 0) -> Iterator[Batch]:
    """The batches of RUN."""
    dataset, augmentation = ShapesDataset("train", 20, 96), LargeScaleJitter(64)
    options = {"max_instances": 5, "mask_size": 14, "seed": 3, "start_step": start_step}
    return train_batches(dataset, augmentation, settings, **options)


def digests(batches: Iterable[Batch]) -> list[str]:
    return [
        " ".join(f"{name}={zlib.crc32(array)}" for name, array in sorted(batch.items()))
        for batch in batches
    ]


def children_of(pid: int) -> set[int]:
    """Processes below one, also indirectly (Linux)."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_killed_run_resumes_with_the_same_batches_and_leaves_no_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    expected = digests(itertools.islice(training(LoaderSettings(4, threads=0)), 6))
    killed = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    seen = [killed.stdout.readline().strip() for _ in range(3)]
    workers = children_of(killed.pid)
    assert len(workers) >= 2
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert seen == expected[:3]

    resumed = training(LoaderSettings(4, workers=1), start_step=3)
    assert digests(itertools.islice(resumed, 3)) == expected[3:]
    resumed.close()
    deadline = time.monotonic() + 20
    while (left := {pid for pid in workers if Path(f"/proc/{pid}/stat").exists()}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not left


def test_evaluation_with_more_workers_than_batches():
    dataset = ShapesDataset("val", 6, 96)
    plain, batches = (
        list(eval_batches(dataset, LargeScaleJitter(64), LoaderSettings(8, 0, workers)))
        for workers in (0, 2)
    )
    assert digests(batches) == digests(plain)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_killed_worker_is_one_sentence():
    before = children_of(os.getpid())
    batches = training(LoaderSettings(4, workers=1))
    next(batches)
    for pid in children_of(os.getpid()) - before:
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(UserError, match=r"images died .*lower --config\.data\.workers"):
        digests(itertools.islice(batches, 12))


def test_error_of_a_worker_is_the_users(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "1.png")
    outline = [2, 3, 12, 3, 12, 13, 2, 13]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 10, 10]}
    document = {
        "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 30}],
        "annotations": [annotation | {"segmentation": [outline]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    dataset = CocoDataset(tmp_path / "instances.json", folder)
    (folder / "1.png").write_bytes(b"")
    settings = LoaderSettings(1, workers=1)
    batches = train_batches(
        dataset, LargeScaleJitter(32), settings, max_instances=2, mask_size=14, seed=0
    )
    with pytest.raises(UserError, match=r"1\.png cannot be read as an image"):
        next(batches)
