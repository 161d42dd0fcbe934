"""In which keys configs may differ when a run resumes, and in which two do."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from jaxdet.config.keys import keys_with
from jaxdet.config.values import schema_of


def resumable_keys(config: ConfigDict) -> tuple[str, ...]:
    """The keys that a resumed run of this config may change, each with "config." before it."""
    names = keys_with("resume", schema_of(config))
    if "early_stop" in config:
        names = (*names, "early_stop")  # no role "resume": the report tells such runs apart
    if config.get("batch_statistics") == "batch":
        names = (*names, "accumulate")
    return tuple(f"config.{name}" for name in names)


def difference(
    stored: Any, given: Any, name: str = "config", ignored: Collection[str] = ()
) -> str | None:
    """The first key in which two plain configs differ, with both values; None if in none.

    Args:
        stored, given: nested dictionaries of JSON values.
        name: what the values are called.
        ignored: dotted keys that may differ.
    """
    if name in ignored:
        return None
    if isinstance(stored, dict) and isinstance(given, dict):
        for each in sorted(stored.keys() | given.keys()):
            found = difference(stored.get(each), given.get(each), f"{name}.{each}", ignored)
            if found:
                return found
        return None
    return None if stored == given else f"{name} was {stored!r} and is now {given!r}"
