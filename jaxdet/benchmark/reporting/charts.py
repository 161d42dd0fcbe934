"""The report's charts as SVG: drawn here, readable without colour, coloured by the page's CSS.

Each is an image to assistive technology, with a title and a description. Text is 12 units high in a
width of 420, so that a chart is readable at the width of a phone; colours are the classes `s0` to
`s7`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 420
COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3")
LETTER = 6.4
BOLD = 1.13
"""Mean width of a letter at the charts' size, and how much wider it is in bold."""


@dataclass(frozen=True)
class Series:
    """What one configuration has in a chart.

    Attributes:
        key: its letters in the report, A ... Z, AA ...
        label: its name.
    """

    key: str
    label: str = ""

    @property
    def number(self) -> int:
        """Its position among the configurations of the report, which decides colour and shape."""
        number = 0
        for letter in self.key:
            number = 26 * number + ord(letter) - ord("A") + 1
        return number - 1


def line_chart(
    lines: Sequence[tuple[Series, Sequence[Sequence[tuple[float, float]]]]],
    *,
    identity: str,
    title: str,
    x_label: str,
    y_label: str,
) -> str:
    """Curves with their names at their ends.

    Args:
        lines: a series and its curves (one a run), each of points (x, y) in the order of x.
        identity: unique in the page.
    """
    points = [point for _, curves in lines for curve in curves for point in curve]
    names = [clipped(f"{series.key}  {series.label}", 20) for series, _ in lines]
    right = WIDTH - 16 - BOLD * max(text_width(name) for name in names)
    left, top, height = 38, 26, max(190, 17 * len(lines) + 20)
    bottom = top + height
    x_ticks = ticks(0, max(x for x, _ in points), 5)
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 5)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - left),
            bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * height,
        )

    parts = [f'<text class="axis" x="0" y="12">{escape(y_label)}</text>']
    for y in y_ticks:
        level = at(0, y)[1]
        parts.append(f'<path class="grid" d="M{left} {level:.1f}H{right:.1f}"/>')
        parts.append(_text(left - 6, level + 4, tick_text(y, y_ticks), "axis end"))
    for x in x_ticks:
        parts.append(_text(at(x, 0)[0], bottom + 17, tick_text(x, x_ticks), "axis middle"))
    parts.append(_text((left + right) / 2, bottom + 34, x_label, "axis middle"))

    ends, told = [], []
    for series, curves in lines:
        for curve in curves:
            placed = [at(*point) for point in curve]
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
            dash = DASHES[series.number // COLOURS % len(DASHES)]
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            parts.append(f'<path class="line {_colour(series)}" d="{path}"{dashes}/>')
            parts += [_marker(x, y, series) for x, y in placed]
        last = max((curve[-1] for curve in curves), key=lambda point: point[0])
        mean = sum(curve[-1][1] for curve in curves) / len(curves)
        ends.append(at(last[0], mean)[1])
        told.append(f"{series.key}, {series.label}: {mean:.1f} at {x_label} {last[0]:g}")
    places = spread(ends, 16, top - 4, bottom + 4)
    for (series, curves), name, end, y in zip(lines, names, ends, places, strict=True):
        x = max(at(*curve[-1])[0] for curve in curves)
        parts.append(f'<path class="leader" d="M{x + 6:.1f} {end:.1f}L{right + 10:.1f} {y:.1f}"/>')
        parts.append(_text(right + 13, y + 4, name, f"name {_colour(series)}"))
    return _svg(parts, bottom + 42, identity, title, "; ".join(told))


def bar_chart(
    groups: Sequence[tuple[str, Sequence[float | None]]],
    series: Sequence[Series],
    *,
    identity: str,
    title: str,
) -> str:
    """Horizontal bars in groups, each with its number and, of several, its letter.

    Args:
        groups: a name and a value for each series; values below 0 are told, not drawn.
    """
    pitch, thickness, gap = 14, 10, 12
    left = max(text_width(name) for name, _ in groups) + (24 if len(series) > 1 else 10)
    largest = max((v for _, values in groups for v in values if v is not None), default=0)
    scale = (WIDTH - left - 44) / max(largest, 1e-9)
    parts, told, y = [], [], 4
    for name, values in groups:
        middle = y + pitch * len(values) / 2
        parts.append(_text(0, middle + 4, name, "label"))
        for each, value in zip(series, values, strict=True):
            centre = y + pitch / 2
            if len(series) > 1:
                parts.append(_text(left - 6, centre + 3.5, each.key, "small end"))
            length = max(0.0, value or 0.0) * scale
            parts.append(
                f'<rect class="bar {_colour(each)}" x="{left:.1f}" y="{centre - thickness / 2:.1f}"'
                f' width="{max(length, 0.75):.1f}" height="{thickness}"/>'
            )
            number = "\u2013" if value is None else decimal(value)
            parts.append(_text(left + length + 5, centre + 3.5, number, "small"))
            told.append(f"{name} {each.key} {number}")
            y += pitch
        y += gap
    parts.append(f'<path class="rule" d="M{left:.1f} 0V{y - gap + 4}"/>')
    return _svg(parts, y - gap + 6, identity, title, ", ".join(told))


def difference_chart(
    rows: Sequence[tuple[str, float]], series: Series, *, identity: str, title: str
) -> str:
    """Gains to the right and losses to the left of a line, each with its name on the other side."""
    pitch, middle = 18, WIDTH / 2
    largest = max((abs(value) for _, value in rows), default=0)
    scale = (middle - 44) / max(largest, 1e-9)
    parts = []
    for i, (name, value) in enumerate(rows):
        centre, length = pitch * (i + 0.5) + 2, abs(value) * scale
        is_gain = value >= 0
        x = middle if is_gain else middle - length
        colour = _colour(series) if is_gain else "loss"
        parts.append(
            f'<rect class="bar {colour}" x="{x:.1f}" y="{centre - 5:.1f}" '
            f'width="{max(length, 0.75):.1f}" height="10"/>'
        )
        side, sign = ("", 1) if is_gain else (" end", -1)
        number = signed(value)
        parts.append(_text(middle + sign * (length + 5), centre + 4, number, f"small{side}"))
        other = " end" if is_gain else ""
        parts.append(_text(middle - sign * 7, centre + 4, clipped(name, 28), f"label{other}"))
    height = pitch * len(rows) + 4
    parts.append(f'<path class="rule" d="M{middle} 0V{height}"/>')
    told = ", ".join(f"{name} {signed(value)}" for name, value in rows)
    return _svg(parts, height, identity, title, told)


def swatch(series: Series) -> str:
    """A small piece of a configuration's line, for tables; it says nothing by itself."""
    return (
        f'<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true">{_marker(7, 7, series, 4.5)}'
        "</svg>"
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that enclose low..high, at least two."""
    span = max(high - low, abs(high) * 1e-3, 1e-9)
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def tick_text(value: float, among: Sequence[float]) -> str:
    """A tick with as many decimals as the step between ticks has."""
    step = among[1] - among[0]
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "\u2212")


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places as near as possible to the wanted ones, in their order, at least `distance` apart."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # [centre, members]
    for i in order:
        blocks.append([wanted[i], 1])
        while len(blocks) > 1:
            (above, m), (below, n) = blocks[-2:]
            if below - above >= distance * (m + n) / 2:
                break
            blocks[-2:] = [[(above * m + below * n) / (m + n), m + n]]
    places = []
    for centre, members in blocks:
        half = distance * (members - 1) / 2
        centre = min(max(centre, low + half), max(high - half, low + half))
        places += [centre - half + distance * j for j in range(int(members))]
    for j in range(1, len(places)):
        places[j] = max(places[j], places[j - 1] + distance)
    return [places[order.index(i)] for i in range(len(wanted))]


def text_width(text: str) -> float:
    """About how wide a text is in a chart."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return LETTER * (len(text) + 0.9 * wide)


def clipped(text: str, letters: int) -> str:
    """The text, cut with an ellipsis where it is wider than so many letters."""
    if text_width(text) <= LETTER * letters:
        return text
    while text and text_width(text) > LETTER * (letters - 1):
        text = text[:-1]
    return f"{text.rstrip()}\u2026"


def decimal(value: float) -> str:
    """One decimal, with a true minus sign."""
    text = f"{value:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "\u2212")


def signed(value: float) -> str:
    """One decimal with its sign; 0.0 has none."""
    text = decimal(value)
    return text if text == "0.0" or text.startswith("\u2212") else f"+{text}"


def _colour(series: Series) -> str:
    return f"s{series.number % COLOURS}"


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _marker(x: float, y: float, series: Series, r: float = 3.6) -> str:
    """Circle, square, triangle or diamond: shapes tell series apart where colours do not."""
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z",
        f"M{x:.1f} {y - 1.35 * r:.1f}l{1.35 * r:.1f} {1.35 * r:.1f}l{-1.35 * r:.1f} "
        f"{1.35 * r:.1f}l{-1.35 * r:.1f} {-1.35 * r:.1f}z",
    )
    return f'<path class="marker {_colour(series)}" d="{shapes[series.number % len(shapes)]}"/>'


def _svg(parts: Sequence[str], height: float, identity: str, title: str, told: str) -> str:
    identity = escape(identity)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-labelledby="{identity}-title {identity}-told">'
        f'<title id="{identity}-title">{escape(title)}</title>'
        f'<desc id="{identity}-told">{escape(told)}</desc>{"".join(parts)}</svg>'
    )
