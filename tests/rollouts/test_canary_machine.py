"""The rollout machine in a model world, as a canary: shares, bakes, verdicts, and the way back."""

from dataclasses import replace
from datetime import timedelta

import pytest
from rollout_world import SIZES, WORKS, canary, edges, go_on, run, running, until

from nexus_ops.rollouts.decision import Verdict
from nexus_ops.rollouts.machine import decide
from nexus_ops.rollouts.record import Wish
from nexus_ops.rollouts.strategy import CANARY, Settings, names, stages_of
from nexus_ops.topology import RolloutDefaults


def test_the_traffic_goes_up_share_by_share_and_each_is_baked() -> None:
    made = canary()
    assert edges(made, range(400)) == [0, 5, 10, 25, 50, 100]
    assert (made.record.phase, running(made, "green")) == ("done", SIZES)
    baked = {stage.name: stage for stage in made.record.stages if stage.kind == "bake"}
    assert list(baked) == ["canary-5", "canary-10", "canary-25", "canary-50", "monitor-health"]
    for stage in baked.values():
        assert stage.until
        assert stage.ended
        assert stage.ended >= stage.until, f"{stage.name} was cut short"


def test_a_stage_bakes_as_long_as_it_says_and_each_environment_has_its_own_times() -> None:
    times = Settings(strategy="canary", bake_seconds=7, monitor_seconds=11, hold_seconds=13)
    assert [stage.bake_seconds for stage in stages_of(times)] == [0, 0, 0, 7, 7, 7, 7, 0, 11, 13]
    assert RolloutDefaults(monitor_seconds=1, hold_seconds=1).bake_seconds == 300
    made = until(canary(bake_seconds=40), "canary-10")
    began = made.now
    until(made, "canary-25")
    assert made.now - began >= timedelta(seconds=40)


def test_workers_share_by_replicas_and_are_never_fewer_than_before() -> None:
    made = canary()
    seen: dict[int, tuple[int, int]] = {}
    for _ in range(400):
        go_on(made, 1)
        if made.record.stage and made.record.stage.until and made.record.weight < 100:
            seen[made.record.weight] = (made.wanted["hunter", "green"], made.wanted["hunter", "blue"])
        if made.record.finished:
            break
    assert seen == {5: (1, 3), 10: (1, 3), 25: (1, 3), 50: (2, 2)}


def test_exclusive_work_moves_once_and_only_when_all_traffic_has() -> None:
    made = until(canary(), "switch-traffic")
    assert running(made, "green")["engine"] == 0
    assert running(made, "blue")["engine"] == SIZES["engine"]
    until(made, "monitor-health")
    assert (running(made, "green")["engine"], running(made, "blue")["engine"]) == (SIZES["engine"], 0)


def test_a_failing_verdict_cuts_at_the_share_where_it_is() -> None:
    made = until(canary(), "canary-5")
    go_on(made, 5)
    assert made.edge == 5
    made.verdict, made.blames = "fail", "release"
    assert [made.step().step for _ in range(2)] == ["roll-back", "weight"], "nothing comes before the cut"
    assert made.edge == 0
    run(made)
    assert (made.record.phase, made.record.blames, running(made, "blue")) == ("rolled-back", "release", SIZES)


@pytest.mark.parametrize("stage", [name for name in names(CANARY) if name not in names(CANARY)[:3]])
def test_a_verdict_against_the_candidate_counts_in_every_stage_in_which_it_serves(stage: str) -> None:
    made = until(canary(), stage)
    while not made.edge:
        go_on(made, 1)
    made.verdict = "fail"
    assert made.step().step == "roll-back"
    run(made)
    assert (made.edge, running(made, "blue")) == (0, SIZES)


def test_a_bake_without_a_verdict_goes_on_for_a_bounded_time_and_then_goes_back() -> None:
    made = until(canary(), "canary-10")
    made.verdict = "insufficient"
    go_on(made, 20)
    assert (made.edge, made.record.phase) == (10, "running"), "neither a pass nor an instant failure"
    go_on(made, 20)
    assert made.record.phase != "running"
    assert "came to no verdict" in made.record.reason
    assert run(made).record.blames is None, "nothing is known against the release"


def test_a_verdict_that_comes_late_but_in_time_lets_the_bake_end() -> None:
    made = until(canary(), "canary-10")
    made.verdict = "insufficient"
    go_on(made, 18)
    made.verdict = "pass"
    assert run(made).record.phase == "done"


def test_a_candidate_of_which_nothing_can_be_measured_is_held_and_then_goes_back() -> None:
    made = until(canary(bake_seconds=100), "canary-5")
    go_on(made, 5)
    made.verdict = "error"
    go_on(made, 14)
    assert (made.edge, made.record.phase) == (5, "running")
    go_on(made, 5)
    assert "nothing could be measured for" in made.record.reason
    assert run(made).edge == 0


def test_an_error_that_passes_is_forgotten() -> None:
    made = until(canary(bake_seconds=60), "canary-5")
    go_on(made, 3)
    for _ in range(3):
        made.verdict = "error"
        go_on(made, 10)
        made.verdict = "pass"
        go_on(made, 3)
    assert (made.record.phase, made.record.unmeasured_since) == ("running", None)


def test_a_pass_on_too_few_requests_does_not_end_a_bake() -> None:
    made = until(canary(min_requests=50), "canary-5")
    made.requests = 49
    go_on(made, 20)
    assert made.record.stage
    assert made.record.stage.name == "canary-5"
    assert "49 of at least 50 requests were seen" in made.decision().why
    made.requests = None
    assert made.decision().step == "wait", "not measured is not enough"
    made.requests = 50
    assert run(made).record.phase == "done"


def test_without_a_least_number_of_requests_nobody_asks_how_many_there_were() -> None:
    made = until(canary(min_requests=0), "canary-5")
    made.requests = None
    assert run(made).record.phase == "done"


def test_a_bake_does_not_end_on_a_share_that_is_not_there_any_more() -> None:
    made = until(canary(bake_seconds=20), "canary-10")
    go_on(made, 8)
    made.edge = 3  # somebody has set the route behind our back
    go_on(made, 30)
    assert made.record.stage
    assert made.record.stage.name == "canary-10"
    assert "10 % were requested and had been seen, now they are not" in made.decision().why
    made.edge = 10
    assert run(made).record.phase == "done"


def test_a_candidate_that_loses_pods_within_a_bake_gets_them_back() -> None:
    made = until(canary(bake_seconds=60), "canary-10")
    go_on(made, 5)
    made.wanted["orchestrator", "green"] = made.there["orchestrator", "green"] = 1
    go_on(made, 5)
    assert running(made, "green")["orchestrator"] == SIZES["orchestrator"]


def test_a_candidate_that_is_not_ready_any_more_gets_no_more_traffic() -> None:
    made = until(canary(), "switch-traffic")
    made.healthy = False
    go_on(made, 30)
    assert (made.edge, made.record.phase) == (50, "running")
    made.healthy = True
    assert run(made).edge == 100


def test_workers_are_asked_before_the_first_bake_begins() -> None:
    made = until(canary(), "canary-5")
    while made.record.stage and made.record.stage.until is None:
        go_on(made, 1)
    assert set(made.record.verified) == {"orchestrator", "hunter"}


def test_everything_that_started_has_been_asked_before_the_candidate_has_all_traffic_for_good() -> None:
    made = until(canary(), "monitor-health")
    assert set(made.record.verified) == set(WORKS)


@pytest.mark.parametrize("verdict", ["insufficient", "error"])
def test_within_the_hold_the_old_colour_outlives_what_cannot_be_measured_but_not_for_ever(verdict: Verdict) -> None:
    """The candidate has been found good: not to see it any more, for a while, is no reason to go back."""
    made = until(canary(), "cleanup-blue-environment")
    made.verdict = verdict
    go_on(made, 20)  # beyond the hold of 5 s, and beyond the 15 s for which a bake would have waited
    assert (made.record.phase, made.record.unmeasured_since) == ("running", None)
    assert running(made, "blue")["orchestrator"] == SIZES["orchestrator"]
    go_on(made, 40)
    assert (made.record.phase, running(made, "blue")["orchestrator"]) == ("done", 0)


def test_a_candidate_that_failed_stays_for_its_logs_without_traffic_and_without_work_of_its_own() -> None:
    made = until(canary(logs_seconds=60), "canary-25")
    go_on(made, 4)
    made.verdict = "fail"
    go_on(made, 30)
    assert (made.edge, running(made, "green")) == (0, {"orchestrator": 3, "hunter": 0, "engine": 0})
    assert running(made, "blue") == SIZES
    assert "its logs can be read" in made.decision().why
    run(made)
    made.let_pods_move(9)
    assert set(running(made, "green").values()) == {0}


def test_what_is_new_with_a_candidate_that_failed_stops_before_its_logs_are_kept() -> None:
    """It has nothing to hand its work back to: nobody else would stop it."""
    made = until(canary(logs_seconds=60), "canary-25")
    go_on(made, 4)
    made.verdict = "fail"
    while made.record.logs_until is None:
        go_on(made, 1)
    made.wanted["hunter", "green"] = made.there["hunter", "green"] = 2
    observed = replace(made.observed(), stable={name: WORKS[name] for name in ("orchestrator", "engine")})
    decision = decide(made.ledger, WORKS, observed, made.now)
    assert (decision.step, decision.colour, decision.targets) == ("scale", "green", {"hunter": 0})


def test_the_way_back_is_not_over_while_the_candidate_finishes_what_it_has_begun() -> None:
    made = until(canary(), "canary-25")
    go_on(made, 4)
    made.stuck = {("orchestrator", "green")}
    made.verdict = "fail"
    go_on(made, 60)
    assert (made.record.phase, running(made, "green")["orchestrator"]) == ("rolling-back", 1)
    made.stuck = set()
    assert run(made).record.phase == "rolled-back"


def test_the_same_release_again_has_nothing_to_restore() -> None:
    made = canary()
    made.record = replace(made.record, candidate=replace(made.record.candidate, release="old"))
    until(made, "canary-10")
    made.aborted = True
    assert run(made).record.phase == "rolled-back"
    assert not made.record.restored


def test_an_abort_after_the_failure_ends_the_time_for_the_logs() -> None:
    made = until(canary(logs_seconds=600), "canary-25")
    made.verdict = "fail"
    go_on(made, 60)
    assert made.decision().step == "wait"
    made.aborted = True
    go_on(made, 15)
    assert made.record.phase == "rolled-back"


def test_a_canary_that_was_rolled_back_can_be_tried_again() -> None:
    """Retry of the same release: the candidate's objects are there, at zero, and its record begins anew."""
    made = until(canary(), "canary-10")
    made.aborted = True
    run(made)
    again = canary()
    again.wanted, again.there, again.floors = made.wanted, made.there, made.floors
    assert run(again).record.phase == "done"


def test_a_late_start_of_exclusive_work_is_refused() -> None:
    """A driver frozen as it starts the new copy; the rollout is aborted and over when its write arrives."""
    made = until(canary(), "switch-traffic")
    while (
        made.decision().step != "scale" or "engine" not in made.decision().targets or made.decision().colour == "blue"
    ):
        go_on(made, 1)
    frozen = made.freeze()
    made.aborted = True
    run(made)
    made.arrive(frozen)
    made.let_pods_move(9)
    assert (running(made, "green")["engine"], running(made, "blue")["engine"]) == (0, SIZES["engine"])


def test_an_abort_by_a_verdict_carries_whom_it_blames() -> None:
    made = until(canary(), "canary-10")
    made.abort = Wish("rollout sensor", "errors", made.now.isoformat(), blames="release")
    assert run(made).record.blames == "release"
