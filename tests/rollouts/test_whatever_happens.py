"""Rollouts in a model world in which anything happens at any time: what must hold, always holds, and it always ends.

Drivers crash before an act, after it and between two writes of it; ticks are lost and repeated; a driver freezes past its
lease, another one takes over, and the first one's write arrives when it wants to; looks fail, lie and contradict each
other; people abort, pause, promote and approve at any moment.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rollout_world import SIZES, TIMES, WORKS, Driver, World, run, running, world

from nexus_ops.rollouts.decision import Verdict
from nexus_ops.rollouts.record import Blame
from nexus_ops.rollouts.strategy import StrategyName

VERDICTS = st.sampled_from(["pass", "pass", "pass", "fail", "insufficient", "error"])


class AnyRollout(RuleBasedStateMachine):
    """One rollout, from its start to whatever end."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World = world()
        self.frozen: list[Driver] = []
        self.was_over = False

    @initialize(
        strategy=st.sampled_from(["blue-green", "canary", "canary"]),
        stable=st.booleans(),
        gates=st.sets(st.sampled_from(["canary-10", "canary-50", "switch-traffic", "monitor-health"]), max_size=1),
        logs=st.sampled_from([0, 10]),
        least=st.sampled_from([0, 50]),
        schema=st.sampled_from(["", "", "no way back"]),
    )
    def begin(self, strategy: StrategyName, stable: bool, gates: set[str], logs: int, least: int, schema: str) -> None:
        # A first install is blue-green, as `plan_rollout` has it: there is nothing with which it could share.
        chosen: StrategyName = strategy if stable else "blue-green"
        times = replace(TIMES, strategy=chosen, gates=tuple(gates), logs_seconds=logs, min_requests=least)
        self.world = world(stable=stable, times=times)
        self.world.record = replace(self.world.record, needs_approval=schema)

    # ------------------------------------------------------------------ drivers

    @rule(steps=st.integers(1, 12), pods=st.integers(0, 4))
    def drive(self, steps: int, pods: int) -> None:
        for _ in range(steps):
            self.world.step()
            self.world.let_pods_move(pods)
            self.world.now += timedelta(seconds=1)

    @rule(steps=st.integers(10, 90))
    def go_far(self, steps: int) -> None:
        """Time enough for a stage or two, or three, so that the late ones are reached in many of the examples."""
        for _ in range(steps):
            if self.world.decision().step == "approve":
                self.world.approve()
            self.world.step()
            self.world.let_pods_move(2)
            self.world.now += timedelta(seconds=1)

    @rule(crash=st.sampled_from(["before", "after", "between"]))
    def crash(self, crash: str) -> None:
        self.world.step(crash)
        self.world.take_over()

    @rule()
    def take_over(self) -> None:
        """An expired lease, or a second tick at once."""
        self.world.take_over()

    @rule()
    def freeze(self) -> None:
        self.frozen.append(self.world.freeze())

    @precondition(lambda self: self.frozen)
    @rule(number=st.integers(0, 9))
    def thaw(self, number: int) -> None:
        self.world.arrive(self.frozen.pop(number % len(self.frozen)))

    # ------------------------------------------------------------------ the world

    @rule(pods=st.integers(0, 4), seconds=st.integers(0, 30))
    def time_passes(self, pods: int, seconds: int) -> None:
        self.world.let_pods_move(pods)
        self.world.now += timedelta(seconds=seconds)

    @rule(
        verdict=VERDICTS,
        blames=st.sampled_from([None, "release", "platform"]),
        requests=st.sampled_from([None, 0, 900]),
    )
    def judge(self, verdict: Verdict, blames: Blame | None, requests: float | None) -> None:
        self.world.verdict, self.world.blames, self.world.requests = verdict, blames, requests

    @rule(visible=st.booleans(), healthy=st.booleans())
    def look(self, visible: bool, healthy: bool) -> None:
        self.world.visible, self.world.healthy = visible, healthy

    @rule(component=st.sampled_from(list(SIZES)), colour=st.sampled_from(["blue", "green"]), stuck=st.booleans())
    def drain(self, component: str, colour: str, stuck: bool) -> None:
        key = (component, colour)
        self.world.stuck = (self.world.stuck | {key}) if stuck else (self.world.stuck - {key})  # type: ignore[operator]

    # ------------------------------------------------------------------ people

    @rule()
    def abort(self) -> None:
        self.was_over = self.world.record.finished
        self.world.abort = self.world.abort or self.world.wish()

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.world.pause = self.world.wish() if paused else None

    @rule()
    def promote(self) -> None:
        self.world.promotion = self.world.wish()

    @rule()
    def approve(self) -> None:
        self.world.approve()

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def safe(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """When all is well again, and people let it go on, it ends, and where it should."""
        made = self.world
        made.verdict, made.visible, made.healthy, made.requests = "pass", True, True, 900
        made.stuck, made.pause = set(), None
        while self.frozen:
            made.arrive(self.frozen.pop())
        for _ in range(20):
            if made.record.finished:
                break
            if made.decision().step == "approve":
                made.approve()
            for _ in range(30):
                made.step()
                made.let_pods_move(1)
                made.now += timedelta(seconds=1)
        run(made)
        if made.abort is not None and not self.was_over:
            assert made.edge == 0 or made.record.phase == "done", "an abort ends without traffic"
            assert made.record.phase == "rolled-back"
        if made.record.phase == "rolled-back":
            assert made.edge == 0
            if made.record.stable:
                assert running(made, "blue") == SIZES
        else:
            assert made.edge == 100
            assert running(made, made.record.candidate.colour) == SIZES
            assert set(made.record.verified) == set(WORKS), "all that serves has been asked"


TestAnyRollout = AnyRollout.TestCase
TestAnyRollout.settings = settings(max_examples=400, stateful_step_count=40, deadline=None)
