"""The judge's error rates, power and delay over simulated rollouts: `python -m benchmarks.bench_judge --help`.

Each rollout has its own seed, made of the cell's name, `--seed` and its number. Parts are kept as lines of JSON in
`--results`, so that a long run can go on where it stopped. `--write` puts the table into docs/analysis.md.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import random
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.bench_judge_peers import FixedThreshold, MannWhitney
from benchmarks.bench_judge_table import write
from benchmarks.bench_judge_worlds import (
    Stream,
    World,
    constant,
    history,
    looks,
    ramp,
    staged,
)
from benchmarks.measure import leave_out, say
from nexus_ops.analysis.counters import Gathered, gathered, least_seconds
from nexus_ops.analysis.dispersion import Dispersion, observed
from nexus_ops.analysis.evidence import EARLY_IN_WATCH, Interval, Prior, e_value, no_evidence, with_interval
from nexus_ops.analysis.metrics import Rules
from nexus_ops.analysis.power import wald_seconds
from nexus_ops.topology import project_folder

RULES = Rules.load(project_folder() / "monitoring" / "analysis.yaml")
RATES = (1000.0, 1000.0, 100.0, 100.0, 100.0, 10.0, 10.0)
RATIOS = {"request-errors": 0.005, "slow-requests": 0.01, "very-slow-requests": 0.002, "agent-errors": 0.003}
ALL = tuple(Stream(c, rate, RATIOS[metric.name]) for c, rate in enumerate(RATES) for metric in RULES.counted())
SHARES = [
    share
    for component in RULES.components
    for metric in RULES.counted()
    for key, share in RULES.shares(RULES.components).items()
    if key == (metric.name, component)
]
ONE_OF_ALL = SHARES[0]  # a critical metric
PEERS = 1400
"""Streams of a cell that the peers are asked about too: Mann and Whitney take as long as everything else."""
PART = 50
"""Rollouts that are simulated in one go, and kept as one line."""
ROLLOUT, WATCH = Prior(RULES.horizon), Prior(RULES.watch_horizon, EARLY_IN_WATCH)
STAGES = staged((0.05, 900), (0.10, 900), (0.25, 900), (0.50, 900))


@dataclass(frozen=True)
class Cell:
    """One row: a world, and what is asked of it."""

    name: str
    group: str
    world: World
    begins: float = 0.0
    """When the fault begins (seconds); infinite: there is none."""
    theta: float = 1.0
    """By how much the first stream is worse, for Wald's limit."""
    prior: Prior = ROLLOUT
    stage: float | None = None
    """The constant share under which Wald's limit is computed."""


def bounds(found: int, rollouts: int) -> tuple[float, float]:
    """The two-sided 95 % Clopper-Pearson interval of a share, by bisection of the binomial's tails."""

    def tail(p: float, upto: int) -> float:
        if p <= 0:
            return 1.0
        if p >= 1:
            return 1.0 if upto >= rollouts else 0.0
        return math.fsum(
            math.exp(
                math.lgamma(rollouts + 1)
                - math.lgamma(k + 1)
                - math.lgamma(rollouts - k + 1)
                + k * math.log(p)
                + (rollouts - k) * math.log1p(-p)
            )
            for k in range(upto + 1)
        )

    def solve(test: Callable[[float], bool]) -> float:
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if test(middle) else (low, middle)
        return (low + high) / 2

    lower = 0.0 if found == 0 else solve(lambda p: 1 - tail(p, found - 1) < 0.025)
    upper = 1.0 if found == rollouts else solve(lambda p: tail(p, found) > 0.025)
    return lower, upper


def first_rejection(world: World, rng: random.Random, prior: Prior, peers: bool) -> dict[str, float | None]:
    """One rollout: by rule, the time at which it would have been rolled back, or None.

    With one stream, `judge` is the test at full weight and `one of 28` the same stream beside 27 that add nothing.
    """
    alpha = RULES.alpha
    known = [Dispersion() for _ in world.streams]
    for row in history(world, rng):
        known = [observed(one, events, requests) for one, (events, requests) in zip(known, row, strict=True)]
    evidence = [no_evidence(prior, one) for one in known]
    waiting = [Gathered() for _ in world.streams]
    values = [1.0] * len(evidence)
    single = len(world.streams) == 1
    shares = [1.0] if single else SHARES
    found: dict[str, float | None] = {"judge": None}
    if single:
        found["one of 28"] = None
    argo: dict[int, list[FixedThreshold]] = {}
    whitney: list[MannWhitney] = []
    minute = [[0, 0, 0, 0] for _ in world.streams]
    if peers:
        argo = {limit: [FixedThreshold(2 * s.ratio, limit) for s in world.streams] for limit in (0, 3)}
        whitney = [MannWhitney() for _ in world.streams]
        found |= {"threshold, limit 0": None, "threshold, limit 3": None, "Mann-Whitney": None}
    for now, row in looks(world, rng):
        for index, (k_c, n_c, k_s, n_s) in enumerate(row):
            least = least_seconds(evidence[index].dispersion)
            waiting[index], interval = gathered(waiting[index], Interval(k_c, n_c, k_s, n_s), now, least)
            if interval is not None:
                evidence[index] = with_interval(evidence[index], interval, prior)
                values[index] = e_value(evidence[index], prior)
        total = sum(share * value for share, value in zip(shares, values, strict=True))
        if found["judge"] is None and total >= 1 / alpha:
            found["judge"] = now
        if single and found["one of 28"] is None and ONE_OF_ALL * values[0] >= 1 / alpha:
            found["one of 28"] = now
        if peers:
            for sums, counts in zip(minute, row, strict=True):
                for place, count in enumerate(counts):
                    sums[place] += count
            if now % 60 == 0:
                _ask_peers(found, argo, whitney, minute, now)
                minute = [[0, 0, 0, 0] for _ in world.streams]
        if all(at is not None for at in found.values()):
            break
    return found


def _ask_peers(
    found: dict[str, float | None],
    argo: dict[int, list[FixedThreshold]],
    whitney: list[MannWhitney],
    minute: list[list[int]],
    now: float,
) -> None:
    for limit, rules in argo.items():
        failed = [rule.minute(sums[0], sums[1]) for rule, sums in zip(rules, minute, strict=True)]
        name = f"threshold, limit {limit}"
        if found[name] is None and any(failed):
            found[name] = now
    if found["Mann-Whitney"] is None:
        failed = [judge.minute(*sums) for judge, sums in zip(whitney, minute, strict=True)]
        if any(failed):
            found["Mann-Whitney"] = now


def _part(work: tuple[str, int, int]) -> dict[str, Any]:
    """Some rollouts of a cell. It goes to the workers by name: what happens in a world is a function."""
    name, seed, first = work
    cell = next(cell for cell in cells() if cell.name == name)
    results = [
        first_rejection(
            cell.world, random.Random(f"{name}/{seed}/{number}"), cell.prior, number < PEERS / len(cell.world.streams)
        )
        for number in range(first, first + PART)
    ]
    return {"cell": name, "seed": seed, "first": first, "results": results}


def summary(cell: Cell, results: list[dict[str, float | None]]) -> dict[str, Any]:
    """A cell's result: by rule, false alarms before the fault begins, what was found after it, and the delay."""
    rules: dict[str, Any] = {}
    for name in max(results, key=len):
        times = [one[name] for one in results if name in one]
        early = sum(1 for at in times if at is not None and at <= cell.begins)
        delays = sorted(math.inf if at is None else at - cell.begins for at in times if at is None or at > cell.begins)
        lower, upper = bounds(early, len(times))
        rules[name] = {
            "rollouts": len(times),
            "false": early,
            "lower": lower,
            "upper": upper,
            "found": sum(1 for delay in delays if delay < math.inf),
            "asked": len(delays),
            "median": _finite(statistics.median(delays)) if delays else None,
            "p95": _finite(delays[int(0.95 * (len(delays) - 1))]) if delays else None,
        }
    wald = None
    if cell.stage is not None and cell.theta > 1:
        stream = cell.world.streams[0]
        wald = wald_seconds(RULES.alpha, cell.theta, cell.stage, stream.rate * stream.ratio)
    return {"cell": cell.name, "group": cell.group, "begins": _finite(cell.begins), "wald": wald, "rules": rules}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _slower(factor: float, ratio: float) -> float:
    """How often the objective is missed when latency (lognormal, σ = 0.6) grows by a factor: times as often."""
    normal = statistics.NormalDist()
    z = normal.inv_cdf(1 - ratio) - math.log(factor) / 0.6
    return (1 - normal.cdf(z)) / ratio


def _fault(theta: float, begins: float = 0.0) -> Callable[[int, float, bool], float]:
    return lambda stream, time, bad: theta if time >= begins else 1.0


def cells() -> list[Cell]:
    """All rows, the quick ones first."""
    found: list[Cell] = []
    never = math.inf
    for rate in (10.0, 100.0, 1000.0):
        for theta in (1.5, 2.0, 3.0, 5.0):
            world = World((Stream(0, rate, 0.005),), worse=_fault(theta))
            found.append(Cell(f"errors x{theta:g}, {rate:g}/s", "power", world, 0.0, theta, stage=0.05))
        for factor in (1.5, 2.0):
            theta = _slower(factor, 0.01)
            world = World((Stream(0, rate, 0.01),), worse=_fault(theta))
            found.append(Cell(f"latency x{factor:g}, {rate:g}/s", "power", world, 0.0, theta, stage=0.05))
    for theta in (2.0, 3.0, 5.0):
        world = World((Stream(0, 100.0, 0.005),), worse=_fault(theta, 1200.0), seconds=4800)
        found.append(Cell(f"errors x{theta:g}, 100/s, from minute 20", "late", world, 1200.0, theta, stage=0.05))
    for theta in (1.5, 2.0):
        for hours in (0, 2):
            world = World(
                (Stream(0, 200.0, 0.005),),
                share=constant(0.5),
                worse=_fault(theta, 3600.0 * hours),
                seconds=3600.0 * (hours + 1),
            )
            name = f"watch, errors x{theta:g}, 100/s, from hour {hours}"
            found.append(Cell(name, "late", world, 3600.0 * hours, theta, WATCH, stage=0.5))
    zero = World((Stream(0, 100.0, 0.0),), absolute=lambda stream, time: 0.01)
    found.append(Cell("no errors before, 1 % now, 100/s", "odd", zero))
    bursts = World(
        (Stream(0, 100.0, 0.01),), bad_minutes=0.05, worse=lambda stream, time, bad: _slower(5, 0.01) if bad else 1.0
    )
    found.append(Cell("5 % of minutes with 5 times the latency, 100/s", "odd", bursts))
    quiet = World((Stream(0, 1 / 60, 0.005),), share=STAGES)
    found.append(Cell("1 request a minute, no fault", "odd", quiet, never))
    found.append(Cell("1 request a minute, errors x5", "odd", replace(quiet, worse=_fault(5.0))))
    clustered = World((Stream(0, 100.0, 0.005),), worse=_fault(5.0), cluster=20)
    found.append(Cell("errors x5 in clusters of 20, 100/s", "odd", clustered, 0.0, 5.0, stage=0.05))
    whole = World(ALL, share=STAGES)
    found += [
        Cell("independent errors", "false", whole, never),
        Cell(
            "share 3 to 8 %, errors 0.2 to 2 %",
            "false",
            replace(
                whole,
                streams=tuple(replace(stream, ratio=0.002) for stream in ALL),
                share=ramp(0.03, 0.08, 3600),
                drift=ramp(1.0, 10.0, 3600),
            ),
            never,
        ),
        Cell("clusters of 20", "false", replace(whole, cluster=20), never),
        Cell("AR(1) load", "false", replace(whole, wobble=0.3), never),
        Cell("clusters of 20, spread over 30 s", "false", replace(whole, cluster=20, cluster_seconds=30.0), never),
    ]
    return found


def bench() -> None:
    """For `make bench`: the median delay over 50 rollouts, one metric and one of 28. All the rest takes hours."""
    for name in ("errors x5, 100/s", "errors x2, 1000/s"):
        cell = next(cell for cell in cells() if cell.name == name)
        found = summary(cell, _part((name, 1, 0))["results"])
        for rule, words in (("judge", "alone"), ("one of 28", "one of 28")):
            median = found["rules"][rule]["median"]
            if median is None:
                leave_out(f"canary: {name}, {words}", "most rollouts ended before it was found")
            else:
                say(f"canary: {name}, {words}", median, "s", "Wald's limit", found["wald"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cells", default=".", help="only those whose group and name match")
    parser.add_argument("--results", type=Path, default=Path("judge.jsonl"))
    parser.add_argument("--write", type=Path, help="put the table into this page")
    options = parser.parse_args()
    chosen = [cell for cell in cells() if re.search(options.cells, f"{cell.group} {cell.name}")]
    done = {(part["cell"], part["seed"], part["first"]) for part in parts(options.results)}
    work = [
        (cell.name, options.seed, first)
        for first in range(0, options.rollouts, PART)
        for cell in chosen
        if (cell.name, options.seed, first) not in done
    ]
    with multiprocessing.get_context("fork").Pool(options.workers) as pool, options.results.open("a") as file:
        for part in pool.imap_unordered(_part, work):
            file.write(json.dumps(part) + "\n")
            file.flush()
    found = summaries(options.results, options.seed)
    for one in found:
        print(json.dumps(one))
    if options.write:
        write(options.write, found, options.seed)


def parts(path: Path) -> list[dict[str, Any]]:
    """What was simulated so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summaries(path: Path, seed: int) -> list[dict[str, Any]]:
    """By cell, in the order of the table, over all parts that were simulated so far."""
    results: dict[str, list[dict[str, float | None]]] = {}
    for part in sorted((part for part in parts(path) if part["seed"] == seed), key=lambda part: part["first"]):
        results.setdefault(part["cell"], []).extend(part["results"])
    return [summary(cell, results[cell.name]) for cell in cells() if cell.name in results]


if __name__ == "__main__":
    main()
