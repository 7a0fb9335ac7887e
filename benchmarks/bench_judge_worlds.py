"""Simulated rollouts for the judge's benchmark: what services would count. Knows nothing of the judge.

A world is a list of streams (one metric of one component each), looked at every 5 seconds. All randomness comes from
one seeded generator, so that a cell of the table is repeated by its seed.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate

LOOK = 5.0
"""Seconds between two looks."""
Counts = tuple[int, int, int, int]
"""Candidate's events and requests, stable's events and requests, of one look."""


@lru_cache(maxsize=50_000)
def _poisson_table(key: int) -> list[float]:
    """Cumulative probabilities of a Poisson variable with mean exp(key / 200), within 0.25 % of what was asked."""
    mean = math.exp(key / 200)
    last = int(mean + 9 * math.sqrt(mean) + 12)
    return list(accumulate(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(last)))


def poisson(rng: random.Random, mean: float) -> int:
    """A Poisson draw; above 1,000 a rounded normal one."""
    if mean <= 1e-9:
        return 0
    if mean > 1000:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    return bisect_left(_poisson_table(round(math.log(mean) * 200)), rng.random())


def staged(*steps: tuple[float, float]) -> Callable[[float], float]:
    """The candidate's share over time: (share, seconds), one after the other; the last one stays."""

    def share(time: float) -> float:
        for weight, seconds in steps:
            if time < seconds:
                return weight
            time -= seconds
        return steps[-1][0]

    return share


def ramp(first: float, last: float, seconds: float) -> Callable[[float], float]:
    """From one value to another, evenly."""
    return lambda time: first + (last - first) * min(1.0, time / seconds)


def constant(value: float) -> Callable[[float], float]:
    return lambda time: value


@dataclass(frozen=True)
class Stream:
    """One metric of one component: its service's requests a second, and the share of them that are events."""

    component: int
    rate: float
    ratio: float


@dataclass(frozen=True)
class World:
    """What happens in one rollout, by chance. `worse(stream, time, minute_is_bad)` multiplies the candidate's ratio."""

    streams: tuple[Stream, ...]
    seconds: float = 3600.0
    share: Callable[[float], float] = field(default=constant(0.05))
    drift: Callable[[float], float] = field(default=constant(1.0))
    """Multiplies all ratios in both colours."""
    worse: Callable[[int, float, bool], float] = field(default=lambda stream, time, bad: 1.0)
    absolute: Callable[[int, float], float] | None = None
    """The candidate's own ratio where the stable's is zero."""
    cluster: int = 1
    """Events come so many at a time, all in one colour."""
    cluster_seconds: float = 0.0
    """Over which the events of a cluster are spread."""
    wobble: float = 0.0
    """Standard deviation of the logarithm of the load, AR(1) with 0.6 per look; the ratio follows with half of it."""
    bad_minutes: float = 0.0
    """Share of minutes in which `worse` is told that the minute is bad."""
    history_seconds: float = 1800.0


class _Arm:
    """One colour of one stream: independent or clustered events."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self.waiting = [0] * (1 + int(world.cluster_seconds / LOOK))

    def events(self, requests: int, ratio: float) -> int:
        world, rng = self.world, self.rng
        if world.cluster == 1:
            return min(requests, poisson(rng, requests * ratio))
        if len(self.waiting) == 1:
            return world.cluster * poisson(rng, requests * ratio / world.cluster)
        for _ in range(poisson(rng, requests * ratio / world.cluster)):
            for _ in range(world.cluster):
                self.waiting[int(rng.random() * len(self.waiting))] += 1
        now = self.waiting.pop(0)
        self.waiting.append(0)
        return now


def history(world: World, rng: random.Random) -> Iterator[list[tuple[int, int]]]:
    """By look, by stream: the stable colour's events and requests before the rollout."""
    arms = [_Arm(world, rng) for _ in world.streams]
    load = 0.0
    for _ in range(int(world.history_seconds / LOOK)):
        load = _next_load(world, load, rng)
        factor, ratio_factor = math.exp(load), math.exp(load / 2) * world.drift(0.0)
        requests: dict[int, int] = {}
        row: list[tuple[int, int]] = []
        for stream, arm in zip(world.streams, arms, strict=True):
            if stream.component not in requests:
                requests[stream.component] = poisson(rng, stream.rate * LOOK * factor)
            served = requests[stream.component]
            row.append((arm.events(served, stream.ratio * ratio_factor), served))
        yield row


def looks(world: World, rng: random.Random) -> Iterator[tuple[float, list[Counts]]]:
    """By look: the time at its end (seconds since the rollout began), and each stream's counts."""
    arms = [(_Arm(world, rng), _Arm(world, rng)) for _ in world.streams]
    load, bad = 0.0, False
    for number in range(int(world.seconds / LOOK)):
        time = number * LOOK
        if time % 60 == 0:
            bad = rng.random() < world.bad_minutes
        load = _next_load(world, load, rng)
        factor, ratio_factor = LOOK * math.exp(load), math.exp(load / 2) * world.drift(time)
        share = world.share(time)
        requests: dict[int, tuple[int, int]] = {}
        row: list[Counts] = []
        for index, (stream, (candidate, stable)) in enumerate(zip(world.streams, arms, strict=True)):
            if stream.component not in requests:
                all_of_them = stream.rate * factor
                requests[stream.component] = (
                    poisson(rng, all_of_them * share),
                    poisson(rng, all_of_them * (1 - share)),
                )
            n_c, n_s = requests[stream.component]
            ratio = stream.ratio * ratio_factor
            own = world.absolute(index, time) if world.absolute else min(1.0, ratio * world.worse(index, time, bad))
            row.append((candidate.events(n_c, own), n_c, stable.events(n_s, ratio), n_s))
        yield time + LOOK, row


def _next_load(world: World, load: float, rng: random.Random) -> float:
    if not world.wobble:
        return 0.0
    return 0.6 * load + 0.8 * world.wobble * rng.gauss(0.0, 1.0)
