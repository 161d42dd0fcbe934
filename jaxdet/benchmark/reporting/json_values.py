"""Values read from JSON that anyone may have written: the kind that is wanted, or None."""

from __future__ import annotations

from typing import Any

LARGEST_NUMBER = 2**53
"""What no count or measure of a run reaches; to it floats are exact for whole numbers."""


def number(value: Any) -> float | None:
    """A finite number of a usable size."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_real and abs(value) <= LARGEST_NUMBER else None


def count(value: Any) -> int | None:
    """A whole number of at least 0."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value <= LARGEST_NUMBER else None


def text(value: Any) -> str | None:
    """A text that is not empty."""
    return value if isinstance(value, str) and value else None


def section(value: Any) -> dict[str, Any]:
    """An object, empty in place of anything else."""
    return value if isinstance(value, dict) else {}


def texts(value: Any) -> dict[str, str]:
    """The entries of an object that are texts."""
    return {name: each for name, each in section(value).items() if isinstance(each, str)}
