"""The rollout machine in a model world that crashes, repeats, lies and is aborted: what must hold, always holds."""

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_ops.rollouts.machine import Decision, Observed, Pods, Verdict, decide
from nexus_ops.rollouts.record import Copy, Event, Ledger, Record, StageState, Wish, draining_key
from nexus_ops.rollouts.strategy import Settings, stages_of
from nexus_ops.topology import COLOURS, Colour, Work, other

WORKS: dict[str, Work] = {"orchestrator": "request", "hunter": "worker", "engine": "exclusive"}
DRAINS = {"orchestrator": 5, "hunter": 5, "engine": 20}
GRACE = timedelta(seconds=10)
"""How long after a component's own time Kubernetes waits before it ends a pod by force."""
SIZES = {"orchestrator": 3, "hunter": 2, "engine": 2}
START = datetime(2026, 1, 1, tzinfo=UTC)


def new_record(*, stable: bool) -> Record:
    """A rollout that has just been started: green over blue, or blue over nothing."""
    times = Settings(monitor_seconds=5, hold_seconds=5, insufficient_seconds=20)
    return Record(
        id="r1",
        cluster="c",
        actor="a",
        started=START.isoformat(),
        settings=times,
        candidate=Copy("green" if stable else "blue", "v2", "new"),
        stable=Copy("blue", "v1", "old") if stable else None,
        stages=tuple(StageState.of(stage) for stage in stages_of(times)),
    )


@dataclass
class World:
    """A cluster in which pods come and go at their own pace, and a driver that carries out decisions."""

    record: Record
    now: datetime = START
    aborted: bool = False
    wanted: dict[tuple[str, Colour], int] = field(default_factory=dict)
    there: dict[tuple[str, Colour], int] = field(default_factory=dict)
    leaving: dict[tuple[str, Colour], datetime] = field(default_factory=dict)
    """Since when pods have been leaving."""
    stuck: set[tuple[str, Colour]] = field(default_factory=set)
    """Components of which one pod has begun something that does not end."""
    told: list[Decision] = field(default_factory=list)
    edge: int = 0
    """The candidate's share of traffic that the gateway really has."""
    healthy: bool = True
    visible: bool = True
    verdict: Verdict = "pass"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.record, Wish("a", "b", "c") if self.aborted else None)

    def observed(self) -> Observed:
        pods = {
            key: Pods(self.wanted.get(key, 0), self.ready(key), self.there.get(key, 0), self.killed_at(key))
            for key in {*self.wanted, *self.there}
        }
        return Observed(pods, self.edge if self.visible else None, self.verdict)

    def ready(self, key: tuple[str, Colour]) -> int:
        if key[1] == self.record.candidate.colour and not self.healthy:
            return 0
        return min(self.wanted.get(key, 0), self.there.get(key, 0))

    def killed_at(self, key: tuple[str, Colour]) -> datetime | None:
        since = self.leaving.get(key)
        return since + timedelta(seconds=DRAINS[key[0]]) + GRACE if since and self.there.get(key, 0) else None

    def let_pods_move(self, steps: int) -> None:
        """Some pods start, some leave; a leaving one is there until it is gone."""
        for key in {*self.wanted, *self.there}:
            there, gap = self.there.get(key, 0), self.wanted.get(key, 0) - self.there.get(key, 0)
            if gap < 0:
                self.leaving.setdefault(key, self.now)
            self.there[key] = there + max(-steps, min(steps, gap))
            if key in self.stuck and gap < 0:
                self.there[key] = max(1, self.there[key])

    def carry_out(self, decision: Decision, crash: str) -> None:
        """Act, then write the record; a driver that crashes before or after the act leaves the record as it was."""
        if crash == "before":
            return
        if decision.step == "scale" and decision.colour:
            for name, number in decision.targets.items():
                self.wanted[name, decision.colour] = number
        elif decision.step == "apply" and decision.colour:
            for name, work in WORKS.items():
                self.wanted.setdefault((name, decision.colour), SIZES[name] if work == "request" else 0)
        elif decision.step == "weight":
            self.edge = decision.weight or 0
        if crash != "after":
            self.record = self.written(decision)

    def written(self, decision: Decision) -> Record:
        """The record as a driver writes it after a step."""
        record = self.record
        if decision.step == "validate":
            return replace(record, replicas=dict(SIZES), drain_seconds=dict(DRAINS))
        if decision.step == "wait-gone" and decision.colour:
            since = {draining_key(name, decision.colour): self.now.isoformat() for name in decision.targets}
            return replace(record, draining={**since, **record.draining})
        if decision.step == "tell" and decision.reason:
            until = decision.until.isoformat() if decision.until else None
            about = ", ".join(draining_key(name, decision.colour or "green") for name in decision.targets)
            event = Event(self.now.isoformat(), decision.reason, decision.why, about, until)
            return replace(record, events=(*record.events, event))
        if decision.step == "apply":
            return replace(record, applied=True)
        if decision.step == "smoke":
            return replace(record, verified=tuple({*record.verified, *decision.targets}))
        if decision.step == "weight":
            return replace(record, weight=decision.weight or 0, weight_since=self.now.isoformat(), observed=None)
        if decision.step == "observe-weight" and self.visible and self.edge == decision.weight:
            return replace(record, observed=decision.weight)
        if decision.step == "monitor" and record.stage:
            until = self.now + timedelta(seconds=record.stage.bake_seconds)
            return record.with_stage(record.stage.name, until=until.isoformat())
        if decision.step == "end-stage" and decision.stage:
            return record.with_stage(decision.stage, ended=self.now.isoformat())
        if decision.step == "roll-back":
            return replace(record, phase="rolling-back", reason=decision.why)
        if decision.step == "complete":
            return replace(record, phase="done")
        if decision.step == "rolled-back":
            return replace(record, phase="rolled-back")
        return record

    def check(self) -> None:
        """What must hold at every moment."""
        for name, work in WORKS.items():
            if work == "exclusive":
                both = [colour for colour in COLOURS if self.there.get((name, colour), 0) > 0]
                assert len(both) < 2, f"{name} runs in both colours"
        serving = self.record.candidate.colour if self.edge else None
        if self.record.stable and not self.edge:
            serving = self.record.stable.colour
        if serving:
            assert self.wanted.get(("orchestrator", serving), 0) >= SIZES["orchestrator"], (
                "traffic leads to a colour that is scaled down"
            )

    def step(self, crash: str = "") -> Decision:
        decision = decide(self.ledger, WORKS, self.observed(), self.now)
        before = self.edge
        if decision.step == "tell":
            self.told.append(decision)
        self.carry_out(decision, crash)
        if self.edge != before:
            target = self.record.candidate.colour if self.edge else other(self.record.candidate.colour)
            if self.edge or self.record.stable:
                assert self.ready(("orchestrator", target)) >= SIZES["orchestrator"], (
                    "traffic moved to a colour that is not ready"
                )
        self.check()
        return decision


def world(*, stable: bool = True) -> World:
    made = World(new_record(stable=stable))
    if stable:
        for name, number in SIZES.items():
            made.wanted[name, "blue"] = made.there[name, "blue"] = number
    return made


def run(made: World, most: int = 400) -> World:
    """Steps of a driver that is left alone, until the rollout is over."""
    for _ in range(most):
        made.step()
        made.let_pods_move(1)
        made.now += timedelta(seconds=1)
        if made.record.finished:
            return made
    raise AssertionError(f"it does not end: {made.record}")


def running(made: World, colour: Colour) -> dict[str, int]:
    return {name: made.there.get((name, colour), 0) for name in WORKS}


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
    made.verdict = verdict
    until(made, "monitor-health").step()
    made.now += timedelta(seconds=10)
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


def go_on(made: World, seconds: int) -> World:
    """Steps of a driver for so long."""
    for _ in range(seconds):
        made.step()
        made.let_pods_move(1)
        made.now += timedelta(seconds=1)
    return made


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


def test_a_release_without_a_way_back_waits_for_approval() -> None:
    made = world()
    made.record = replace(made.record, needs_approval="schema 2 cannot go back")
    for _ in range(60):
        made.step()
        made.let_pods_move(1)
    assert made.edge == 0
    approved = Ledger(made.record, approval=Wish("a", "", "t"))
    assert decide(approved, WORKS, made.observed(), made.now).step == "weight"


def until(made: World, stage: str) -> World:
    """Run until a stage begins."""
    while made.record.stage is None or made.record.stage.name != stage:
        made.step()
        made.let_pods_move(1)
        made.now += timedelta(seconds=1)
    return made


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


def test_an_abort_after_the_old_colour_has_gone_brings_it_back_before_traffic() -> None:
    made = until(world(), "cleanup-blue-environment")
    while made.wanted["orchestrator", "blue"]:
        made.step()
        made.now += timedelta(seconds=1)
    made.let_pods_move(9)
    made.aborted = True
    run(made)  # check() in every step: traffic never leads to a colour that is not ready
    assert (made.record.phase, made.edge, running(made, "blue")) == ("rolled-back", 0, SIZES)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "", "before", "after"]),
        st.integers(0, 3),
        st.integers(0, 4),
        st.sampled_from(["pass", "pass", "fail", "insufficient", "error"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=80,
)


@settings(max_examples=400, deadline=None)
@given(MOVES, st.integers(0, 90), st.booleans())
def test_whatever_happens_it_stays_safe_and_ends(
    moves: list[tuple[str, int, int, Verdict, bool, bool]], abort_at: int, stable: bool
) -> None:
    made = world(stable=stable)
    for number, (crash, pods, seconds, verdict, visible, healthy) in enumerate(moves):
        made.aborted = made.aborted or number == abort_at
        made.verdict, made.visible, made.healthy = verdict, visible, healthy
        made.step(crash)
        made.let_pods_move(pods)
        made.check()
        made.now += timedelta(seconds=seconds)
    made.verdict, made.visible, made.healthy = "pass", True, True
    over_before = made.record.finished
    run(made)
    if made.aborted and not over_before and made.record.phase != "done":
        assert made.edge == 0
    if made.record.phase == "rolled-back" and stable:
        assert (made.edge, running(made, "blue")) == (0, SIZES)


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
