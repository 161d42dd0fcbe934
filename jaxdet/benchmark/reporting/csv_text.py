"""Numbers as CSV that a spreadsheet takes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxdet.benchmark.reporting.text import DASH

FORMULA = ("=", "+", "-", "\u2212", "@", "\t", "\r")
"""What a text begins with that a spreadsheet would run, unless it is a number."""

PLAIN = str.maketrans({"\u2212": "-", "\u2009": "", "\u202f": ""})
"""Signs of typesetting in numbers: minus and thin spaces."""

_ONE = r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?"
NUMBER = re.compile(rf"{_ONE}((±| to ){_ONE})?", re.ASCII)
"""Such as "+1.0", "1.0±0.2" and the range "+1.0 to +2.0"."""


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
    text = str(value).replace("\n", "; ")
    if text == DASH:
        return ""
    plain = text.translate(PLAIN)
    if NUMBER.fullmatch(plain):
        return plain
    return f"'{text}" if text.startswith(FORMULA) else text
