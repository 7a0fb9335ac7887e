"""The sequential test itself: nobody wins by looking again, clusters are no witnesses, late faults are found."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_ops.analysis.counters import Gathered, Last, differences, gathered, least_seconds
from nexus_ops.analysis.dispersion import Dispersion, observed
from nexus_ops.analysis.evidence import (
    EARLY,
    SHARES,
    THETAS,
    Evidence,
    Interval,
    Prior,
    e_value,
    no_evidence,
    with_interval,
)

KNOWN = Dispersion()._replace(short=Dispersion().short._replace(seen=50.0, expected=50.0, pairs=200))
"""Errors that were seen to be independent."""


HOUR, LONG = Prior(720), Prior(1080)


def of(evidence: Evidence, *intervals: Interval, prior: Prior = HOUR) -> Evidence:
    for interval in intervals:
        evidence = with_interval(evidence, interval, prior)
    return evidence


def expected_gain(rho: float, events: int, cluster: int, known: Dispersion) -> float:
    """The mean e-value after one interval of a candidate that is exactly as good, over all ways its clusters can fall."""
    clusters = events // cluster
    total = 0.0
    for mine in range(clusters + 1):
        chance = math.comb(clusters, mine) * rho**mine * (1 - rho) ** (clusters - mine)
        interval = Interval(mine * cluster, 1000 * rho, events - mine * cluster, 1000 * (1 - rho))
        total += chance * e_value(of(no_evidence(HOUR, known), interval), HOUR)
    return total


@given(st.floats(0.01, 0.9), st.integers(1, 40))
def test_a_candidate_that_is_as_good_wins_nothing_on_average(rho: float, events: int) -> None:
    """What makes every look safe: the mean of the evidence never rises. Exact, by summing over all outcomes."""
    assert expected_gain(rho, events, 1, KNOWN) <= 1 + 1e-9


@given(st.floats(0.01, 0.9), st.integers(1, 4))
def test_clusters_of_the_size_that_was_measured_win_nothing_either(rho: float, clusters: int) -> None:
    clustered = KNOWN._replace(short=KNOWN.short._replace(seen=50.0 * 20))
    size = clustered.cluster_size()
    assert size is not None
    assert size >= 20
    assert expected_gain(rho, clusters * 20, 20, clustered) <= 1 + 1e-9


@given(st.floats(0.01, 0.9), st.sampled_from([1, 5, 20, 60]))
def test_while_clusters_are_unknown_no_burst_wins_anything(rho: float, cluster: int) -> None:
    assert expected_gain(rho, 2 * cluster, cluster, Dispersion()) <= 1 + 1e-9


def test_without_regard_to_clusters_bursts_would_win() -> None:
    """The control of the two tests above."""
    assert expected_gain(0.05, 40, 20, KNOWN) > 100


@given(st.integers(1, 2000), st.floats(0.01, 0.99))
def test_intervals_without_events_are_no_evidence(number: int, rho: float) -> None:
    evidence = of(
        no_evidence(HOUR, KNOWN), *[Interval(0, 100 * rho, 0, 100 * (1 - rho))] * min(number, 300), prior=Prior(300)
    )
    assert e_value(evidence, Prior(300)) == pytest.approx(1.0)


def test_weights_are_one_in_all() -> None:
    assert sum(SHARES) == pytest.approx(1.0)
    assert e_value(no_evidence(HOUR), HOUR) == pytest.approx(1.0)
    assert 0 < EARLY < 1
    assert min(THETAS) > 1


def test_traffic_share_and_error_rate_may_drift_together() -> None:
    """Pooling the counts first would see a rising rate at a rising share, and blame the candidate."""
    evidence = no_evidence(HOUR, KNOWN)
    pooled = [0.0, 0.0, 0.0, 0.0]
    for step in range(200):
        share, ratio = 0.03 + 0.05 * step / 200, 0.002 * 10 ** (step / 200)
        interval = Interval(5000 * share * ratio, 5000 * share, 5000 * (1 - share) * ratio, 5000 * (1 - share))
        pooled = [a + b for a, b in zip(pooled, interval, strict=True)]
        evidence = of(evidence, interval)
    assert e_value(evidence, HOUR) <= 1
    assert e_value(of(no_evidence(HOUR, KNOWN), Interval(*pooled)), HOUR) > e_value(evidence, HOUR)


def test_a_fault_after_two_thousand_good_intervals_is_still_found() -> None:
    good, bad = Interval(1, 250, 19, 4750), Interval(6, 250, 19, 4750)
    early = first(no_evidence(HOUR, KNOWN), bad)
    late = first(of(no_evidence(HOUR, KNOWN), *[good] * 1000, prior=LONG), bad)
    assert early <= late <= 1.5 * early + 2


def first(evidence: Evidence, interval: Interval) -> int:
    """How many such intervals it takes to reach 1 / 1 %."""
    for number in range(1, 2000):
        evidence = of(evidence, interval, prior=LONG)
        if e_value(evidence, LONG) >= 100:
            return number
    raise AssertionError("never found")


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
        max_size=30,
    )
)
def test_evidence_stays_a_number_whatever_is_counted(counts: list[tuple[int, int, int, int]]) -> None:
    evidence = no_evidence(HOUR)
    for events_c, more_c, events_s, more_s in counts:
        evidence = of(evidence, Interval(events_c, events_c + more_c, events_s, events_s + more_s))
        assert math.isfinite(e_value(evidence, HOUR))
        assert e_value(evidence, HOUR) >= 0


@pytest.mark.parametrize("size", [1, 5, 20])
def test_the_size_of_clusters_is_measured(size: int) -> None:
    """Within a factor that the margin covers, however the load and the rate drift."""
    rng = random.Random(size)
    known = Dispersion()
    for step in range(1440):
        requests = 500 * (1 + step / 1440)
        events = sum(size for _ in range(int(requests)) if rng.random() < 0.01 / size)
        known = observed(known, events, requests)
    found = known.cluster_size()
    assert found is not None
    assert size <= found + 0.001 <= 2.2 * size + 0.3


def test_with_few_events_clusters_are_unknown() -> None:
    known = Dispersion()
    for step in range(100):
        known = observed(known, 1 if step % 10 == 0 else 0, 500)
    assert known.cluster_size() is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=40), st.integers(0, 40))
def test_a_restart_of_a_pod_loses_nothing_that_was_counted_after_it(added: list[tuple[int, int]], restart: int) -> None:
    """The sum of the differences is what was served since the first look, less what fell between look and restart."""
    pods: dict[str, Last] = {}
    at_pod, total = [0, 0], [0.0, 0.0]
    pods, *_ = differences(pods, [("a", Last(0, 0, 0))])
    for number, (events, good) in enumerate(added, start=1):
        if number == restart:
            at_pod = [0, 0]
        at_pod = [at_pod[0] + events, at_pod[1] + events + good]
        pods, more_events, more_requests = differences(pods, [("a", Last(number * 5, *at_pod))])
        total = [total[0] + more_events, total[1] + more_requests]
    everything = [sum(e for e, _ in added), sum(e + g for e, g in added)]
    assert total[0] <= everything[0]
    assert total[1] <= everything[1]
    if not 1 < restart <= len(added):
        assert total == everything


def test_a_pod_of_many_that_restarts_is_not_hidden_by_the_others() -> None:
    """Summed first, 1000 + 1000 -> 1010 + 5 looks like a reset to 1015 requests."""
    pods, *_ = differences({}, [("a", Last(0, 9, 1000)), ("b", Last(0, 9, 1000))])
    _, events, requests = differences(pods, [("a", Last(5, 9, 1010)), ("b", Last(5, 1, 5))])
    assert (events, requests) == (1, 15)


def test_a_pod_seen_for_the_first_time_brings_no_past_with_it() -> None:
    pods, events, requests = differences({}, [("a", Last(0, 50, 5000))])
    assert (events, requests) == (0, 0)
    _, events, requests = differences(pods, [("a", Last(400, 90, 9000))])
    assert (events, requests) == (0, 0), "after a long silence it starts anew"


def test_a_missed_scrape_is_made_up_by_the_next() -> None:
    pods, *_ = differences({}, [("a", Last(0, 0, 0))])
    pods, events, requests = differences(pods, [])
    assert (events, requests) == (0, 0)
    _, events, requests = differences(pods, [("a", Last(10, 2, 100))])
    assert (events, requests) == (2, 100)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=50))
def test_intervals_always_have_both_colours_and_lose_nothing_recent(served: list[tuple[int, int]]) -> None:
    waiting, candidate, stable = Gathered(), 0.0, 0.0
    for number, (mine, others) in enumerate(served):
        waiting, interval = gathered(waiting, Interval(0, mine, 0, others), 5.0 * number, 0.0)
        if interval:
            assert interval.candidate_requests > 0
            assert interval.stable_requests > 0
            candidate, stable = candidate + interval.candidate_requests, stable + interval.stable_requests
    assert candidate + waiting.candidate_requests == sum(mine for mine, _ in served)
    assert stable + waiting.stable_requests == sum(others for _, others in served)


def test_requests_of_different_times_are_not_compared() -> None:
    waiting, interval = gathered(Gathered(), Interval(0, 0, 5, 100), 0.0, 0.0)
    waiting, interval = gathered(waiting, Interval(1, 1, 0, 0), 400.0, 0.0)
    assert interval is None
    assert waiting.stable_requests == 0


def test_while_clusters_are_unknown_an_interval_lasts_ten_seconds() -> None:
    """So that a burst of some seconds falls into one interval, and is one witness."""
    assert least_seconds(KNOWN) == 0.0
    least = least_seconds(Dispersion())
    waiting, ends = Gathered(), list[float]()
    for number in range(6):
        waiting, interval = gathered(waiting, Interval(1, 10, 1, 10), 5.0 * number, least)
        if interval:
            ends.append(5.0 * number)
    assert ends == [10.0, 25.0]


def test_a_storm_that_outlasts_an_interval_is_a_cluster_too() -> None:
    """Twenty errors over half a minute: by single intervals they look like clusters of four."""
    rng, known, coming = random.Random(1), Dispersion(), [0] * 6
    for _ in range(2880):
        if rng.random() < 0.05:
            for _ in range(20):
                coming[rng.randrange(6)] += 1
        known = observed(known, coming.pop(0), 500)
        coming.append(0)
    size = known.cluster_size()
    assert size is not None
    assert size > 12
    assert known.short.excess() < 8


def test_evidence_that_is_settled_stays_a_number() -> None:
    evidence = of(no_evidence(HOUR, KNOWN), *[Interval(1000, 1000, 0, 1000)] * 50)
    assert 1e100 < e_value(evidence, HOUR) < math.inf
