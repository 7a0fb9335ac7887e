"""Pictures of stored evidence, as SVG: evidence over time, both colours' rates with bands, the share of the traffic.

Drawn by hand: three line charts need no library, and the pictures have to be small (they lie in an event log).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_ops.analysis.counters import Last, differences
from nexus_ops.analysis.judge import Plan
from nexus_ops.analysis.replay import curve, read
from nexus_ops.analysis.samples import Sample

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 26, 28
MOST_POINTS = 120
"""Points of a line; more cannot be told apart."""
WINDOW = 60.0
"""Seconds over which a rate is taken."""
STABLE, CANDIDATE, PLAIN, LIMIT = "#3563c9", "#c9632a", "#444444", "#b3261e"
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """One line: its name in the legend, its points (seconds, value), and the band around it (low, high)."""

    name: str
    colour: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    dashed: bool = False
    steps: bool = False


def pictures(document: Mapping[str, Any]) -> dict[str, str]:
    """The pictures of one evidence, by title."""
    plan, samples = read(document)
    if not samples:
        return {}
    began = samples[0].time
    component = _busiest(plan, samples)
    found = {
        "Evidence that the candidate is worse": _evidence(document, began, 1.0 / plan.alpha),
        **{
            f"{metric.name} of {component}": _rates(plan, samples, metric.name, component, began)
            for metric in plan.rules.counted()
            if metric.criticality == "critical"
        },
        "The candidate's share of the requests": _shares(plan, samples, component, began),
    }
    return {title: chart for title, chart in found.items() if chart}


def markdown(charts: Mapping[str, str]) -> str:
    """The pictures within a page of Markdown."""
    return "\n\n".join(
        f"**{title}**\n\n![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
        for title, svg in charts.items()
    )


def _evidence(document: Mapping[str, Any], began: float, threshold: float) -> str:
    """By the logarithm, for evidence multiplies."""
    points = [(time - began, math.log10(max(value, 1e-3))) for time, value, _ in curve(document)]
    limit = math.log10(threshold)
    lines = [Line("evidence", PLAIN, points), Line(f"1/α = {threshold:g}", LIMIT, [(points[0][0], limit), (points[-1][0], limit)], dashed=True)]  # fmt: skip
    return chart(lines, lambda value: f"{10**value:.3g}")


def _rates(plan: Plan, samples: Sequence[Sample], metric: str, component: str, began: float) -> str:
    """Share of requests that are events, by colour, with 95 % bands (Wilson)."""
    lines: list[Line] = []
    for name, label, colour in ((plan.stable, "stable", STABLE), (plan.candidate, "candidate", CANDIDATE)):
        counted = [(t, e, n) for t, e, n in served(samples, metric, component, name) if n > 0]
        if counted:
            points = [(t - began, e / n) for t, e, n in counted]
            lines.append(Line(f"{label} ({name})", colour, points, [wilson(e, n) for _, e, n in counted]))
    return chart(lines, lambda value: f"{value:.2%}") if lines else ""


def _shares(plan: Plan, samples: Sequence[Sample], component: str, began: float) -> str:
    metric = next(m.name for m in plan.rules.counted())
    mine = {t: n for t, _, n in served(samples, metric, component, plan.candidate)}
    theirs = {t: n for t, _, n in served(samples, metric, component, plan.stable)}
    observed = [(t - began, n / (n + theirs[t])) for t, n in mine.items() if n + theirs.get(t, 0.0) > 0 and t in theirs]
    requested = [(s.time - began, s.requested_weight / 100) for s in samples if s.requested_weight is not None]
    lines = [Line("requested", PLAIN, requested, dashed=True, steps=True)] if requested else []
    lines += [Line("observed", CANDIDATE, observed)] if observed else []
    return chart(lines, lambda value: f"{value:.0%}") if lines else ""


def served(samples: Sequence[Sample], metric: str, component: str, colour: str) -> list[tuple[float, float, float]]:
    """By look: its time, events and requests of a colour in the last minute (or as long as there are looks)."""
    pods: dict[str, Last] = {}
    sums: list[tuple[float, float, float]] = []
    found: list[tuple[float, float, float]] = []
    events, requests = 0.0, 0.0
    for sample in samples:
        answer = sample.answers.get(metric)
        readings = [
            (c.pod, Last(sample.time, c.events, c.total))
            for c in (answer.counts if answer else ())
            if (c.component, c.colour) == (component, colour)
        ]
        pods = dict(pods)
        pods, more_events, more_requests = differences(pods, readings)
        events, requests = events + more_events, requests + more_requests
        sums.append((sample.time, events, requests))
        while len(sums) > 1 and sums[0][0] < sample.time - WINDOW:
            sums.pop(0)
        found.append((sample.time, events - sums[0][1], requests - sums[0][2]))
    return found


def wilson(events: float, requests: float) -> tuple[float, float]:
    """The 95 % interval of a ratio (Wilson 1927)."""
    z = 1.96
    share, weight = events / requests, 1 + z * z / requests
    middle = (share + z * z / (2 * requests)) / weight
    half = z / weight * math.sqrt(max(0.0, share * (1 - share) / requests + z * z / (4 * requests * requests)))
    return max(0.0, middle - half), min(1.0, middle + half)


def _busiest(plan: Plan, samples: Sequence[Sample]) -> str:
    """The component that is drawn: the one that served most."""
    metric = next(m.name for m in plan.rules.counted())
    served_by: dict[str, float] = {}
    for answer in filter(None, (samples[-1].answers.get(metric),)):
        for count in answer.counts:
            served_by[count.component] = served_by.get(count.component, 0.0) + count.total
    return max(served_by, key=lambda name: served_by[name], default=plan.components[0] if plan.components else "")


# ---------------------------------------------------------------------- drawing


def chart(lines: Sequence[Line], label: Any) -> str:
    """A line chart; `label` writes a value of the upright axis."""
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
        time = f"{last * step / 4 / 60:.1f} min"
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
        y = TOP + 14 + 18 * number
        x = LEFT + wide + 12
        parts.append(
            f'<line x1="{x}" x2="{x + 18}" y1="{y - 4}" y2="{y - 4}" stroke="{line.colour}" stroke-width="2"{dash}/>'
        )
        parts.append(f'<text x="{x + 24}" y="{y}" fill="#222222">{line.name}</text>')
    return "".join([*parts, "</svg>"])
