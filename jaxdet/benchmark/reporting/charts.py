"""The report's charts as SVG: readable without colour, coloured by the page's CSS.

Each is an image to assistive technology, with a title and a description. Text is 12 units high in a
width of 420, so that a chart is readable at the width of a phone; colours are the classes `s0` to
`s7`.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 420
COLOURS = 8
DASHES = ("", "7 3", "2 3", "9 3 2 3")
LETTER = 6.4
BOLD = 1.13
"""Mean width of a letter at the charts' size, and how much wider it is in bold."""

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """What one group of runs is in a chart.

    Attributes:
        letter: its letters in the report, A ... Z, AA ...
        label: its name.
        position: decides colour and shape in place of the letter's among the report's groups.
        dashes: of its lines, in place of those of its number.
    """

    letter: str
    label: str = ""
    position: int | None = None
    dashes: str = ""

    @property
    def name(self) -> str:
        return f"{self.letter}  {self.label}".strip()

    @property
    def number(self) -> int:
        """Its position among the groups of the report, which decides colour and shape."""
        if self.position is not None:
            return self.position
        number = 0
        for letter in self.letter:
            number = 26 * number + ord(letter) - ord("A") + 1
        return number - 1


def line_chart(
    lines: Sequence[tuple[Series, Sequence[Curve]]],
    *,
    identity: str,
    title: str,
    x_label: str,
    y_label: str,
    marked_every: int = 1,
    decimals: int = 1,
) -> Markup:
    """Curves with their names at their ends.

    Args:
        lines: a series and its curves (one a run), each of points (x, y) in the order of x.
        identity: unique in the page.
        marked_every: which points have a marker.
        decimals: of numbers in the description.
    """
    names = [clipped(series.name, 20) for series, _ in lines]
    axes = _Axes(
        [point for _, curves in lines for curve in curves for point in curve],
        right=WIDTH - 16 - BOLD * max(text_width(name) for name in names),
        height=max(190, 17 * len(lines) + 20),
    )
    parts = axes.rendered(x_label, y_label)
    ends, described = [], []
    for series, curves in lines:
        parts += [part for each in curves for part in _curve(axes, series, each, marked_every)]
        last = max(curve[-1][0] for curve in curves)
        mean = sum(curve[-1][1] for curve in curves) / len(curves)
        ends.append(axes.at(last, mean))
        described.append(f"{series.name}: {mean:.{decimals}f} at {x_label} {last:g}")
    heights = spread([y for _, y in ends], 16, axes.top - 4, axes.bottom + 4)
    for (series, _), name, (x, end), y in zip(lines, names, ends, heights, strict=True):
        leader = f"M{x + 6:.1f} {end:.1f}L{axes.right + 10:.1f} {y:.1f}"
        parts.append(_path("leader", leader))
        parts.append(_text(axes.right + 13, y + 4, name, f"name {_colour(series)}"))
    return _svg(parts, axes.bottom + 42, identity, title, "; ".join(described))


class _Axes:
    """The frame of a line chart: round ticks that enclose all points."""

    left, top = 38, 26

    def __init__(self, points: Curve, right: float, height: float):
        self.right, self.height, self.bottom = right, height, self.top + height
        self._x_ticks = ticks(0, max(x for x, _ in points), 5)
        self._y_ticks = ticks(min(y for _, y in points), max(y for _, y in points), 5)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is in the chart."""
        (x_first, *_, x_last), (y_first, *_, y_last) = self._x_ticks, self._y_ticks
        return (
            self.left + (x - x_first) / (x_last - x_first) * (self.right - self.left),
            self.bottom - (y - y_first) / (y_last - y_first) * self.height,
        )

    def rendered(self, x_label: str, y_label: str) -> list[Markup]:
        """The ticks, their lines and what the axes are of."""
        parts = [_text(0, 12, y_label, "axis")]
        for y in self._y_ticks:
            level = self.at(0, y)[1]
            parts.append(_path("grid", f"M{self.left} {level:.1f}H{self.right:.1f}"))
            parts.append(_text(self.left - 6, level + 4, tick_text(y, self._y_ticks), "axis end"))
        for x in self._x_ticks:
            text = tick_text(x, self._x_ticks)
            parts.append(_text(self.at(x, 0)[0], self.bottom + 17, text, "axis middle"))
        middle = (self.left + self.right) / 2
        return [*parts, _text(middle, self.bottom + 34, x_label, "axis middle")]


def _curve(axes: _Axes, series: Series, curve: Curve, marked_every: int) -> list[Markup]:
    places = [axes.at(*point) for point in curve]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dashes = series.dashes or DASHES[series.number // COLOURS % len(DASHES)]
    line = _path(f"line {_colour(series)}", path, dashes)
    return [line, *(_marker(x, y, series) for x, y in places[::marked_every])]


def bar_chart(
    bars: Sequence[tuple[str, Sequence[float | None]]],
    series: Sequence[Series],
    *,
    identity: str,
    title: str,
) -> Markup:
    """Horizontal bars under common names, each with its number and, of several, its letter.

    Args:
        bars: a name and a value for each series; values below 0 have a number and no bar.
    """
    pitch, gap = 14, 12
    left = max(text_width(name) for name, _ in bars) + 10
    if len(series) > 1:
        left += 6 + max(text_width(each.letter) for each in series)
    largest = max((v for _, values in bars for v in values if v is not None), default=0)
    scale = (WIDTH - left - 44) / max(largest, 1e-9)
    parts, described, y = [], [], 4
    for name, values in bars:
        middle = y + pitch * len(values) / 2
        parts.append(_text(0, middle + 4, name, "label"))
        for each, value in zip(series, values, strict=True):
            centre = y + pitch / 2
            if len(series) > 1:
                parts.append(_text(left - 6, centre + 3.5, each.letter, "small end"))
            length = max(0.0, value or 0.0) * scale
            parts.append(_bar(left, centre, length, _colour(each)))
            number = "\u2013" if value is None else decimal(value)
            parts.append(_text(left + length + 5, centre + 3.5, number, "small"))
            described.append(f"{name} {each.letter} {number}")
            y += pitch
        y += gap
    parts.append(_path("rule", f"M{left:.1f} 0V{y - gap + 4}"))
    return _svg(parts, y - gap + 6, identity, title, ", ".join(described))


def difference_chart(
    rows: Sequence[tuple[str, float]], series: Series, *, identity: str, title: str
) -> Markup:
    """Gains to the right and losses to the left of a line, each with its name on the other side."""
    pitch, middle = 18, WIDTH / 2
    largest = max((abs(value) for _, value in rows), default=0)
    scale = (middle - 44) / max(largest, 1e-9)
    parts = []
    for i, (name, value) in enumerate(rows):
        centre, length = pitch * (i + 0.5) + 2, abs(value) * scale
        is_gain = value >= 0
        start, colour = (middle, _colour(series)) if is_gain else (middle - length, "loss")
        side, other, sign = ("", " end", 1) if is_gain else (" end", "", -1)
        parts += [
            _bar(start, centre, length, colour),
            _text(middle + sign * (length + 5), centre + 4, signed(value), f"small{side}"),
            _text(middle - sign * 7, centre + 4, clipped(name, 28), f"label{other}"),
        ]
    height = pitch * len(rows) + 4
    parts.append(_path("rule", f"M{middle} 0V{height}"))
    described = ", ".join(f"{name} {signed(value)}" for name, value in rows)
    return _svg(parts, height, identity, title, described)


def swatch(letter: str) -> Markup:
    """The marker of a group's line, for tables; it says nothing by itself."""
    marker = _marker(7, 7, Series(letter), 4.5)
    return Markup(f'<svg class="swatch" viewBox="0 0 14 14" aria-hidden="true">{marker}</svg>')


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


def _text(x: float, y: float, text: str, classes: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(classes, x, y, text)


def _path(classes: str, path: str, dashes: str = "") -> Markup:
    dash = Markup(' stroke-dasharray="{}"').format(dashes) if dashes else ""
    return Markup('<path class="{}" d="{}"{}/>').format(classes, path, dash)


def _bar(x: float, centre: float, length: float, colour: str) -> Markup:
    width = max(length, 0.75)
    return Markup('<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="10"/>').format(
        colour, x, centre - 5, width
    )


def _marker(x: float, y: float, series: Series, r: float = 3.6) -> Markup:
    """Circle, square, triangle or diamond: shapes tell series apart where colours do not."""
    shapes = (
        f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z",
        f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f} {y - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z",
        f"M{x:.1f} {y - 1.35 * r:.1f}l{1.35 * r:.1f} {1.35 * r:.1f}l{-1.35 * r:.1f} "
        f"{1.35 * r:.1f}l{-1.35 * r:.1f} {-1.35 * r:.1f}z",
    )
    return _path(f"marker {_colour(series)}", shapes[series.number % len(shapes)])


def _svg(
    parts: Sequence[Markup], height: float, identity: str, title: str, description: str
) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {width} {height:.0f}" role="img" '
        'aria-labelledby="{identity}-title {identity}-description">'
        '<title id="{identity}-title">{title}</title>'
        '<desc id="{identity}-description">{description}</desc>{content}</svg>'
    ).format(
        width=WIDTH,
        height=height,
        identity=identity,
        title=title,
        description=description,
        content=Markup("").join(parts),
    )
