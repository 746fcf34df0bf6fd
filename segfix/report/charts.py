"""Charts as numbers and paths, which the report's template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 42
"""Size and margins of a chart, in units of its view box."""

ROW = 17
"""Height of a bar of a bar chart by name."""

NAME_WIDTH = 108
"""Room for the names of a bar chart."""

MARKERS = (
    "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "M-3-3h6v6h-6z",
    "M0-4.2L4 3H-4z",
    "M0-4.4L4.4 0L0 4.4L-4.4 0z",
    "M0 4.2L4-3H-4z",
    "M-4-1.4h2.6V-4h2.8v2.6H4v2.8H1.4V4h-2.8V1.4H-4z",
)
"""Of lines, told apart without colour: disc, square, triangle, diamond, triangle down, cross."""


@dataclass(frozen=True)
class Mark:
    """Something drawn at a place, with the text shown when it is pointed at.

    Attributes:
        x: To the right.
        y: Downwards.
        text: What it says.
        width: Of a bar.
        height: Of a bar.
        whisker: Ends of a bar's interval, if it has one.
        kind: Number of its series, or a word for the style sheet.
    """

    x: float
    y: float
    text: str
    width: float = 0
    height: float = 0
    whisker: tuple[float, float] | None = None
    kind: str = ""


@dataclass(frozen=True)
class Line:
    """A series of a line chart: its number, its pieces (gaps where it has no value), its marks."""

    number: int
    paths: list[str]
    marks: list[Mark]


@dataclass(frozen=True)
class Chart:
    """What to draw: ticks are places and texts along an axis."""

    width: float
    height: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    bars: list[Mark]
    zero: float | None = None


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers from at most `low` to at least `high`.

    Args:
        low: Smallest value.
        high: Largest value.
        most: About how many there may be.

    Example:
        >>> ticks(0, 47)
        [0, 10, 20, 30, 40, 50]
        >>> ticks(-0.3, 0.5)
        [-0.4, -0.2, 0.0, 0.2, 0.4, 0.6]
    """
    span = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(s * power for s in (1, 2, 5, 10) if span / (s * power) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(n * step, digits) if digits else round(n * step) for n in range(first, last + 1)]


def tick_text(value: float, *, sign: bool = False) -> str:
    """Write a tick's number, with a real minus sign."""
    return f"{value:+g}".replace("-", "−") if sign and value else f"{value:g}".replace("-", "−")


def line_chart(series: Sequence[Sequence[float | None]], columns: Sequence[str]) -> Chart:
    """Place lines over columns that stand in even distances.

    Args:
        series: Values in percent, one per column; None leaves a gap.
        columns: What the columns are called.
    """
    values = [value for line in series for value in line if value is not None]
    marks = ticks(0, max(values, default=1))
    plot = _Plot(len(columns), marks)
    lines = []
    for number, line in enumerate(series):
        places = [
            None if value is None else Mark(plot.x(i), plot.y(value), f"{columns[i]}: {value:.2f}")
            for i, value in enumerate(line)
        ]
        paths, path = list[str](), ""
        for place in [*places, None]:
            if place is not None:
                path += f"{'L' if path else 'M'}{place.x:.1f} {place.y:.1f}"
            elif path:
                paths.append(path)
                path = ""
        lines.append(Line(number, paths, [place for place in places if place]))
    return Chart(WIDTH, HEIGHT, plot.x_ticks(columns), plot.y_ticks(), lines, [])


def change_chart(
    fixed: Sequence[float],
    broken: Sequence[float],
    columns: Sequence[str],
    *,
    up: float,
    down: float,
) -> Chart:
    """Place bars up for what was fixed, down for what was broken.

    Args:
        fixed: Values in percent, one per column.
        broken: The same.
        columns: What the columns are called.
        up: Largest value fixed of all the charts that are read beside this one.
        down: Largest value broken of them.
    """
    marks = ticks(-down, max(up, 0.01))
    plot = _Plot(len(columns), marks)
    zero, width = plot.y(0), plot.step * 0.6
    bars = []
    for i, (good, bad) in enumerate(zip(fixed, broken, strict=True)):
        left = plot.x(i) - width / 2
        for kind, value in (("fixed", good), ("broken", -bad)):
            end = plot.y(value)
            text = f"{columns[i]}: {abs(value):.3f} {kind}"
            bars.append(Mark(left, min(zero, end), text, width, abs(end - zero), kind=kind))
    y_ticks = [(y, text.removeprefix("−")) for y, text in plot.y_ticks()]
    return Chart(WIDTH, HEIGHT, plot.x_ticks(columns), y_ticks, [], bars, zero)


def gain_chart(
    names: Sequence[str], gains: Mapping[str, Sequence[Sequence[float | None]]]
) -> Chart:
    """Place horizontal bars with whiskers: for each name, one bar per set.

    Args:
        names: Of the rows.
        gains: By set, [difference, low, high] in percent for each name; None where there is none.
    """
    numbers = [v for rows in gains.values() for row in rows for v in row if v is not None]
    marks = ticks(min([0, *numbers]), max([0, *numbers]))
    left, right = NAME_WIDTH, WIDTH - RIGHT
    scale = (right - left) / ((marks[-1] - marks[0]) or 1)

    def x(value: float) -> float:
        return left + (value - marks[0]) * scale

    pitch = ROW * len(gains) + 6
    bars, y_ticks = [], []
    for i, name in enumerate(names):
        top = 6 + i * pitch
        y_ticks.append((top + pitch / 2 - 3, name))
        for number, (set_name, rows) in enumerate(gains.items(), start=1):
            value, low, high = rows[i]
            if value is None:
                continue
            ends = None if low is None or high is None else (x(low), x(high))
            text = f"{name}, {set_name}: {value:+.2f}"
            if low is not None and high is not None:
                text += f" [{low:+.2f} {high:+.2f}]"
            bars.append(
                Mark(
                    min(x(0), x(value)),
                    top + (number - 1) * ROW + 2,
                    text,
                    abs(x(value) - x(0)),
                    ROW - 4,
                    ends,
                    f"s{number % len(MARKERS)}",
                )
            )
    height = 6 + len(names) * pitch + BOTTOM
    x_ticks = [(x(value), tick_text(value, sign=True)) for value in marks]
    return Chart(WIDTH, height, x_ticks, y_ticks, [], bars, x(0))


class _Plot:
    """Places in a chart of even columns."""

    def __init__(self, columns: int, marks: Sequence[float]) -> None:
        self.marks = marks
        self.step = (WIDTH - LEFT - RIGHT) / max(columns, 1)

    def x(self, column: int) -> float:
        return LEFT + (column + 0.5) * self.step

    def y(self, value: float) -> float:
        low, high = self.marks[0], self.marks[-1]
        return HEIGHT - BOTTOM - (value - low) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    def x_ticks(self, columns: Sequence[str]) -> list[tuple[float, str]]:
        return [(self.x(i), text) for i, text in enumerate(columns)]

    def y_ticks(self) -> list[tuple[float, str]]:
        return [(self.y(value), tick_text(value)) for value in self.marks]
