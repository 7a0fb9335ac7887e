"""Pictures of stored evidence: evidence over time, both colours' rates with bands, the share of the traffic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_ops.analysis.counters import Last, differences
from nexus_ops.analysis.judge import Plan
from nexus_ops.analysis.metrics import Guardrail
from nexus_ops.analysis.replay import curve, read, rejudge
from nexus_ops.analysis.samples import Sample
from nexus_ops.charts import Line, Point, chart, plain

WINDOW = 60.0
"""Seconds over which a rate is taken."""
STABLE, CANDIDATE, PLAIN, LIMIT = "#3563c9", "#c9632a", "#444444", "#b3261e"


def pictures(document: Mapping[str, Any]) -> dict[str, str]:
    """The pictures of one evidence, by title."""
    plan, samples = read(document)
    if not samples:
        return {}
    began = samples[0].time
    component = _busiest(plan, samples)
    found = {
        **_broken_limits(plan, samples, began, rejudge(document).broken),
        "Evidence that the candidate is worse": _evidence(document, began, 1.0 / plan.alpha),
        **{
            f"{metric.name} of {component}": _rates(plan, samples, metric.name, component, began)
            for metric in plan.rules.counted()
            if metric.criticality == "critical"
        },
        "The candidate's share of the requests of the last minute": _shares(plan, samples, component, began),
    }
    return {title: chart for title, chart in found.items() if chart}


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


def _broken_limits(
    plan: Plan, samples: Sequence[Sample], began: float, broken: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """The guardrails by which the verdict came about, each with its limit, by title."""
    found: dict[str, str] = {}
    for metric in plan.rules.metrics.values():
        if not isinstance(metric, Guardrail):
            continue
        series: dict[tuple[str, str], list[Point]] = {}
        for sample in samples:
            answer = sample.answers.get(metric.name)
            for level in answer.levels if answer else ():
                series.setdefault((level.component, level.colour), []).append((sample.time - began, level.value))
        limit = metric.above if metric.above is not None else metric.below or 0.0
        for (component, colour), points in series.items():
            whose = f" of {component}" if component else ""
            if colour not in ("", plan.candidate) or (metric.name, component) not in broken:
                continue
            lines = [Line(metric.name, CANDIDATE, points)]
            if colour:
                lines = [Line(f"candidate ({colour})", CANDIDATE, points)]
                if stable := series.get((component, plan.stable)):
                    lines.insert(0, Line(f"stable ({plan.stable})", STABLE, stable))
            lines.append(
                Line(f"limit {plain(limit)}", LIMIT, [(0.0, limit), (samples[-1].time - began, limit)], dashed=True)
            )
            found[f"{metric.name}{whose}, and its limit"] = chart(lines, plain)
    return found


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
