"""The judge's benchmark measures what it says: its generator, its bounds, its peers, and the way it asks the judge."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from simulated import RULES, START, new_plan

from benchmarks.bench_judge import Cell, bounds, cells, first_rejection, summary
from benchmarks.bench_judge_peers import FixedThreshold, MannWhitney, rank_sum_z
from benchmarks.bench_judge_table import tables
from benchmarks.bench_judge_worlds import Stream, World, history, looks, poisson
from nexus_ops.analysis.dispersion import Dispersion, observed
from nexus_ops.analysis.judge import advance, begin, verdict
from nexus_ops.analysis.samples import Answer, Count, Level, Sample


@pytest.mark.parametrize(
    ("found", "rollouts", "lower", "upper"), [(0, 2000, 0.0, 0.00184), (19, 2000, 0.00573, 0.01479), (1, 1, 0.025, 1.0)]
)
def test_the_bounds_are_those_of_clopper_and_pearson(found: int, rollouts: int, lower: float, upper: float) -> None:
    """Beside tables of the exact binomial interval."""
    assert bounds(found, rollouts) == pytest.approx((lower, upper), abs=2e-5)


@pytest.mark.parametrize("mean", [0.05, 3.0, 40.0, 5000.0])
def test_draws_have_the_mean_and_the_variance_of_poisson(mean: float) -> None:
    rng = random.Random(1)
    drawn = [poisson(rng, mean) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(mean, abs=5 * math.sqrt(mean / 20_000) + 0.003 * mean)
    assert statistics.variance(drawn) == pytest.approx(mean, rel=0.08)


def test_clusters_come_in_one_colour_and_keep_the_rate() -> None:
    world = World((Stream(0, 100.0, 0.01),), share=lambda time: 0.5, cluster=20, seconds=20_000)
    rows = [row[0] for _, row in looks(world, random.Random(1))]
    assert {counts[0] % 20 for counts in rows} == {0}
    assert sum(c[0] + c[2] for c in rows) / sum(c[1] + c[3] for c in rows) == pytest.approx(0.01, rel=0.1)


def test_the_peers_are_what_they_are_called() -> None:
    """By hand: U is 2 of a mean of 18, its variance with three ties 38.59, so z = (2 - 18 + 0.5) / 6.212."""
    assert rank_sum_z([3, 4, 2, 6, 2, 5], [9, 7, 5, 10, 6, 8]) == pytest.approx(-2.4951, abs=1e-4)
    assert rank_sum_z([1.0] * 5, [1.0] * 5) == 0
    once, thrice = FixedThreshold(0.01, 0), FixedThreshold(0.01, 3)
    assert [once.minute(2, 100) for _ in range(1)] == [True]
    assert [thrice.minute(2, 100) for _ in range(4)] == [False, False, False, True]
    judge = MannWhitney()
    assert not any(judge.minute(1, 100, 1 + minute % 2, 100) for minute in range(20))
    judge = MannWhitney()
    assert any(judge.minute(9 + minute % 2, 100, 1 + minute % 2, 100) for minute in range(20))


def test_the_benchmark_asks_the_judge_as_a_rollout_does() -> None:
    """The same counts, once as the benchmark feeds the tests, once as cumulative readings through the whole judge."""
    world = World((Stream(0, 100.0, 0.005),), worse=lambda stream, time, bad: 4.0, share=lambda time: 0.1, seconds=1200)
    quick = first_rejection(world, random.Random("x"), new_plan().prior, False)
    rng = random.Random("x")
    known = Dispersion()
    for ((events, requests),) in history(world, rng):
        known = observed(known, events, requests)
    plan = new_plan(alpha=0.01)
    plan = replace(plan, alpha=0.01, history={("request-errors", "risk-manager"): known})
    sums, state, alone = [0.0] * 4, begin(plan), None
    state = advance(plan, state, _sample(0.0, sums))
    for time, (counts,) in looks(world, rng):
        sums = [a + b for a, b in zip(sums, counts, strict=True)]
        state = advance(plan, state, _sample(time, sums))
        value = verdict(plan, state).e_values["request-errors/risk-manager"]
        if alone is None and value >= 100:
            alone = time
    assert quick["judge"] is not None
    assert quick["judge"] == alone


def _sample(time: float, sums: list[float]) -> Sample:
    pods = (
        Count("risk-manager", "green", "g", sums[0], sums[1]),
        Count("risk-manager", "blue", "b", sums[2], sums[3]),
    )
    answers = {name: Answer() for name in RULES.metrics}
    answers |= {"request-errors": Answer(counts=pods), "portfolio-pnl": Answer(levels=(Level("", "", "", 0.0),))}
    return Sample(START + time, "10", answers)


def test_every_cell_can_be_simulated_and_gets_its_row() -> None:
    found: list[dict[str, object]] = []
    for cell in cells():
        few = replace(cell, world=replace(cell.world, seconds=120.0, history_seconds=60.0))
        found.append(summary(cell, [first_rejection(few.world, random.Random(1), few.prior, True)]))
    text = tables(found, seed=1)
    early = {cell.name for cell in cells() if cell.group == "late" and cell.begins == 0}
    assert [cell.name for cell in cells() if cell.name not in text and cell.name not in early] == []


def test_a_summary_tells_false_alarms_from_what_was_found() -> None:
    cell = Cell("c", "late", World((Stream(0, 100.0, 0.005),)), begins=100.0, theta=2.0, stage=0.05)
    one = summary(cell, [{"judge": 50.0}, {"judge": 130.0}, {"judge": 150.0}, {"judge": None}])["rules"]["judge"]
    assert (one["false"], one["found"], one["asked"], one["median"]) == (1, 2, 3, 50.0)
