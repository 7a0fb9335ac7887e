"""What others would have said of the same rollouts: a fixed threshold as in Argo Rollouts, Mann-Whitney as in Kayenta.

Both are models of the published defaults, not their programs: an Argo metric with `interval: 60s`, a `successCondition`
on the ratio of the last interval, and a failureLimit; a Kayenta judge (NetflixACAJudge) with its 98 % confidence
interval and tolerance 0.25, asked once a minute from the fifth minute on over all minutes so far.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

Z = 2.326  # one side of a 98 % interval


@dataclass
class FixedThreshold:
    """Fails when more than `failure_limit` intervals had a candidate ratio above `limit`. No traffic: not counted."""

    limit: float
    failure_limit: int
    failures: int = 0

    def minute(self, events: float, requests: float) -> bool:
        if requests and events / requests > self.limit:
            self.failures += 1
        return self.failures > self.failure_limit


@dataclass
class MannWhitney:
    """Fails when the candidate's ratio by minute is higher than the stable's."""

    candidate: list[float] = field(default_factory=list)
    stable: list[float] = field(default_factory=list)

    def minute(self, events_c: float, requests_c: float, events_s: float, requests_s: float) -> bool:
        if requests_c and requests_s:
            self.candidate.append(events_c / requests_c)
            self.stable.append(events_s / requests_s)
        if len(self.candidate) < 5:
            return False
        shift = statistics.median(self.candidate) - statistics.median(self.stable)
        moved = [value - 0.25 * abs(shift) for value in self.candidate]
        return rank_sum_z(moved, self.stable) > Z


def rank_sum_z(first: Sequence[float], second: Sequence[float]) -> float:
    """The normal score of Mann and Whitney's U, ties and continuity corrected; positive where `first` is larger."""
    n, m = len(first), len(second)
    joined = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    ranks, ties, at = 0.0, 0.0, 0
    while at < n + m:
        end = at
        while end < n + m and joined[end][0] == joined[at][0]:
            end += 1
        ranks += (at + end + 1) / 2 * sum(1 for place in range(at, end) if joined[place][1] == 0)
        ties += (end - at) ** 3 - (end - at)
        at = end
    spread = n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1)))
    if spread <= 0:
        return 0.0
    distance = ranks - n * (n + 1) / 2 - n * m / 2
    return (distance - math.copysign(0.5, distance)) / math.sqrt(spread)
