"""What a pass needs: that a material regression would have been seen by now.

Not having failed is no pass. Evidence runs the other way too: against 'the candidate's rate is `ratio` times the
stable's or more', and against 'it is at least `floor`'. One of the two must reach 1/β, with what was observed in the
present stage alone: an earlier, smaller stage says nothing about this one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from nexus_ops.analysis.evidence import Interval
from nexus_ops.analysis.metrics import Material

BETA = 0.1
"""How often a pass may be given though the metric is materially worse, per metric and stage."""
_HEALTHY = 0.25
"""The alternative to 'at least the floor': this share of it."""


class Assurance(NamedTuple):
    """Logarithms of the evidence that a material regression is absent."""

    ratio: float = 0.0
    floor: float = 0.0
    requests: float = 0.0
    """Of the candidate, in this stage."""

    @property
    def enough(self) -> bool:
        return max(self.ratio, self.floor) >= math.log(1.0 / BETA)


def requests_to_pass(material: Material) -> float:
    """So many requests of the candidate, none of them an event, exclude the floor."""
    return math.log(1.0 / BETA) / (material.floor * (1.0 - _HEALTHY))


def with_interval(known: Assurance, interval: Interval, material: Material, cluster_size: float | None) -> Assurance:
    """With one more interval. An unknown cluster size counts as one: a pass is no claim at level α."""
    size = cluster_size or 1.0
    events_c, requests_c, events_s, requests_s = interval
    ratio = known.ratio
    if requests_c > 0 and requests_s > 0:
        rho = requests_c / (requests_c + requests_s)
        weighed = math.log(1.0 - rho + material.ratio * rho)
        ratio += ((events_c + events_s) * weighed - events_c * math.log(material.ratio)) / size
    gain = requests_c * material.floor * (1.0 - _HEALTHY) + events_c * math.log(_HEALTHY)
    return Assurance(ratio, known.floor + gain / size, known.requests + requests_c)
