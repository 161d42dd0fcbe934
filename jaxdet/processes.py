"""Worker processes that end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import connection


def leave_with_parent(*_: int) -> None:
    """Ends this process when its parent is gone, as after SIGKILL; to be called when it starts."""

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        os._exit(1)

    sentinel = multiprocessing.parent_process().sentinel
    threading.Thread(target=watch, args=(sentinel,), daemon=True).start()
