"""The rollout machine in a model world, blue-green: what is decided, and in which order."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_world import GRACE, SIZES, WORKS, go_on, new_record, run, running, until, world

from nexus_ops.rollouts.decision import Observed, Pods, Verdict
from nexus_ops.rollouts.machine import decide
from nexus_ops.rollouts.moves import share_workers
from nexus_ops.rollouts.record import Event, ForeignRecord, Ledger, Record, StageState, Wish
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.topology import Colour


def test_a_healthy_candidate_takes_over_and_the_old_colour_goes() -> None:
    made = run(world())
    assert made.record.phase == "done"
    assert (made.edge, running(made, "green")) == (100, SIZES)
    made.let_pods_move(9)
    assert set(running(made, "blue").values()) == {0}


def test_a_first_install_needs_no_old_colour() -> None:
    made = run(world(stable=False))
    assert (made.record.phase, made.edge, running(made, "blue")) == ("done", 100, SIZES)


def test_failing_health_sends_everything_back() -> None:
    made = world()
    made.verdict = "fail"
    run(made)
    assert (made.record.phase, made.edge, running(made, "blue")) == ("rolled-back", 0, SIZES)


@pytest.mark.parametrize("verdict", ["insufficient", "error"])
def test_no_data_is_neither_a_pass_nor_an_instant_failure(verdict: Verdict) -> None:
    made = world()
    until(made, "monitor-health").step()
    made.verdict = verdict
    go_on(made, 10)
    assert made.step().step == "wait"
    made.now += timedelta(seconds=30)
    assert made.step().step == "roll-back"


def test_a_weight_that_cannot_be_seen_moves_nothing_else() -> None:
    made = world()
    for _ in range(60):
        made.visible = made.record.weight == 0
        made.step()
        made.let_pods_move(1)
    assert made.record.weight == 100
    assert running(made, "blue") == SIZES
    assert made.there.get(("engine", "green"), 0) == 0


def test_traffic_that_never_follows_ends_the_rollout() -> None:
    made = world()
    made.visible = False
    go_on(made, 30)
    assert (made.record.phase, made.record.weight) == ("running", 100)
    go_on(made, 61)
    assert made.record.phase == "rolling-back"
    assert made.record.reason == (
        "traffic does not follow: 100 % were requested, the share cannot be observed after 61 s"
    )


def test_traffic_that_was_seen_may_be_lost_from_sight() -> None:
    """One look that fails, long after the switch, is no reason to go back."""
    made = world()
    made.stuck = {("engine", "blue")}  # the switch takes long
    go_on(made, 90)
    assert made.record.observed == 100
    made.visible = False
    go_on(made, 5)
    assert made.record.phase == "running"
    made.visible, made.stuck = True, set()
    run(made)
    assert made.record.phase == "done"


def test_traffic_that_does_not_go_back_is_told_once_and_waited_for() -> None:
    made = world()
    while made.record.observed != 100:
        go_on(made, 1)
    made.aborted = True
    made.visible = False
    go_on(made, 200)
    assert [told.reason for told in made.told] == ["WeightUnseen"]
    assert running(made, "green"), "what may still be asked stays"
    made.visible = True
    run(made)
    assert (made.record.phase, running(made, "blue")) == ("rolled-back", SIZES)


def test_exclusive_work_that_does_not_drain_holds_and_is_told_once_before_it_is_killed() -> None:
    made = world()
    made.stuck = {("engine", "blue")}
    go_on(made, 90)
    assert made.there.get(("engine", "green"), 0) == 0
    assert decide(made.ledger, WORKS, made.observed(), made.now).step == "wait-gone"
    (told,) = made.told
    assert (told.reason, told.targets, told.colour) == ("DrainLate", {"engine": 0}, "blue")
    assert f"Kubernetes ends them by force at {told.until:%H:%M:%S}" in told.why
    (event,) = made.record.events
    assert (event.reason, event.about) == ("DrainLate", "engine/blue")
    since = datetime.fromisoformat(made.record.draining["engine/blue"])
    late = datetime.fromisoformat(event.time) - since
    assert timedelta(seconds=20) <= late < timedelta(seconds=20) + GRACE


def test_work_that_ends_late_lets_the_rollout_go_on_and_says_so() -> None:
    made = world()
    made.stuck = {("engine", "blue")}
    while not made.told:
        go_on(made, 1)
    made.stuck = set()
    run(made)
    assert [told.reason for told in made.told] == ["DrainLate", "DrainEnded"]
    assert (made.record.phase, running(made, "green")) == ("done", SIZES)


def test_work_that_was_killed_by_kubernetes_is_told_as_such() -> None:
    made = world()
    made.stuck = {("engine", "blue")}
    while not made.told:
        go_on(made, 1)
    go_on(made, 15)
    made.stuck = set()  # its grace is over: the kubelet kills it
    run(made)
    assert [told.reason for told in made.told] == ["DrainLate", "DrainKilled"]
    assert "it may be half done" in made.told[1].why


def test_requests_of_the_old_colour_that_do_not_drain_hold_the_end_of_the_clean_up() -> None:
    made = world()
    made.stuck = {("orchestrator", "blue")}
    go_on(made, 120)
    assert not made.record.finished
    assert [(told.reason, *told.targets) for told in made.told] == [("DrainLate", "orchestrator")]
    made.stuck = set()
    assert run(made).record.phase == "done"


def test_an_abort_wins_over_a_drain_that_does_not_end() -> None:
    made = world()
    made.stuck = {("engine", "blue")}
    go_on(made, 60)
    made.aborted = True
    run(made)
    assert (made.record.phase, made.edge, running(made, "blue")) == ("rolled-back", 0, SIZES)


@pytest.mark.parametrize(
    ("workers", "weight", "taken", "left"),
    [(1, 5, 1, 1), (1, 100, 1, 0), (4, 5, 1, 3), (4, 26, 2, 2), (4, 95, 4, 1), (4, 100, 4, 0)],
)
def test_workers_are_shared_in_whole_pods_and_none_is_left_at_the_end(
    workers: int, weight: int, taken: int, left: int
) -> None:
    record = replace(new_record(stable=True), replicas={"hunter": workers})
    pods: dict[tuple[str, Colour], Pods] = {("hunter", "blue"): Pods(workers, workers, workers)}
    steps: list[tuple[str, str | None, int]] = []
    while decision := share_workers(
        record, {"hunter": "worker"}, Observed(pods, weight), to="green", away="blue", weight=weight
    ):
        assert decision.colour
        number = decision.targets["hunter"]
        steps.append((decision.step, decision.colour, number))
        pods["hunter", decision.colour] = Pods(number, number, number)
    assert steps == [("scale", "green", taken), *([("scale", "blue", left)] if left < workers else [])]


def test_where_nothing_has_begun_nothing_is_decided() -> None:
    assert decide(Ledger(None), WORKS, world().observed(), world().now).step == "nothing"


def test_an_abort_before_anything_was_applied_changes_nothing() -> None:
    made = world()
    made.aborted = True
    assert [made.step().step for _ in range(3)] == ["roll-back", "rolled-back", "nothing"]


def test_a_release_without_a_way_back_waits_for_approval() -> None:
    made = world()
    made.record = replace(made.record, needs_approval="schema 2 cannot go back")
    for _ in range(60):
        made.step()
        made.let_pods_move(1)
    assert made.edge == 0
    approved = Ledger(made.record, approval=Wish("a", "", "t"))
    assert decide(approved, WORKS, made.observed(), made.now).step == "weight"


def test_the_old_colour_is_kept_through_the_whole_hold() -> None:
    made = until(world(), "cleanup-blue-environment")
    made.step()
    assert made.record.stage
    assert made.record.stage.until, "the hold has begun"
    held_until = datetime.fromisoformat(made.record.stage.until)
    while made.now < held_until:
        made.step()
        made.let_pods_move(1)
        assert made.there["orchestrator", "blue"] == SIZES["orchestrator"]
        made.now += timedelta(seconds=1)


@pytest.mark.parametrize("visible", [True, False])
def test_an_abort_after_the_old_colour_has_gone_brings_it_back_before_traffic(visible: bool) -> None:
    made = until(world(), "cleanup-blue-environment")
    while made.wanted["orchestrator", "blue"]:
        made.step()
        made.now += timedelta(seconds=1)
    made.let_pods_move(9)
    made.aborted, made.visible = True, visible
    go_on(made, 30)
    made.visible = True
    run(made)  # check() in every step: traffic never leads to a colour that is not ready
    assert (made.record.phase, made.edge, running(made, "blue")) == ("rolled-back", 0, SIZES)


@given(st.builds(new_record, stable=st.booleans()), st.integers(0, 100), st.text(max_size=20))
def test_a_record_reads_back_as_it_was_written(record: Record, weight: int, said: str) -> None:
    event = Event("t", "DrainLate", said, "engine/blue", None)
    changed = replace(
        record,
        events=(event,),
        drain_seconds=SIZES,
        draining={"engine/blue": "t"},
        weight=weight,
        said=said,
        replicas=SIZES,
        baseline={"pnl": 1.5},
        verified=("a", "b"),
    )
    assert Record.from_json(changed.to_json()) == changed


def test_a_record_of_a_newer_version_is_not_driven_and_the_error_says_so() -> None:
    document = json.loads(new_record(stable=True).to_json())
    document["stages"][0]["colour_of_the_sky"] = "blue"
    with pytest.raises(
        ForeignRecord, match=r"another version of nexus-ops .*colour_of_the_sky.* Reload the code location"
    ):
        Record.from_json(json.dumps(document))


def test_a_record_that_was_stored_before_there_were_canaries_is_still_read() -> None:
    """An upgrade in the middle of a rollout, or of a cluster whose last one was long ago."""
    document = json.loads(new_record(stable=True).to_json())
    document["stages"] = [
        {"name": stage["name"], "started": "t", "ended": None if stage["name"] == "monitor-health" else "t", "note": ""}
        for stage in document["stages"]
    ]
    document |= {"monitor_until": "2026-01-01T00:01:00+00:00", "hold_until": None}
    document["settings"] = {"monitor_seconds": 60, "hold_seconds": 120}
    record = Record.from_json(json.dumps(document))
    assert record.stage == StageState(
        "monitor-health", "bake", 100, started="t", until="2026-01-01T00:01:00+00:00", note=""
    )
    assert record.settings == Settings(monitor_seconds=60, hold_seconds=120)
