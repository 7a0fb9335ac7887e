"""From Prometheus' range answers to looks. Pure: whoever asks hands over the `result` lists of range queries.

Looks stand on a grid of aligned times, and what Prometheus answers for such a time does not depend on who asks, nor on
when. So the looks of a rollout are the same for every process that watches it, and lost ones are fetched again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nexus_ops.analysis.answers import read
from nexus_ops.analysis.metrics import Declared, Rules
from nexus_ops.analysis.samples import Sample

Matrix = Sequence[Mapping[str, Any]]
"""The `result` of a range query: series with `values`, pairs of a time and a value."""
Describe = Callable[[float], tuple[str, int | None]]
"""Of a time: the stage that ran, and the weight that was requested."""


def grid(after: float, until: float, step: float) -> list[float]:
    """The aligned times in (after, until]."""
    first, last = math.floor(after / step) + 1, math.floor(until / step)
    return [number * step for number in range(first, last + 1)]


def queries(metrics: Iterable[Declared]) -> list[str]:
    """What is to be asked for these metrics, each query once."""
    return list(dict.fromkeys(query for metric in metrics for query in metric.queries().values()))


def looks(
    rules: Rules, answers: Mapping[str, Matrix | str], times: Sequence[float], describe: Describe
) -> list[Sample]:
    """The looks at some aligned times; `answers` by query: its result, or why it was refused."""
    vectors = {query: found if isinstance(found, str) else _by_time(found) for query, found in answers.items()}
    samples: list[Sample] = []
    for time in times:
        stage, weight = describe(time)
        key = _milliseconds(time)
        at = {query: found if isinstance(found, str) else found.get(key, []) for query, found in vectors.items()}
        given = {
            name: read(metric, {part: at[query] for part, query in metric.queries().items() if query in at})
            for name, metric in rules.metrics.items()
            if any(query in at for query in metric.queries().values())
        }
        samples.append(Sample(time, stage, given, requested_weight=weight))
    return samples


def _by_time(matrix: Matrix) -> dict[int, list[dict[str, Any]]]:
    """By time, the vector that an instant query would have given."""
    found: dict[int, list[dict[str, Any]]] = {}
    for series in matrix:
        for time, value in series["values"]:
            found.setdefault(_milliseconds(time), []).append({"metric": series["metric"], "value": (time, value)})
    return found


def _milliseconds(time: float) -> int:
    return round(float(time) * 1000)
