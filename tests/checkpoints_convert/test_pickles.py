"""Pickles: arrays are read, and nothing that a file forges is called, hashed or given memory."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from checkpoints_convert.pickles import PickledArray, read_pickle
from checkpoints_convert.reading import read
from jaxdet.errors import UserError

MUTATIONS = 10_000

FUZZ = """
import io, pickle, random, resource, sys
import numpy as np
from checkpoints_convert.pickles import ADMITTED, ArrayUnpickler

resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
called = [value for value in ADMITTED.values() if callable(value)]

class Checked(ArrayUnpickler):
    def load_reduce(self):
        if callable(self.stack[-2]) and self.stack[-2] not in called:
            sys.exit(f"called {self.stack[-2]!r}")
        super().load_reduce()

    dispatch = {**ArrayUnpickler.dispatch, pickle.REDUCE[0]: load_reduce}

arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3)}
seeds = [pickle.dumps({"model": arrays, "x": [1, 2.5, None]}, protocol) for protocol in (2, 3, 4)]
call, build, new_object, far_memo = b"R", b"b", b"\\x81", b"r\\xff\\xff\\xff\\x7f"
HOSTILE = (call, build, new_object, far_memo, b"\\x96" + b"\\xff" * 6 + b"\\0\\0")
rng, read_whole = random.Random(0), 0
for i in range(int(sys.argv[1])):
    content = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(2, len(content))
        match rng.randrange(4):
            case 0:
                content[at] = rng.randrange(256)
            case 1:
                content[at : at + rng.randrange(1, 9)] = b""
            case 2:
                content[at:at] = content[at - 9 : at]
            case 3:
                content[at:at] = rng.choice(HOSTILE)
    try:
        Checked(io.BytesIO(content)).load()
    except Exception:
        pass
    else:
        read_whole += 1
print(read_whole)
"""


def forged(*reduced):
    """An object that pickles as the call and the state given."""

    class Forged:
        def __reduce__(self):
            return reduced

    return Forged()


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2), "b": value}}, protocol))
    return path


PLAIN = (3, "<", None, None, None, -1, -1, 0)
OBJECTS = (3, "|", None, None, None, -1, -1, 63)


@pytest.mark.parametrize(
    "value",
    [
        forged(np.dtype, ("f8", False, True), OBJECTS),
        forged(np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 63)),
        forged(np.dtype, ("V8", False, True), OBJECTS),
        forged(np.dtype, ("f8", False, True), (3, "<", None, ("a",), {"a": (1, 2)}, 8, 1, 16)),
        forged(np.dtype, ([("a", "O")],)),
        forged(np.dtype, ("f8",), (*PLAIN, {"metadata": 1})),
        forged(np.ndarray, ((2,), np.dtype("f8"))),
        forged(
            np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (9,), 0, False, b"")
        ),
        forged(
            np._core.multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (10**9,), np.dtype("f8"), False, bytes(8)),
        ),
        forged(
            np._core.multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (-1,), np.dtype("f8"), False, bytes(8)),
        ),
        forged(collections.OrderedDict, (), {"__class__": 1}),
    ],
)
def test_forged_states_and_calls_are_rejected(tmp_path, value):
    with pytest.raises(UserError, match=r"cannot be read \("):
        read(write(tmp_path / "forged.pkl", value))


def test_a_torch_file_cannot_forge_a_dtype_either(tmp_path):
    torch = pytest.importorskip("torch")
    content = {"a": torch.ones(2), "best": forged(np.dtype, ("f8", False, True), OBJECTS)}
    torch.save(content, tmp_path / "forged.pth")
    with pytest.raises(UserError, match="holds Python objects beside tensors") as raised:
        read(tmp_path / "forged.pth")
    assert "dtype is not stored as NumPy stores it" in str(raised.value.__cause__)


def test_nested_tuples_are_never_hashed(tmp_path):
    """Which would exhaust the interpreter's stack."""
    path = tmp_path / "deep.pkl"
    path.write_bytes(b"\x80\x04})" + b"\x85" * 200_000 + b"Ns.")
    with pytest.raises(UserError, match="keys must be texts or numbers"):
        read(path)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "i8", "u1", "?"])
def test_arrays_of_every_plain_kind_are_read(tmp_path, protocol, dtype):
    value = np.arange(12).reshape(3, 4).astype(dtype)
    content = collections.OrderedDict(a=value, b=np.asfortranarray(value))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(tmp_path / "a.pkl")
    assert all(isinstance(array, PickledArray) for array in found.values())
    for name, array in content.items():
        assert found[name].array.dtype == array.dtype
        np.testing.assert_array_equal(found[name].array, array)


def test_a_mutated_pickle_never_ends_the_process():
    """Nor calls anything that is not admitted."""
    result = subprocess.run(
        [sys.executable, "-c", FUZZ, str(MUTATIONS)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert 0 < int(result.stdout) < MUTATIONS
