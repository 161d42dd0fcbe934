"""One run a workdir: a lock that the system frees when its process is killed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdet.errors import UserError

LOCK = ".lock"
"""The file in a workdir that the process that trains there holds."""

_held: set[str] = set()


@contextlib.contextmanager
def lone_run(workdir: Path) -> Iterator[None]:
    """While it lasts, no other process may train in the folder, which is made where it is missing.

    The system frees the lock of a process that was killed; what it wrote in it is taken over with a
    line on stderr. Within a process that holds it, it may be asked for again.

    Raises:
        UserError: another process holds it, or the folder cannot be used.
    """
    name = os.path.realpath(workdir)
    if name in _held:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(workdir / LOCK)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{workdir} cannot be written ({reason}); free space or rights, or give another "
            "--workdir"
        ) from error
    _held.add(name)
    try:
        yield
    finally:
        _held.discard(name)
        with contextlib.suppress(OSError):
            (workdir / LOCK).unlink()
        os.close(descriptor)


def _locked(path: Path) -> int:
    """The open lock file, which this process holds and signed."""
    while True:
        descriptor = _opened(path)
        try:
            is_certain = _flocked(descriptor, path)
            # Whoever held it meanwhile has removed it: another file is the lock now.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    _sign(descriptor, path, is_certain)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is no ordinary file")
    return descriptor


def _flocked(descriptor: int, path: Path) -> bool:
    """Takes the system's lock; whether there is one, as not every network's file system has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(path, _signature(descriptor)) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False
    return True


def _sign(descriptor: int, path: Path, is_certain: bool) -> None:
    """Writes who holds the lock; of one that was left behind, says so."""
    left, here = _signature(descriptor), socket.gethostname()
    if left:
        if not is_certain and (left.get("host") != here or _is_alive(left.get("pid"))):
            raise _in_use(path, left)
        print(
            f"note: {_who(left)} has ended without leaving {path.parent}, which is taken over",
            file=sys.stderr,
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": here, "pid": os.getpid()}).encode(), 0)


def _signature(descriptor: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(descriptor, 1000, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _in_use(path: Path, by: dict[str, Any]) -> UserError:
    return UserError(
        f"{path.parent} is in use by {_who(by)}, which trains there; wait for it, or give another "
        f"--workdir (if it is gone, remove {path})"
    )


def _who(signature: dict[str, Any]) -> str:
    host, pid = signature.get("host"), signature.get("pid")
    return f"process {pid!s:.20} on {host!s:.80}" if host and pid else "another process"


def _is_alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, TypeError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
