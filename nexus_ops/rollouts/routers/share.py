"""Whether a share of requests is the one that was asked for: a sequential test on counts, and how it is shown. Pure.

Requests go to the candidate independently of each other, with some probability. That it is the one asked for is accepted
when its likelihood is `1/ALPHA` times that of half its odds, and that of twice its odds: a true share outside of these is
accepted with probability `ALPHA` at most, however often one looks (Wald 1945; Ville's inequality). What is outside is
found in the same way, and the test begins again. No request of the candidate among any number is no share but 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

ALPHA = 0.01
"""How often a share that is not the one asked for is accepted, at most, or the right one refused; per test."""
ODDS = 2.0
"""Half and twice the odds are told from what was asked for; 5 % is thus between 2.6 and 9.5 %."""
NEARLY = (0.01, 0.10)
"""Of the colour that was asked to have nothing: what may be counted of it (its requests from inside), and what not."""

Verdict = Literal["agrees", "differs", "open"]


class Counted(NamedTuple):
    """Requests of one stretch of time, and how many of them the candidate served."""

    candidate: float
    requests: float


_NOTHING = Counted(0, 0)


class Band(NamedTuple):
    """The share that is expected, and the shares that it is told from; no lower one for 0, no upper one for 100 %."""

    low: float | None
    expected: float
    high: float | None


def band(asked: int) -> Band:
    """What a weight (percent) is told from."""
    if asked <= 0:
        return Band(None, *NEARLY)
    if asked >= 100:
        return Band(1 - NEARLY[1], 1 - NEARLY[0], None)
    odds = asked / (100 - asked)
    return Band(_share(odds / ODDS), asked / 100, _share(odds * ODDS))


def _share(odds: float) -> float:
    return odds / (1 + odds)


@dataclass(frozen=True)
class Trial:
    """The test of one weight so far: its last verdict, on which counts, and the counts since then.

    A trial goes on after its verdict: a share that departs later is found by the next one.
    """

    asked: int
    verdict: Verdict = "open"
    judged: Counted = _NOTHING
    """What the verdict stands on."""
    running: Counted = _NOTHING
    """What has been counted since."""

    def __add__(self, more: Counted) -> Trial:
        now = Counted(self.running.candidate + more.candidate, self.running.requests + more.requests)
        verdict = _verdict(band(self.asked), now)
        if verdict == "open":
            return replace(self, running=now)
        return Trial(self.asked, verdict, now)

    @property
    def counted(self) -> Counted:
        """What is best known of the share: what the verdict stands on, or all there is."""
        return self.running if self.verdict == "open" else self.judged

    @property
    def share(self) -> float | None:
        """The measured share (percent); None when nothing was counted."""
        candidate, requests = self.counted
        return 100 * candidate / requests if requests else None

    def said(self) -> str:
        """What was seen, in words."""
        candidate, requests = self.counted
        if not requests:
            return "no request has been seen yet"
        seen = f"{100 * candidate / requests:.1f} % of {requests:.0f} requests were seen"
        return seen if self.verdict == "differs" else f"{seen}, too few to tell"


def trial(asked: int, counts: Iterable[Counted]) -> Trial:
    """The test over counts, oldest first."""
    found = Trial(asked)
    for counted in counts:
        found += counted
    return found


def requests_needed(asked: int) -> int:
    """About how many requests a verdict takes when the share is the one asked for (Wald's approximation)."""
    low, expected, high = band(asked)
    most = min(_divergence(expected, end) for end in (low, high) if end is not None)
    return math.ceil(math.log(1 / ALPHA) / most)


def _verdict(shares: Band, counted: Counted) -> Verdict:
    limit = math.log(1 / ALPHA)
    evidence = [_evidence(counted, shares.expected, end) for end in (shares.low, shares.high) if end is not None]
    if min(evidence) >= limit:
        return "agrees"
    return "differs" if min(evidence) <= -limit else "open"


def _evidence(counted: Counted, share: float, against: float) -> float:
    """Logarithm of the likelihood ratio of one share against another."""
    candidate, others = counted.candidate, counted.requests - counted.candidate
    return candidate * math.log(share / against) + others * math.log((1 - share) / (1 - against))


def _divergence(share: float, against: float) -> float:
    return share * math.log(share / against) + (1 - share) * math.log((1 - share) / (1 - against))
