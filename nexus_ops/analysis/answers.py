"""From Prometheus' answers to readings. Pure: whoever asks hands over the `result` lists of instant queries.

A failed query is handed over as its message, an empty vector stays empty, NaN is no value. An answer that cannot be
meant (no label `colour`, two series for the same pod, an objective that is no bucket's bound) is a problem of the
metric: said before a rollout starts, and 'could not measure' while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_ops.analysis.metrics import Alert, Declared, Guardrail, Latency, Ratio, Rules
from nexus_ops.analysis.samples import Answer, Count, Level

Vector = Sequence[Mapping[str, Any]]
Pod = tuple[str, str, str]
"""Component, colour and pod."""


class _Unusable(Exception):
    """Why an answer cannot be used."""


def read(metric: Declared, vectors: Mapping[str, Vector | str]) -> Answer:
    """A metric's readings. `vectors` has one entry per query of the metric: its result, or what went wrong."""
    try:
        for query in metric.queries():
            found = vectors.get(query, "was not asked")
            if isinstance(found, str):
                raise _Unusable(f"its query '{query}' failed: {found}")
        usable = {name: found for name, found in vectors.items() if not isinstance(found, str)}
        match metric:
            case Ratio():
                return Answer(counts=_ratio(usable["events"], usable["total"]))
            case Latency():
                return Answer(counts=_latency(metric, usable["buckets"]))
            case Guardrail():
                return Answer(levels=_levels(metric, usable["query"]))
            case Alert():
                return Answer(levels=_alerts(metric, usable["query"]))
    except _Unusable as problem:
        return Answer(problem=f"{problem} [{'; '.join(metric.queries().values())}]")


def refusals(rules: Rules, answers: Mapping[str, Answer]) -> list[str]:
    """Why a rollout must not start: metrics whose queries cannot be used, and critical ones that return nothing.

    An alert that does not fire returns nothing either; what is not critical may be missing where its exporter is.
    """
    found: list[str] = []
    for name, metric in rules.metrics.items():
        answer = answers.get(name, Answer(problem="it was not asked"))
        if answer.problem is not None:
            found.append(f"{name}: {answer.problem}")
        elif metric.criticality == "critical" and metric.kind != "alert" and not (answer.counts or answer.levels):
            found.append(f"{name}: nothing was returned [{'; '.join(metric.queries().values())}]")
    return found


def _value(series: Mapping[str, Any]) -> float:
    try:
        return float(series["value"][1])
    except (KeyError, IndexError, TypeError, ValueError):
        raise _Unusable(f"a series without a value: {series!r}") from None


def _labels(series: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    labels = series.get("metric", {})
    missing = [name for name in names if not labels.get(name)]
    if missing:
        raise _Unusable(f"a series without the label {', '.join(missing)}: {labels}")
    return tuple(str(labels[name]) for name in names)


def _pod(series: Mapping[str, Any]) -> Pod:
    component, colour, pod = _labels(series, "component", "colour", "pod")
    return component, colour, pod


def _by_pod(vector: Vector) -> dict[Pod, float]:
    found: dict[Pod, float] = {}
    for series in vector:
        key = _pod(series)
        if key in found:
            raise _Unusable(f"several series for component {key[0]}, colour {key[1]}, pod {key[2]}")
        value = _value(series)
        if not math.isnan(value):
            found[key] = value
    return found


def _ratio(events: Vector, total: Vector) -> tuple[Count, ...]:
    """A pod without a series of events has had none: a counter with labels appears with its first event."""
    bad, every = _by_pod(events), _by_pod(total)
    return tuple(Count(*key, bad.get(key, 0.0), value) for key, value in sorted(every.items()))


def _latency(metric: Latency, buckets: Vector) -> tuple[Count, ...]:
    pods: dict[Pod, dict[float, float]] = {}
    for series in buckets:
        key, (bound,) = _pod(series), _labels(series, "le")
        bounds = pods.setdefault(key, {})
        if float(bound) in bounds:
            raise _Unusable(f"several series for component {key[0]}, colour {key[1]}, pod {key[2]}, le {bound}")
        value = _value(series)
        if not math.isnan(value):
            bounds[float(bound)] = value
    counts: list[Count] = []
    for key, bounds in sorted(pods.items()):
        objective = metric.objective(key[0])
        if objective not in bounds or math.inf not in bounds:
            known = ", ".join(f"{bound:g}" for bound in sorted(bounds))
            raise _Unusable(f"the objective {objective:g} s is no bucket of {key[0]}; its bounds are {known}")
        counts.append(Count(*key, bounds[math.inf] - bounds[objective], bounds[math.inf]))
    return tuple(counts)


def _levels(metric: Guardrail, vector: Vector) -> tuple[Level, ...]:
    if metric.scope == "platform" and len(vector) > 1:
        raise _Unusable(f"{len(vector)} series for what belongs to the platform; one was expected")
    found: dict[tuple[str, str], float] = {}
    for series in vector:
        component, colour = ("", "") if metric.scope == "platform" else _labels(series, "component", "colour")
        if (component, colour) in found:
            raise _Unusable(f"several series for component {component}, colour {colour}")
        found[component, colour] = _value(series)
    return tuple(Level(*key, "", value) for key, value in sorted(found.items()) if not math.isnan(value))


def _alerts(metric: Alert, vector: Vector) -> tuple[Level, ...]:
    found: list[Level] = []
    for series in vector:
        labels = series.get("metric", {})
        (name,) = _labels(series, "alertname")
        if name not in metric.ignore and _value(series) > 0:
            found.append(Level(labels.get("component", ""), labels.get("colour", ""), name, 1.0))
    return tuple(sorted(found))
