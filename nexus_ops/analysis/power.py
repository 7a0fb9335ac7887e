"""What can be seen in time: Wald's limit, and a forecast for each stage before a rollout starts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

REGRESSIONS = (2.0, 5.0)
OVERHEAD = 2.5
"""What the judge pays beyond Wald's limit for not knowing θ and when the fault begins (nats, measured)."""


def information(theta: float, share: float) -> float:
    """Nats that one event gives against 'no worse' when the candidate's rate is θ times the stable's."""
    q = theta * share / (1.0 - share + theta * share)
    return q * math.log(q / share) + (1.0 - q) * math.log((1.0 - q) / (1.0 - share))


def nats_per_second(theta: float, share: float, events_per_second: float) -> float:
    """The same by time. `events_per_second`: both colours together while nothing is wrong."""
    return information(theta, share) * events_per_second * (1.0 - share + theta * share)


def wald_seconds(alpha: float, theta: float, share: float, events_per_second: float) -> float:
    """No test at level α that always ends finds it faster on average."""
    return math.log(1.0 / alpha) / nats_per_second(theta, share, events_per_second)


@dataclass(frozen=True)
class Forecast:
    """What one stage can see of one component's metric, at present traffic."""

    metric: str
    component: str
    share: float
    """The candidate's share of requests in the stage (0 to 1)."""
    stage_seconds: float
    needed: dict[float, float]
    """By regression (times the stable's rate): seconds until it is expected to be found; infinite without events."""

    @property
    def blind(self) -> bool:
        """Too short to see even the largest regression."""
        return min(self.needed.values()) > self.stage_seconds

    def __str__(self) -> str:
        def text(seconds: float) -> str:
            return "never" if math.isinf(seconds) else f"{seconds:.0f} s"

        times = ", ".join(f"{theta:g}x in {text(seconds)}" for theta, seconds in self.needed.items())
        end = f"; the stage ends after {self.stage_seconds:.0f} s, too early" if self.blind else ""
        return f"{self.metric} of {self.component} at {self.share:.0%}: {times}{end}"


def forecast(
    *,
    metric: str,
    component: str,
    weight: float,
    alpha: float,
    events_per_second: float,
    cluster_size: float | None,
    stages: Iterable[tuple[float, float]],
) -> list[Forecast]:
    """By stage (candidate's share, seconds), from the stable colour's present rate of events.

    `weight` is the metric's share of the rollout's evidence; `cluster_size` None: unknown, taken as 1.
    """
    needed = math.log(1.0 / alpha) + math.log(1.0 / weight) + OVERHEAD
    found: list[Forecast] = []
    for share, seconds in stages:
        rates = {
            theta: nats_per_second(theta, share, events_per_second) / (cluster_size or 1.0) if 0 < share < 1 else 0.0
            for theta in REGRESSIONS
        }
        times = {theta: needed / rate if rate > 0 else math.inf for theta, rate in rates.items()}
        found.append(Forecast(metric, component, share, seconds, times))
    return found
