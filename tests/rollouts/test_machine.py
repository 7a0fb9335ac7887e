"""The rollout machine in a model world that crashes, repeats, lies and is aborted: what must hold, always holds."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_ops.rollouts.machine import Decision, Observed, Pods, Verdict, decide
from nexus_ops.rollouts.record import Copy, Ledger, Record, StageState, Wish
from nexus_ops.rollouts.strategy import BLUE_GREEN, Settings
from nexus_ops.topology import COLOURS, Colour, Work, other

WORKS: dict[str, Work] = {"orchestrator": "request", "hunter": "worker", "engine": "exclusive"}
SIZES = {"orchestrator": 3, "hunter": 2, "engine": 2}
START = datetime(2026, 1, 1, tzinfo=UTC)


def new_record(*, stable: bool) -> Record:
    """A rollout that has just been started: green over blue, or blue over nothing."""
    return Record(
        id="r1",
        cluster="c",
        actor="a",
        started=START.isoformat(),
        settings=Settings(monitor_seconds=5, hold_seconds=5, insufficient_seconds=20),
        candidate=Copy("green" if stable else "blue", "v2", "new"),
        stable=Copy("blue", "v1", "old") if stable else None,
        stages=tuple(StageState(name) for name in BLUE_GREEN),
    )


@dataclass
class World:
    """A cluster in which pods come and go at their own pace, and a driver that carries out decisions."""

    record: Record
    now: datetime = START
    aborted: bool = False
    wanted: dict[tuple[str, Colour], int] = field(default_factory=dict)
    there: dict[tuple[str, Colour], int] = field(default_factory=dict)
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
            key: Pods(self.wanted.get(key, 0), self.ready(key), self.there.get(key, 0))
            for key in {*self.wanted, *self.there}
        }
        return Observed(pods, self.edge if self.visible else None, self.verdict)

    def ready(self, key: tuple[str, Colour]) -> int:
        if key[1] == self.record.candidate.colour and not self.healthy:
            return 0
        return min(self.wanted.get(key, 0), self.there.get(key, 0))

    def let_pods_move(self, steps: int) -> None:
        """Some pods start, some leave; a leaving one is there until it is gone."""
        for key in {*self.wanted, *self.there}:
            gap = self.wanted.get(key, 0) - self.there.get(key, 0)
            self.there[key] = self.there.get(key, 0) + max(-steps, min(steps, gap))

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
            return replace(record, replicas=dict(SIZES))
        if decision.step == "apply":
            return replace(record, applied=True)
        if decision.step == "smoke":
            return replace(record, verified=tuple({*record.verified, *decision.targets}))
        if decision.step == "weight":
            return replace(record, weight=decision.weight or 0)
        if decision.step == "monitor" and decision.stage == "monitor-health":
            return replace(record, monitor_until=(self.now + timedelta(seconds=5)).isoformat())
        if decision.step == "monitor":
            return replace(record, hold_until=(self.now + timedelta(seconds=5)).isoformat())
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
    while made.record.monitor_until is None:
        made.step()
        made.let_pods_move(1)
        made.now += timedelta(seconds=1)
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


def test_exclusive_work_waits_for_a_drain_that_does_not_end() -> None:
    made = world()
    for _ in range(120):
        made.step()
        stuck = made.there.get(("engine", "blue"), 0)
        made.let_pods_move(1)
        made.there["engine", "blue"] = max(stuck, 1)
    assert made.there.get(("engine", "green"), 0) == 0
    assert decide(made.ledger, WORKS, made.observed(), made.now).step == "wait-gone"


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
    while made.record.hold_until is None:
        made.step()
    held_until = datetime.fromisoformat(made.record.hold_until)
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
    changed = replace(record, weight=weight, said=said, replicas=SIZES, baseline={"pnl": 1.5}, verified=("a", "b"))
    assert Record.from_json(changed.to_json()) == changed
