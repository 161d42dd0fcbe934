"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jaxdet.errors import UserError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write to that becomes `path` at the end, and leaves nothing after an error.

    Raises:
        UserError: the file or its folder, which is made where it is missing, cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    made: list[Path] = []
    try:
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except BaseException as error:
        for remove in (partial.unlink, *(folder.rmdir for folder in made)):
            with contextlib.suppress(OSError):  # never made, or in use by others meanwhile
                remove()
        if isinstance(error, OSError):
            raise UserError(f"{path} cannot be written ({error}); free space or rights") from error
        raise
