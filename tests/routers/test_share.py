"""The test of a share: what it accepts, what it never accepts, and how many requests it takes."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_ops.rollouts.routers.share import ALPHA, Counted, Trial, band, requests_needed, trial

STEPS = (5, 10, 25, 50)
RUNS = 400
BATCH = 10


def simulated(asked: int, true: float, generator: random.Random, most: int = 20_000) -> Trial:
    """The first verdict over requests that go to the candidate with a true probability."""
    found = Trial(asked)
    while found.verdict == "open" and found.running.requests < most:
        found += Counted(sum(generator.random() < true for _ in range(BATCH)), BATCH)
    return found


@given(st.sampled_from(STEPS), st.lists(st.integers(0, 5000), max_size=30))
def test_no_request_of_the_candidate_is_never_its_share(asked: int, sizes: list[int]) -> None:
    """0 % accepted as 5 %, however many requests were seen."""
    assert trial(asked, (Counted(0, size) for size in sizes)).verdict != "agrees"


@given(st.sampled_from(STEPS), st.lists(st.integers(0, 5000), max_size=30))
def test_all_requests_are_never_a_part_of_them(asked: int, sizes: list[int]) -> None:
    assert trial(asked, (Counted(size, size) for size in sizes)).verdict != "agrees"


@pytest.mark.parametrize("asked", STEPS)
@pytest.mark.parametrize("end", ["low", "high"])
def test_a_share_of_half_or_twice_the_odds_is_accepted_at_most_as_often_as_alpha(asked: int, end: str) -> None:
    """At the edge of what is to be told apart, looked at after every few requests."""
    generator = random.Random(f"{asked} {end}")
    true = getattr(band(asked), end)
    accepted = sum(simulated(asked, true, generator, most=2000).verdict == "agrees" for _ in range(RUNS))
    assert accepted <= RUNS * ALPHA + 3 * math.sqrt(RUNS * ALPHA)


@pytest.mark.parametrize("asked", STEPS)
def test_the_share_asked_for_is_accepted_in_about_the_requests_that_are_said_to_be_needed(asked: int) -> None:
    generator = random.Random(asked)
    trials = [simulated(asked, asked / 100, generator) for _ in range(RUNS)]
    assert sum(one.verdict == "agrees" for one in trials) >= RUNS * (1 - 2 * ALPHA) - 3 * math.sqrt(RUNS * ALPHA)
    mean = sum(one.judged.requests for one in trials) / RUNS
    assert mean <= 1.75 * requests_needed(asked)


def test_the_numbers_of_requests_are_the_ones_that_are_documented() -> None:
    assert {asked: requests_needed(asked) for asked in STEPS} == {5: 494, 10: 256, 25: 116, 50: 79}


@pytest.mark.parametrize("asked", STEPS)
def test_the_step_before_is_not_taken_for_the_present_one(asked: int) -> None:
    """A router that still serves the weight before."""
    generator = random.Random(7)
    before = {5: 0.0, 10: 0.05, 25: 0.10, 50: 0.25}[asked]
    found = [simulated(asked, before, generator).verdict for _ in range(200)]
    assert found.count("agrees") <= 6
    assert "open" not in found


def test_a_trial_begins_again_and_a_late_share_is_accepted_a_share_that_departs_is_found() -> None:
    late = trial(5, [Counted(0, 400), *[Counted(5, 100)] * 8])
    assert late.verdict == "agrees"
    departed = trial(5, [*[Counted(5, 100)] * 8, *[Counted(40, 100)] * 2])
    assert departed.verdict == "differs"
    assert departed.said() == "40.0 % of 100 requests were seen"


@pytest.mark.parametrize(("asked", "own"), [(100, 99), (100, 100), (0, 1), (0, 0)])
def test_all_or_nothing_has_room_for_a_request_from_inside(asked: int, own: int) -> None:
    assert trial(asked, [Counted(own, 100)]).verdict == "agrees"


@pytest.mark.parametrize(("asked", "own"), [(100, 80), (0, 20)])
def test_all_or_nothing_has_no_room_for_a_tenth(asked: int, own: int) -> None:
    assert trial(asked, [Counted(own, 100)]).verdict == "differs"


@given(st.sampled_from((0, *STEPS, 100)), st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=20))
def test_a_verdict_stands_on_counts_that_were_given(asked: int, counts: list[tuple[int, int]]) -> None:
    given_ = [Counted(own, own + others) for own, others in counts]
    found = trial(asked, given_)
    assert found.judged.requests + found.running.requests <= sum(one.requests for one in given_)
    assert found.share is None or 0 <= found.share <= 100
