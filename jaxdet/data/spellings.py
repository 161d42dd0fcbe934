"""Names of files that are spelled otherwise on the disk than in the annotations."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath


class Spellings:
    """The files of a folder by what is left of their names without the ways to spell them."""

    def __init__(self, root: Path):
        self._root = root

    def find(self, name: str) -> str | None:
        """The one file that a listed name can mean, relative to the folder; None without one."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or self._root.joinpath(name).is_symlink():
            return None
        inside = [part for part in parts if part not in ("/", ".")]
        candidates = [inside]
        if inside[0] == self._root.name:
            candidates.append(inside[1:])
        if "upload" in inside:
            candidates.append(inside[-1:])  # Label Studio's media/upload/<project>/<file>
        for candidate in candidates:
            found = self._files.get(_plain("/".join(candidate)), [])
            if len(found) == 1:
                return found[0]
        return None

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        files = defaultdict(list)
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), self._root)
                files[_plain(path.replace(os.sep, "/"))].append(path)
        return files


def _plain(name: str) -> str:
    """A name without its letter case and Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
