"""Line charts as SVG, for the UI's pages.

Drawn by hand: a line chart needs no library, and the pictures have to be small (they lie in an event log).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 26, 28
MOST_POINTS = 120
"""Points of a line; more cannot be told apart."""
FEW_POINTS = 30
"""A line of no more has its points marked: a single one would not be seen, and few are no course."""
COLOURS = ("#3563c9", "#c9632a", "#2f8f5b", "#8a4fb3")
"""Of lines that mean nothing by their colour."""
Point = tuple[float, float]
Label = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """One line: its name in the legend, its points (seconds, value), and the band around it (low, high)."""

    name: str
    colour: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    steps: bool = False


def plain(value: float) -> str:
    """A number as short as it can be read."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def markdown(charts: Mapping[str, str]) -> str:
    """The pictures within a page of Markdown."""
    return "\n\n".join(
        f"**{title}**\n\n![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
        for title, svg in charts.items()
    )


def chart(lines: Sequence[Line], label: Label, clock: Label | None = None) -> str:
    """A line chart as SVG. `label` writes a value of the upright axis; `clock` a time, where it is not one since the beginning."""
    times = [x for line in lines for x, _ in line.points]
    values = [y for line in lines for _, y in line.points] + [v for line in lines for pair in line.band for v in pair]
    last, low, high = max(times) or 1.0, min(0.0, *values), max(values)
    high = high if high > low else low + 1.0
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(point: Point) -> str:
        x, y = LEFT + wide * point[0] / last, TOP + tall * (1 - (point[1] - low) / (high - low))
        return f"{x:.1f},{y:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for step in range(5):
        value = low + (high - low) * step / 4
        y = at((0, value)).split(",")[1]
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y}" y2="{y}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end" fill="#555555">{label(value)}</text>'
        )
        x = at((last * step / 4, low)).split(",")[0]
        time = clock(last * step / 4) if clock else _since(last * step / 4, last)
        parts.append(f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle" fill="#555555">{time}</text>')
    for number, line in enumerate(lines):
        kept = range(0, len(line.points), max(1, math.ceil(len(line.points) / MOST_POINTS)))
        points = [line.points[i] for i in kept]
        if line.band:
            edge = [at((line.points[i][0], line.band[i][1])) for i in kept]
            edge += [at((line.points[i][0], line.band[i][0])) for i in reversed(kept)]
            parts.append(f'<polygon points="{" ".join(edge)}" fill="{line.colour}" fill-opacity="0.15"/>')
        if line.steps:
            points = [p for a, b in zip(points, points[1:] + points[-1:], strict=True) for p in (a, (b[0], a[1]))]
        dash = ' stroke-dasharray="5 4"' if line.dashed else ""
        drawn = " ".join(map(at, points))
        parts.append(f'<polyline points="{drawn}" fill="none" stroke="{line.colour}" stroke-width="1.6"{dash}/>')
        if len(line.points) <= FEW_POINTS and not line.dashed:
            for x, y in (at(point).split(",") for point in line.points):
                parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="{line.colour}"/>')
        y = TOP + 14 + 18 * number
        x = LEFT + wide + 12
        parts.append(
            f'<line x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{line.colour}" stroke-width="2"{dash}/>'
        )
        parts.append(f'<text x="{x + 24}" y="{y}" fill="#222222">{line.name}</text>')
    return "".join([*parts, "</svg>"])


def _since(seconds: float, last: float) -> str:
    return f"{seconds:.0f} s" if last < 300 else f"{seconds / 60:.0f} min"
