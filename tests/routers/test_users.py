"""Requests by colour from raw counters: aligned, pod by pod, and none from before the weight was set."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.rollouts.routers.share import Counted, trial
from nexus_ops.rollouts.routers.users import intervals

Series = dict[str, Any]


def pod(colour: str, samples: list[tuple[float, float]]) -> Series:
    return {"metric": {"colour": colour}, "values": [[at, str(value)] for at, value in samples]}


def steady(colour: str, rate: float, offset: float, *, until: float = 120, gap: float = 15) -> Series:
    """A counter that grows evenly, scraped at times of its own."""
    times = [offset + gap * number for number in range(int(until / gap))]
    return pod(colour, [(at, 1000 + rate * at) for at in times])


@given(st.lists(st.floats(0, 14), min_size=2, max_size=8))
def test_pods_scraped_at_different_times_give_the_share_that_they_have(offsets: list[float]) -> None:
    """One colour's counts before the other's would swing the test between its verdicts."""
    half = len(offsets) // 2
    matrix = [steady("green", 1, at) for at in offsets[:half]] + [steady("blue", 9, at) for at in offsets[half:]]
    counts = intervals(matrix, "green", since=0.0)
    share = half / (half + 9 * (len(offsets) - half))
    assert counts
    assert all(one.candidate == pytest.approx(share * one.requests) for one in counts)


def test_what_was_served_before_the_weight_was_set_is_left_out() -> None:
    """All requests went to green before; the interval in which the weight is set still holds some of them."""
    green = pod("green", [(at, 10.0 * min(at, 31) + 1.0 * max(0, at - 31)) for at in range(0, 91, 15)])
    blue = pod("blue", [(at, 9.0 * max(0, at - 31)) for at in range(0, 91, 15)])
    counts = intervals([green, blue], "green", since=31.0)
    assert counts == [Counted(15, 150)] * len(counts)
    assert counts


def test_a_burst_that_is_scraped_from_one_colour_first_is_one_count() -> None:
    """Requests of our own in an idle environment: half of them are in one interval, half in the next."""
    early = pod("blue", [(at, 200.0 if at > 40 else 0.0) for at in range(1, 120, 15)])
    late = pod("green", [(at, 200.0 if at > 50 else 0.0) for at in range(14, 120, 15)])
    counts = intervals([early, late], "green", since=0.0)
    assert counts == [Counted(200, 400)]
    half = [{**early, "values": early["values"][:4]}, {**late, "values": late["values"][:3]}]
    assert intervals(half, "green", since=0.0) == [], "one colour's half of it is no count"


def test_what_was_served_before_the_candidate_was_scraped_is_left_out() -> None:
    """Its new pods are found by Prometheus some seconds later: until then all requests seem to go to the other colour."""
    green = [pod("green", [(at, 1.0 * at) for at in range(first, 121, 15)]) for first in (31, 40)]
    blue = pod("blue", [(at, 18.0 * at) for at in range(0, 121, 15)])
    counts = intervals([*green, blue], "green", since=0.0)
    assert counts == [Counted(30, 300)] * len(counts)
    assert counts
    assert intervals([blue], "green", since=0.0) == []


def test_a_restart_counts_from_zero() -> None:
    restarted = pod("green", [(0, 500), (15, 540), (30, 40), (45, 80)])
    other = steady("blue", 2, 0.0, until=60)
    assert intervals([restarted, other], "green", since=0.0)[:2] == [Counted(40, 70), Counted(40, 70)]


def test_counts_begin_when_every_pod_that_is_there_was_scraped_and_one_that_is_gone_does_not_matter() -> None:
    gone = pod("green", [(0, 0), (15, 1)])
    comes = pod("green", [(at, 900 + 2 * (at - 45) / 15) for at in range(45, 121, 15)])
    counts = intervals([gone, comes, steady("blue", 2, 0.0, until=135)], "green", since=0.0)
    assert counts == [Counted(2, 32)] * len(counts)
    assert counts


def test_nothing_scraped_twice_is_nothing_counted() -> None:
    assert intervals([], "green", since=0.0) == []
    assert intervals([pod("green", [(3, 100)])], "green", since=0.0) == []


def test_a_tenth_of_busy_users_is_seen_in_the_first_interval() -> None:
    matrix = [steady("green", 10, -3), steady("blue", 90, -9)]
    assert trial(10, intervals(matrix, "green", since=0.0)[:1]).verdict == "agrees"
