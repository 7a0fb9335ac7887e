"""The users' own requests: how many each colour's edge component served since a weight was set, by Prometheus.

Raw counters, subtracted pod by pod: a sum over pods would hide the restart of one. The pods are scraped one after the other,
so what came in a burst is counted for one pod in this scrape interval and for another in the next. Stretches of time are
therefore compared whose ends are alike, or quiet beside what lies between them. The interval in which the weight was set is
left out: part of it was served under the weight before. So is all that was before each pod that is there now had been
scraped: new pods are found some seconds late, and a share in which some could not be counted is none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from nexus_ops.errors import OperationError
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.monitor import query
from nexus_ops.rollouts.routers.share import Counted
from nexus_ops.topology import Colour

LONGEST = 300
"""How far is looked back (seconds), however long ago the weight was set."""
BEFORE = 120
"""What else is asked for (seconds): the last scrapes before it."""
SILENT = 3.0
"""Scrape intervals after which a pod's last value says nothing about now."""
STEADY = 1.5
"""Requests of two scrape intervals differ by this factor at most, and by chance, where traffic is the same."""
QUIET = 0.25
"""The share of a stretch's requests that may be at one of its ends."""
Samples = Sequence[tuple[float, float]]
"""Times (seconds since 1970) and values of one counter, oldest first."""


def counted_since(context: RolloutContext, candidate: Colour, since: datetime) -> list[Counted]:
    """The users' requests by scrape interval, oldest first; an `OperationError` when Prometheus cannot be asked."""
    begins = max(since, context.clock() - timedelta(seconds=LONGEST))
    back = math.ceil((context.clock() - begins).total_seconds()) + BEFORE
    component = context.topology.edge_component.name
    answer = query(context, f'http_requests_total{{job="nexus-agents",component="{component}"}}[{back}s]')
    try:
        return intervals(answer, candidate, begins.timestamp())
    except (KeyError, ValueError, TypeError) as error:
        raise OperationError(f"Prometheus' counts cannot be read: {error!r}.", target=context.cluster.name) from None


def intervals(matrix: Sequence[Mapping[str, Any]], candidate: Colour, since: float) -> list[Counted]:
    """What was added in stretches of time that began after `since`, from raw samples of counters. Pure."""
    series = [
        (one["metric"]["colour"] == candidate, [(float(at), float(value)) for at, value in one["values"]])
        for one in matrix
    ]
    gaps = [later[0] - earlier[0] for _, samples in series for earlier, later in pairwise(samples)]
    if not gaps:
        return []
    gap = statistics.median(gaps)
    newest = max(samples[-1][0] for _, samples in series if samples)
    there = [(own, samples[0][0]) for own, samples in series if samples and newest - samples[-1][0] <= SILENT * gap]
    if not any(own for own, _ in there):
        return []
    known = max(first for _, first in there)
    counts: list[Counted] = []
    for begins, ends in pairwise(_grid(since, gap, newest)):
        if begins < known:
            continue
        added = [(own, _added(samples, begins, ends, gap)) for own, samples in series]
        counts.append(Counted(sum(more for own, more in added if own), sum(more for _, more in added)))
    return list(_stretches(counts))


def _stretches(counts: Sequence[Counted]) -> Iterator[Counted]:
    """Intervals put together until what is scraped late at their ends does not matter; the first one is what came before."""
    begun, own, total = 0, 0.0, 0.0
    for last in range(1, len(counts)):
        own, total = own + counts[last].candidate, total + counts[last].requests
        before, after = counts[begun].requests, counts[last].requests
        if _same(before, after) or max(before, after) <= QUIET * total:
            if total:
                yield Counted(own, total)
            begun, own, total = last, 0.0, 0.0


def _same(one: float, other: float) -> bool:
    low, high = sorted((one, other))
    return high <= STEADY * low + 2 * math.sqrt(low)


def _grid(begins: float, step: float, until: float) -> Iterator[float]:
    number = 0
    while begins + number * step <= until:
        yield begins + number * step
        number += 1


def _added(samples: Samples, begins: float, ends: float, gap: float) -> float:
    """What a counter grew by. One that fell was set to zero in between; one that was not there, or is not now, is left out."""
    before, after = _at(samples, begins, gap), _at(samples, ends, gap)
    if before is None or after is None:
        return 0.0
    return after - before if after >= before else after


def _at(samples: Samples, time: float, gap: float) -> float | None:
    """The counter as it was last scraped at a time; None when that is too long ago."""
    last = next(((at, value) for at, value in reversed(samples) if at <= time), None)
    return last[1] if last and time - last[0] <= SILENT * gap else None
