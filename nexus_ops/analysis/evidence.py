"""The sequential test: how strongly do the counts speak for 'the candidate is worse'?

Per interval the colours serve n_c and n_s requests, of which k_c and k_s are events (errors, or too slow). If the
candidate's rate is θ times the stable's, each event is the candidate's with probability θρ / (1 − ρ + θρ), where
ρ = n_c / (n_c + n_s) was observed. The likelihood ratio of θ > 1 against 'no worse' is then a bet that nobody can win in
the long run while the candidate is no worse. Evidence is the mean of such bets over several θ and over the intervals
at which a fault may begin. It reaches 1/α with probability α at most, whenever and however often it is looked at
(Ville's inequality). Shared ups and downs of the error rate cancel within each interval, and a moving share is no
evidence. Lindon & Malek, NeurIPS 2022; for the bounded bets Waudby-Smith & Ramdas, JRSS B 2024.

Clustered events: with clusters of at most φ events the ratio to the power 1/φ is such a bet too (Jensen). While φ is
not known, an interval is one witness however many events it has: the bet is on the candidate's share of them, which
is valid for every kind of cluster within the interval.
"""

from __future__ import annotations

import math
from math import exp, log
from typing import NamedTuple

from nexus_ops.analysis.dispersion import Dispersion, observed

THETAS = (1.5, 2.3, 4.2, 11.0)
"""The alternatives: how many times the stable's rate. Four lie close enough; a fifth costs more than it finds."""
SHARES = (0.23, 0.24, 0.28, 0.25)
"""The weight of each alternative; one in all."""
EARLY = 0.34
"""The weight of 'it was bad from the beginning' in a rollout: large enough for that, and no late fault waits long."""
EARLY_IN_WATCH = 0.15
"""The same in the watch: what was bad from the beginning was looked for in all stages before it."""

_TERMS = tuple((theta, math.log(theta), share) for theta, share in zip(THETAS, SHARES, strict=True))
_SETTLED = 1e100
"""Wealth beyond which nothing more needs to be known; it is kept as it is, so that numbers stay finite."""
_MANY = 100.0
"""Witnesses of one interval that count at most; more than that settle it anyway."""


class Interval(NamedTuple):
    """What both colours served in the same stretch of time."""

    candidate_events: float
    candidate_requests: float
    stable_events: float
    stable_requests: float


class Prior(NamedTuple):
    """When a fault may begin: with the weight `early` at the first interval, else at any of `horizon`, evenly."""

    horizon: int
    early: float = EARLY

    @property
    def later(self) -> float:
        """The weight of each interval."""
        return (1.0 - self.early) / self.horizon


class Evidence(NamedTuple):
    """The bets of one component's metric, and what is known of its clusters."""

    bets: tuple[float, ...]
    """By alternative: the wealth of the bets that have begun."""
    intervals: int
    dispersion: Dispersion


def no_evidence(prior: Prior, dispersion: Dispersion | None = None) -> Evidence:
    """Before the first interval; `dispersion` is what the stable colour's past says."""
    return Evidence(tuple(prior.early * share for share in SHARES), 0, dispersion or Dispersion())


def with_interval(evidence: Evidence, interval: Interval, prior: Prior) -> Evidence:
    """With one more interval."""
    bets, intervals, dispersion = evidence
    events_c, requests_c, events_s, requests_s = interval
    fresh = prior.later if intervals < prior.horizon else 0.0
    events = events_c + events_s
    if max(bets) > _SETTLED:
        pass
    elif events <= 0 or requests_c <= 0 or requests_s <= 0:
        bets = tuple([bet + fresh * share for bet, (_, _, share) in zip(bets, _TERMS)])  # noqa: B905
    else:
        rho = requests_c / (requests_c + requests_s)
        rest = 1.0 - rho
        size = dispersion.cluster_size()
        if size is None:
            part = events_c / events
            bets = tuple(
                [
                    (bet + fresh * share) * (1.0 - part + theta * part) / (rest + theta * rho)
                    for bet, (theta, _, share) in zip(bets, _TERMS)  # noqa: B905
                ]
            )
        else:
            size = max(size, events / _MANY)
            first, both = events_c / size, events / size
            bets = tuple(
                [
                    (bet + fresh * share) * exp(first * logarithm - both * log(rest + theta * rho))
                    for bet, (theta, logarithm, share) in zip(bets, _TERMS)  # noqa: B905
                ]
            )
    return Evidence(bets, intervals + 1, observed(dispersion, events_s, requests_s))


def e_value(evidence: Evidence, prior: Prior) -> float:
    """Evidence that the candidate is worse (1: none; 1/α: enough)."""
    return sum(evidence.bets) + prior.later * max(0, prior.horizon - evidence.intervals)
