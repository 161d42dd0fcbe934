"""Numbers as CSV that a spreadsheet takes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

FORMULA = ("=", "+", "@", "\t", "\r")
"""What a text begins with that a spreadsheet would run; "-" begins numbers too, see below."""

PLAIN = str.maketrans({"\u2212": "-", "\u2009": "", "\u202f": "", "\u2013": ""})
"""Signs of typesetting: minus, thin spaces, and the dash where there is no number."""


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of texts and numbers; floats with four decimals, None as nothing."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([map(_cell, row) for row in rows])
    return stream.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    text = str(value).translate(PLAIN).replace("\n", "; ")
    starts_formula = text.startswith(FORMULA) or (text.startswith("-") and not text[1:2].isdigit())
    return f"'{text}" if starts_formula and not _is_signed(text) else text


def _is_signed(text: str) -> bool:
    """Whether it is a number with its sign, or such a range of them as "+1.0 to +2.0"."""
    return all(part.lstrip("+-").replace(".", "", 1).isdigit() for part in text.split(" to "))
