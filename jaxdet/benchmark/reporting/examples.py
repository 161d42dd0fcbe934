"""The sheets of example detections that runs leave, small enough to stand in the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from jaxdet.benchmark.reporting.groups import Section
from jaxdet.benchmark.reporting.text import initialisation_name
from jaxdet.files import regular_file

LARGEST_SHEET = 80_000_000
"""Pixels beyond which a sheet is left out: decoding it could exhaust the memory."""

LARGEST_EXAMPLE = 150_000
"""Bytes that a sheet may take in the page."""

EXAMPLE_WIDTH = 1200


class Example(NamedTuple):
    """A sheet: what it is of, what it says in place of the image, and the image's address."""

    caption: str
    alt: str
    source: str


def examples(section: Section) -> list[Example]:
    """The sheet of the first run of each group that has a readable one."""
    found = []
    for group in section.groups:
        content = small_sheet(group.first.folder / "detections.png")
        if content is not None:
            name = f"{group.letter}  {initialisation_name(group)}, {group.model}"
            alt = f"Detections of {name} on the first validation images"
            data = base64.b64encode(content).decode("ascii")
            found.append(Example(name, alt, f"data:image/webp;base64,{data}"))
    return found


def small_sheet(path: Path) -> bytes | None:
    """An image as WebP of at most LARGEST_EXAMPLE bytes; None where there is no readable one."""
    # Pillow lets out many kinds of exception for broken files, and sides too long for WebP.
    try:
        with Image.open(regular_file(path), formats=("PNG",)) as image:
            if image.width * image.height > LARGEST_SHEET:
                return None
            sheet = image.convert("RGB")
        width = min(EXAMPLE_WIDTH, sheet.width)
        while True:
            height = max(1, round(sheet.height * width / sheet.width))
            resized = sheet.resize((width, height), Image.Resampling.LANCZOS)
            for quality in (80, 60, 40):
                stream = io.BytesIO()
                resized.save(stream, "WEBP", quality=quality, method=4)
                if stream.tell() <= LARGEST_EXAMPLE:
                    return stream.getvalue()
            width = round(width * 0.75)
    except Exception:
        return None
