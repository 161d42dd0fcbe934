"""One run a workdir: a second process is refused, and the lock of a killed one is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from jaxdet.errors import UserError
from jaxdet.training.workdir_lock import LOCK, lone_run

HOLDER = """
import sys, time
from pathlib import Path
from jaxdet.training.workdir_lock import lone_run
with lone_run(Path(sys.argv[1])):
    assert "jax" not in sys.modules
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that trains in the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def acquire(workdir):
    with lone_run(workdir):
        return json.loads((workdir / LOCK).read_bytes())


def test_a_second_process_is_refused_and_a_killed_one_is_followed(tmp_path, holder, capsys):
    with pytest.raises(UserError) as raised:
        acquire(tmp_path)
    who = f"process {holder.pid} on {socket.gethostname()}"
    assert f"{tmp_path} is in use by {who}" in str(raised.value)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert acquire(tmp_path) == {"host": socket.gethostname(), "pid": os.getpid()}
    assert f"{who} has ended without leaving {tmp_path}" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
    acquire(tmp_path)
    assert capsys.readouterr().err == ""


def test_one_process_may_ask_again(tmp_path):
    with lone_run(tmp_path / "new"):
        with lone_run(tmp_path / "new" / ".." / "new"):
            pass
        assert (tmp_path / "new" / LOCK).is_file()
    assert not (tmp_path / "new" / LOCK).exists()


@pytest.mark.parametrize("left", [b"", b"{", b"[1]", b'{"pid": "x"}', b"[" * 2000, b"\xff"])
def test_a_damaged_lock_is_taken_over(tmp_path, left):
    (tmp_path / LOCK).write_bytes(left)
    assert acquire(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("left", "is_free"),
    [
        ({"host": socket.gethostname(), "pid": os.getppid()}, False),
        ({"host": "elsewhere", "pid": 2**22 + 1}, False),
        ({"host": socket.gethostname(), "pid": 2**22 + 1}, True),
    ],
)
def test_where_the_system_has_no_locks_the_names_count(tmp_path, monkeypatch, left, is_free):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / LOCK).write_text(json.dumps(left))
    if is_free:
        assert acquire(tmp_path)["pid"] == os.getpid()
        return
    with pytest.raises(UserError, match=f"in use by process {left['pid']} on {left['host']}"):
        acquire(tmp_path)


@pytest.mark.parametrize("kind", ["file", "link", "pipe"])
def test_an_unusable_workdir_is_named(tmp_path, kind):
    workdir = tmp_path / "run"
    if kind == "file":
        workdir.touch()
    else:
        workdir.mkdir()
        os.mkfifo(tmp_path / "pipe")
        (workdir / LOCK).symlink_to(tmp_path / "pipe") if kind == "link" else os.mkfifo(
            workdir / LOCK
        )
    with pytest.raises(UserError, match=f"{workdir} cannot be written"):
        acquire(workdir)
