"""Numbers as CSV."""

from __future__ import annotations

import csv
import io

import pytest

from jaxdet.benchmark.reporting.csv_text import csv_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("\u2013", ""),
        (0.1 + 0.2, "0.3"),
        (12.0, "12"),
        ("\u22121.2", "-1.2"),
        ("+1.2", "+1.2"),
        ("+6.8 to +16.3", "+6.8 to +16.3"),
        ("1\u202f521", "1521"),
        ("41.2\u2009\u00b1\u20090.3", "41.2\u00b10.3"),
        ("-2.5e-05", "-2.5e-05"),
        ("2017\u20132018", "2017\u20132018"),
        ("ViT 768\u2009\u00d7\u200912", "ViT 768\u2009\u00d7\u200912"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("\u22122+3", "'\u22122+3"),
        ("-1 to =A1", "'-1 to =A1"),
        ('a, "b"', 'a, "b"'),
        ("one\ntwo", "one; two"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+cmd|calc", "'+cmd|calc"),
        ("-cmd", "'-cmd"),
        ("@sum", "'@sum"),
    ],
)
def test_numbers_are_plain_and_texts_no_formulas(value, text):
    ((found, _),) = csv.reader(io.StringIO(csv_text([(value, "x")])))
    assert found == text
