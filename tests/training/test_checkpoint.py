"""Saving and restoring a run's state, which checkpoints are kept, and damaged ones."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdet.errors import UserError
from jaxdet.training.checkpoint import Checkpoints, DamagedCheckpointError, abstract
from jaxdet.training.optim import adamw

CONFIG = {"seed": 3, "model": {"width": 8, "blocks": [1, 3], "scale": None}, "name": "tiny"}


@pytest.fixture(scope="module")
def replicated() -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())


def state_of(seed: int, width: int = 3):
    """A state after two steps of a small model, lists keyed by number as in the detector's."""
    rng = np.random.default_rng(seed)

    def values(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {
        "blocks": {0: {"kernel": values(2, width)}, 1: {"kernel": values(width, 2)}},
        "norm": {"scale": values(width)},
    }
    optimizer = adamw(
        optax.constant_schedule(0.1), weight_decay=0.1, betas=(0.9, 0.99), no_decay=("norm",)
    )
    opt_state = optimizer.init(params)
    for _ in range(2):
        gradients = jax.tree.map(lambda leaf: values(*leaf.shape), params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    stats = {"norm": {"mean": values(width), "var": values(width)}}
    return {"params": params, "stats": stats, "opt_state": opt_state, "step": jnp.int32(2)}


def saved(folder, *steps: tuple[int, float | None]):
    """The checkpoints' folder after saving `state_of(step)` for (step, score) one by one."""
    with Checkpoints(folder) as checkpoints:
        for step, score in steps:
            checkpoints.save(state_of(step), step, CONFIG)
            if score is not None:
                checkpoints.record_score(step, score)
    return folder


def kept(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_model_without_batch_statistics_is_saved_too(tmp_path, replicated):
    state = {**state_of(1), "stats": {}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, 1, CONFIG)
    target = abstract({name: state[name] for name in ("params", "stats", "opt_state")}, replicated)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, target)
    assert restored["stats"] == {}
    jax.tree.map(np.testing.assert_array_equal, restored["params"], state["params"])


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_state_comes_back_exactly(tmp_path, replicated):
    state = state_of(7)
    target = abstract(state, replicated)
    with Checkpoints(saved(tmp_path / "checkpoints", (7, 0.5))) as checkpoints:
        assert checkpoints.latest == 7
        assert checkpoints.meta(7) == CONFIG
        restored = checkpoints.restore(7, target)
    assert set(restored) == {"params", "stats", "opt_state"}
    assert_same(restored, {name: state[name] for name in restored})
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(restored))


def test_parameters_and_statistics_come_back_without_the_optimizer(tmp_path, replicated):
    state = state_of(7)
    part = {name: state[name] for name in ("params", "stats")}
    with Checkpoints(saved(tmp_path, (7, None))) as checkpoints:
        assert_same(checkpoints.restore(7, abstract(part, replicated)), part)


def test_the_latest_and_the_best_are_kept(tmp_path, replicated):
    saved(tmp_path, (1, 0.5), (2, 0.9), (3, None), (4, 0.1))
    assert kept(tmp_path) == {"2", "4"}
    # A later run resumes from here and still knows the scores.
    saved(tmp_path, (5, None), (6, 0.3))
    assert kept(tmp_path) == {"2", "6"}
    state = state_of(2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 6
        target = abstract({"params": state["params"]}, replicated)
        assert_same(checkpoints.restore(2, target)["params"], state["params"])


def test_only_the_latest_is_kept_without_scores(tmp_path):
    saved(tmp_path, (1, None), (2, None), (3, None))
    assert kept(tmp_path) == {"3"}


def test_one_checkpoint_may_be_both(tmp_path):
    saved(tmp_path, (1, 0.1), (2, 0.2), (3, 0.3))
    assert kept(tmp_path) == {"3"}


def test_saving_may_be_followed_by_changes(tmp_path, replicated):
    """Saving continues in the background while training gives the state's memory away."""
    state = state_of(7)
    expected = jax.tree.map(np.array, state["params"])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, 7, CONFIG)
        for leaf in jax.tree.leaves(state):
            leaf.delete()
    with Checkpoints(tmp_path) as checkpoints:
        target = abstract({"params": expected}, replicated)
        assert_same(checkpoints.restore(7, target)["params"], expected)


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.latest is None
    assert (tmp_path / "new" / "checkpoints").is_dir()


def test_an_unusable_folder_is_named(tmp_path):
    path = tmp_path / "checkpoints"
    path.touch()
    with pytest.raises(UserError, match="choose another --workdir") as raised:
        Checkpoints(path)
    assert str(path) in str(raised.value)


def test_what_a_killed_run_left_half_saved_is_no_checkpoint(tmp_path, replicated):
    saved(tmp_path, (3, None))
    shutil.copytree(tmp_path / "3", tmp_path / "7.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 3
        checkpoints.save(state_of(7), 7, CONFIG)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 7
        state = state_of(7)
        target = abstract({"params": state["params"]}, replicated)
        assert_same(checkpoints.restore(7, target)["params"], state["params"])


def flip(path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


def test_no_flipped_byte_restores_other_values(tmp_path, replicated):
    state = state_of(7)
    target = abstract({"params": state["params"]}, replicated)
    folder = saved(tmp_path / "run", (7, None)) / "7"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if path.parts[0] in ("params", "meta")]
    noticed = set()
    for path in files:
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        flip(tmp_path / "copy" / "7" / path)
        with Checkpoints(tmp_path / "copy") as checkpoints:
            try:
                assert checkpoints.meta(7) == CONFIG
                restored = checkpoints.restore(7, target)
            except DamagedCheckpointError:
                noticed.add(path.parts[0])
            else:
                assert_same(restored, {"params": state["params"]})
        shutil.rmtree(tmp_path / "copy")
    assert noticed == {"params", "meta"}


def test_an_array_that_changed_is_named(tmp_path, replicated):
    saved(tmp_path / "a", (7, None))
    with Checkpoints(tmp_path / "b") as checkpoints:
        other = state_of(7)
        other["params"]["norm"]["scale"] += 1
        checkpoints.save(other, 7, CONFIG)
    shutil.rmtree(tmp_path / "a" / "7" / "params")
    shutil.copytree(tmp_path / "b" / "7" / "params", tmp_path / "a" / "7" / "params")
    target = abstract({"params": other["params"]}, replicated)
    with (
        Checkpoints(tmp_path / "a") as checkpoints,
        pytest.raises(
            DamagedCheckpointError, match=r"\(params\.norm\.scale is not what was saved\)"
        ),
    ):
        checkpoints.restore(7, target)


def test_split_arrays_are_checked_however_they_come_back(tmp_path, replicated):
    split = NamedSharding(replicated.mesh, PartitionSpec(None, "data"))
    kernel = np.arange(64.0, dtype=np.float32).reshape(4, 16)
    state = {"params": {"kernel": jax.device_put(kernel, split)}, "stats": {}, "opt_state": {}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, 1, CONFIG)
        checkpoints.wait()
        stored = json.loads((tmp_path / "1" / "meta" / "metadata").read_bytes())
        assert len(stored["digests"]["params.kernel"]["checksums"]) == 8
        for sharding in (split, replicated):
            restored = checkpoints.restore(1, abstract({"params": state["params"]}, sharding))
            np.testing.assert_array_equal(restored["params"]["kernel"], kernel)


def test_a_damaged_checkpoint_gives_way_to_an_older_one(tmp_path, replicated):
    saved(tmp_path, (2, 0.9), (4, None))
    (tmp_path / "4" / "metrics").mkdir()
    (tmp_path / "4" / "metrics" / "metrics").write_text('{"score": 1.0}')
    flip(next(path for path in (tmp_path / "4" / "params" / "d").iterdir()))
    target = abstract({"params": state_of(4)["params"]}, replicated)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best == 4
        with pytest.raises(DamagedCheckpointError, match=r"4 is damaged .* falls back to .* 2$"):
            checkpoints.restore(4, target)
        checkpoints.set_aside(4)
        assert (checkpoints.latest, checkpoints.best) == (2, 2)
        assert_same(checkpoints.restore(2, target)["params"], state_of(2)["params"])
        checkpoints.save(state_of(4), 4, CONFIG)
    assert kept(tmp_path) == {"2", "4", "4.damaged"}


def test_a_checkpoint_of_before_there_were_digests_is_restored(tmp_path, replicated):
    state = state_of(7)
    with Checkpoints(saved(tmp_path, (7, None))):
        path = tmp_path / "7" / "meta" / "metadata"
        path.write_text(json.dumps(CONFIG))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.meta(7) == CONFIG
        target = abstract({"params": state["params"]}, replicated)
        assert_same(checkpoints.restore(7, target)["params"], state["params"])


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"score": "x"}', b"\xff", None])
def test_a_damaged_score_leaves_the_checkpoint_usable(tmp_path, capsys, content):
    saved(tmp_path, (2, 0.9), (4, 0.1))
    path = tmp_path / "2" / "metrics" / "metrics"
    path.unlink()
    path.write_bytes(content) if content is not None else os.mkfifo(path)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.meta(2) == CONFIG
    assert f"{path} holds no score" in capsys.readouterr().err


def test_folders_that_are_no_checkpoints_are_passed_over(tmp_path):
    saved(tmp_path, (4, None))
    (tmp_path / "5").touch()
    for name in ("4 copy", "best", "06", "7.damaged", "run_9", "8.orbax-checkpoint-tmp"):
        shutil.copytree(tmp_path / "4", tmp_path / name)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps == [4]


def small_state(seed: int, size: int) -> dict:
    rng = np.random.default_rng(seed)
    return {name: {"a": rng.normal(size=size)} for name in ("params", "stats", "opt_state")}


def test_a_full_disk_leaves_the_last_checkpoint_complete(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    first, second = small_state(1, 64), small_state(2, 200_000)

    def fill():
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(first, 1, {})
        # No file may grow beyond this, which the system reports like a disk without space.
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(second, 2, {})

    try:
        with pytest.raises(UserError, match=r"not be written to .*\(step 1 is complete"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        placement = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        restored = checkpoints.restore(1, abstract(first, placement))
        jax.tree.map(np.testing.assert_allclose, jax.device_get(restored), first)


def test_what_cannot_fit_is_not_begun(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(small_state(1, 64), 1, {})
        checkpoints.wait()
        usage = SimpleNamespace(free=1_000_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        checkpoints.save(small_state(2, 20_000), 2, {})  # 0.48 MB
        checkpoints.wait()
        with pytest.raises(UserError, match=r"\(1 of at least 1\.92 MB are free\).*step 2 is"):
            checkpoints.save(small_state(3, 100_000), 3, {})
    assert kept(tmp_path) == {"2"}


TELL = """
import resource, sys
import numpy as np
from pathlib import Path
from jaxdet.errors import UserError
from jaxdet.training.checkpoint import Checkpoints

arrays = {name: {str(i): np.random.rand(500) for i in range(20)} for name in ("params", "stats")}
try:
    with Checkpoints(Path(sys.argv[1])) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        checkpoints.save({**arrays, "opt_state": {}}, 1, {})
        checkpoints.wait()
except UserError as error:
    print(error)
"""


def test_a_full_disk_is_told_once(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", TELL, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert "could not be written" in result.stdout
    assert "File too large" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("change", ["shape", "missing", "surplus"])
def test_another_model_is_rejected(tmp_path, replicated, change):
    saved(tmp_path, (7, None))
    state = state_of(7, width=4 if change == "shape" else 3)
    params = state["params"]
    if change == "missing":
        params = {"blocks": params["blocks"]}
    elif change == "surplus":
        params = {**params, "fc": {"kernel": jnp.zeros(2)}}
    target = abstract({"params": params, "stats": state["stats"]}, replicated)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as raised:
        checkpoints.restore(7, target)
    assert str(tmp_path / "7") in str(raised.value)
    assert "\n" not in str(raised.value)


def empty_the_arrays(folder):
    for path in (folder / "params").rglob("*"):
        if path.is_file() and "d" in path.parent.parts[-1:]:
            path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [lambda folder: shutil.rmtree(folder / "params"), empty_the_arrays],
    ids=["arrays absent", "arrays empty"],
)
def test_a_damaged_checkpoint_is_rejected(tmp_path, replicated, damage):
    saved(tmp_path, (7, None))
    damage(tmp_path / "7")
    target = abstract({"params": state_of(7)["params"]}, replicated)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError) as raised:
        checkpoints.restore(7, target)
    assert str(tmp_path / "7") in str(raised.value)
