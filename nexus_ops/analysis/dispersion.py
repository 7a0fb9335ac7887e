"""How clustered are errors? Measured on the stable colour alone, as the mean size of a cluster.

Errors often come many at once (a retry storm, a bad node). A test that takes each of them for a witness of its own then
rejects far too often. The measure: of the events of two neighbouring intervals, those of the second are a share r of
them, r its share of the requests. Independent events scatter around it with variance K·r·(1 − r); clusters of m scatter
m times as much. Neighbours are compared, not a mean over all, so that a slow drift of the error rate is no cluster.
It is done on single intervals and on blocks of twelve, because a storm may outlast an interval; the larger one counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

BLOCK = 12
"""Intervals in a block of the longer scale."""
MARGIN = 1.5
"""How much larger than measured a cluster is taken to be: few clusters are a rough measure of their size."""
NOISE = 1.5
"""Standard errors that are taken off a measured excess."""
ENOUGH = 10.0
"""Expected variance below which nothing is known of clusters (about twenty events)."""


class Scatter(NamedTuple):
    """Neighbour against neighbour, on one scale: sums so far, and the interval that waits for its neighbour."""

    seen: float = 0.0
    """Sum of squared deviations."""
    expected: float = 0.0
    """What independent events would have given."""
    pairs: int = 0
    events: float = 0.0
    requests: float = 0.0

    def excess(self) -> float:
        """Mean cluster size beyond one, without what is noise where events are independent."""
        if self.expected <= 0:
            return 0.0
        return max(0.0, self.seen / self.expected - 1.0 - NOISE * math.sqrt(3.0 / self.pairs))


class Dispersion(NamedTuple):
    """What is known of one metric's clusters in the stable colour of one component."""

    short: Scatter = Scatter()
    long: Scatter = Scatter()
    block_events: float = 0.0
    block_requests: float = 0.0
    block_intervals: int = 0

    def cluster_size(self) -> float | None:
        """How many events count as one witness (1 or more); None while too few events were seen to tell."""
        if self.short.expected < ENOUGH:
            return None
        return 1.0 + MARGIN * max(self.short.excess(), self.long.excess())


def compared(scatter: Scatter, events: float, requests: float) -> Scatter:
    """With one more interval, compared with the one before it."""
    both = scatter.events + events
    if both == 0 or scatter.requests == 0:
        return scatter._replace(events=events, requests=requests)
    share = requests / (scatter.requests + requests)
    return Scatter(
        scatter.seen + (events - share * both) ** 2,
        scatter.expected + both * share * (1.0 - share),
        scatter.pairs + 1,
        events,
        requests,
    )


def observed(known: Dispersion, events: float, requests: float) -> Dispersion:
    """With one more interval of the stable colour."""
    if requests <= 0:
        return known
    short = compared(known.short, events, requests)
    block_events, block_requests = known.block_events + events, known.block_requests + requests
    if known.block_intervals + 1 < BLOCK:
        return Dispersion(short, known.long, block_events, block_requests, known.block_intervals + 1)
    return Dispersion(short, compared(known.long, block_events, block_requests))
