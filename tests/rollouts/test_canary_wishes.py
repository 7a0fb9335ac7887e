"""What people ask of a canary in a model world: gates and approvals, pauses, promotion."""

from dataclasses import replace

import pytest
from rollout_world import SIZES, canary, edges, go_on, run, running, until

from nexus_ops.rollouts.decision import Verdict


def test_a_gate_waits_for_a_person_and_an_approval_is_for_one_gate_only() -> None:
    made = until(canary(gates=("canary-10", "canary-25")), "canary-10")
    go_on(made, 30)
    assert (made.edge, made.decision().step) == (5, "approve")
    made.approve()
    until(made, "canary-25")
    go_on(made, 30)
    assert (made.edge, made.decision().step) == (10, "approve"), "the first approval is used up"
    made.approve()
    assert run(made).record.phase == "done"


def test_a_candidate_that_waits_at_a_gate_is_judged_on() -> None:
    made = until(canary(gates=("canary-25",)), "canary-25")
    go_on(made, 10)
    made.verdict = "fail"
    assert run(made).record.phase == "rolled-back"


def test_a_release_without_a_way_back_asks_before_its_first_share() -> None:
    made = canary()
    made.record = replace(made.record, needs_approval="schema 2 cannot go back")
    go_on(made, 60)
    assert (made.edge, made.decision().step) == (0, "approve")
    made.approve()
    assert run(made).record.phase == "done"


def test_a_pause_holds_and_an_unpause_goes_on() -> None:
    made = until(canary(), "canary-25")
    go_on(made, 3)
    made.pause = made.wish()
    assert made.decision().why.startswith("somebody paused it: a hunch; the candidate is watched with 25 % until ")
    go_on(made, 200)
    assert made.edge == 25
    assert made.decision().why == "somebody paused it: a hunch"
    made.pause = None
    assert run(made).record.phase == "done"


def test_a_pause_at_a_gate_is_told_beside_what_the_gate_waits_for() -> None:
    made = canary()
    made.record = replace(made.record, needs_approval="schema 2 cannot go back")
    go_on(made, 60)
    made.pause = made.wish()
    decision = made.decision()
    assert (decision.step, decision.why) == ("approve", "somebody paused it: a hunch; schema 2 cannot go back")


def test_a_pause_holds_a_rollout_that_has_not_begun_and_a_share_that_has_not_moved() -> None:
    made = canary()
    made.pause = made.wish()
    go_on(made, 60)
    assert (made.record.applied, made.decision().step) == (False, "wait")
    made.pause = None
    until(made, "canary-25")
    made.pause = made.wish()
    go_on(made, 60)
    assert (made.edge, made.decision().step) == (10, "wait")


def test_a_paused_bake_waits_for_its_verdict_for_ever() -> None:
    made = until(canary(), "canary-10")
    go_on(made, 3)
    made.verdict, made.pause = "insufficient", made.wish()
    go_on(made, 200)
    assert (made.edge, made.record.phase) == (10, "running")
    made.pause = None
    made.verdict = "pass"
    assert run(made).record.phase == "done"


def test_a_pause_within_the_handover_brings_it_to_rest_first() -> None:
    """Old pods of exclusive work stopped, new ones not started, and then a pause: nobody would execute anything."""
    made = until(canary(), "switch-traffic")
    while running(made, "blue")["engine"] == SIZES["engine"]:
        go_on(made, 1)
    made.pause = made.wish()
    go_on(made, 60)
    assert running(made, "green")["engine"] == SIZES["engine"]
    assert made.record.stage
    assert made.record.stage.name == "switch-traffic"


@pytest.mark.parametrize("verdict", ["fail", "pass"])
def test_a_paused_rollout_is_judged_and_aborted_as_any_other(verdict: Verdict) -> None:
    made = until(canary(), "canary-25")
    go_on(made, 3)
    made.pause = made.wish()
    go_on(made, 30)
    made.verdict, made.aborted = verdict, verdict == "pass"
    assert run(made).record.phase == "rolled-back"


def test_a_promotion_skips_the_shares_that_are_left_and_all_gates_but_not_the_hold() -> None:
    made = until(canary(gates=("canary-25",)), "canary-10")
    go_on(made, 1)
    made.promotion = made.wish()
    assert edges(made, range(200))[-1] == 100
    assert not {25, 50} & set(edges(made, range(200)))
    assert made.record.phase == "done"
    assert made.record.ended("cleanup-blue-environment")


def test_a_promotion_ends_the_bake_that_runs() -> None:
    made = until(canary(bake_seconds=500), "canary-5")
    go_on(made, 10)
    made.promotion = made.wish()
    go_on(made, 40)
    assert made.edge == 100


def test_a_promotion_does_not_go_past_the_point_of_no_return_unasked() -> None:
    made = canary()
    made.record = replace(made.record, needs_approval="schema 2 cannot go back")
    made.promotion = made.wish()
    go_on(made, 60)
    assert (made.edge, made.decision().step) == (0, "approve")
