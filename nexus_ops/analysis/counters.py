"""From cumulative readings to intervals in which both colours can be compared.

Differences of raw counters, pod by pod: Prometheus' own `increase` extrapolates, and a sum over pods hides the restart
of one of them. A pod seen for the first time, or after a long silence, only gives its starting point. A value below the
last one is a restart: the pod counted from zero, so what it shows is what was added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nexus_ops.analysis.dispersion import ENOUGH, Dispersion
from nexus_ops.analysis.evidence import Interval

MOST_SILENCE = 300.0
"""Seconds after which a last reading is too old to be subtracted, or one colour's counts to be compared with the other's."""

WITNESS = 10.0
"""Seconds that one interval lasts at least while nothing is known of clusters: a burst is to fall into one interval."""


class Last(NamedTuple):
    """The last reading of one pod."""

    time: float
    events: float
    total: float


class Gathered(NamedTuple):
    """Counts that wait until both colours have served something."""

    candidate_events: float = 0.0
    candidate_requests: float = 0.0
    stable_events: float = 0.0
    stable_requests: float = 0.0
    since: float | None = None


_NOTHING = Gathered()


def added(last: Last | None, now: Last) -> tuple[float, float]:
    """Events and requests since the last reading of a pod."""
    if last is None or now.time - last.time > MOST_SILENCE:
        return 0.0, 0.0
    if now.total < last.total or now.events < last.events:
        return now.events, now.total
    return now.events - last.events, now.total - last.total


def differences(last: Mapping[str, Last], readings: Iterable[tuple[str, Last]]) -> tuple[dict[str, Last], float, float]:
    """The pods' new readings, and the events and requests that they add. Pods long gone are forgotten."""
    known, events, requests = dict(last), 0.0, 0.0
    newest = 0.0
    for pod, now in readings:
        more_events, more_requests = added(last.get(pod), now)
        events, requests, newest = events + more_events, requests + more_requests, max(newest, now.time)
        known[pod] = now
    kept = {pod: reading for pod, reading in known.items() if newest - reading.time <= MOST_SILENCE}
    return kept, events, requests


def least_seconds(known: Dispersion) -> float:
    """How long an interval is to last at least, by what is known of the stable colour's clusters."""
    return WITNESS if known.short.expected < ENOUGH else 0.0


def gathered(before: Gathered, more: Interval, time: float, least: float) -> tuple[Gathered, Interval | None]:
    """One look's counts added to those that wait; the interval they make when both colours have served.

    `least`: seconds between its first and its last look.
    A quiet colour makes the interval longer, never one-sided. When it stays silent for too long, what waits is dropped:
    rates of different times must not be compared. Neither choice looks at the events, so neither can be evidence.
    """
    since = time if before.since is None else before.since
    if time - since > MOST_SILENCE:
        before, since = _NOTHING, time
    sums = Interval(
        before.candidate_events + more.candidate_events,
        before.candidate_requests + more.candidate_requests,
        before.stable_events + more.stable_events,
        before.stable_requests + more.stable_requests,
    )
    if sums.candidate_requests > 0 and sums.stable_requests > 0 and time - since >= least:
        return _NOTHING, sums
    return Gathered(*sums, since), None
