"""A model of a cluster in which rollouts are driven: pods come and go at their own pace, the edge follows or does not,
an autoscaler keeps its floors, every object has a fence and a version, and drivers crash, freeze and come too late."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from nexus_ops.rollouts.decision import Decision, Observed, Pods, Verdict
from nexus_ops.rollouts.machine import decide
from nexus_ops.rollouts.record import Blame, Copy, Event, Ledger, Record, StageState, Wish, draining_key
from nexus_ops.rollouts.strategy import Settings, stages_of
from nexus_ops.topology import COLOURS, Colour, Work, other

WORKS: dict[str, Work] = {"orchestrator": "request", "hunter": "worker", "engine": "exclusive"}
DRAINS = {"orchestrator": 5, "hunter": 5, "engine": 20}
GRACE = timedelta(seconds=10)
"""How long after a component's own time Kubernetes waits before it ends a pod by force."""
SIZES = {"orchestrator": 3, "hunter": 4, "engine": 2}
START = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = Settings(monitor_seconds=5, hold_seconds=5, bake_seconds=5, insufficient_seconds=20, error_seconds=15)
CANARY_TIMES = replace(TIMES, strategy="canary")
Key = tuple[str, Colour]


class Overtaken(Exception):
    """A write was refused: the object has a higher fence, or is not what was read any more."""


def new_record(*, stable: bool, times: Settings = TIMES) -> Record:
    """A rollout that has just been started: green over blue, or blue over nothing."""
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
class Driver:
    """Somebody who drives: the token of his lease, and a write that is on its way."""

    token: int
    on_its_way: Decision | None = None
    versions: dict[Key | str, int] = field(default_factory=dict)
    """What he had read of the objects that the write is about."""


@dataclass
class World:
    """A cluster, the rollout on it, and what people have asked of it."""

    record: Record
    now: datetime = START
    abort: Wish | None = None
    pause: Wish | None = None
    promotion: Wish | None = None
    approval: Wish | None = None
    wanted: dict[Key, int] = field(default_factory=dict)
    there: dict[Key, int] = field(default_factory=dict)
    floors: dict[Key, int] = field(default_factory=dict)
    """Of the workers' autoscalers."""
    leaving: dict[Key, datetime] = field(default_factory=dict)
    """Since when pods have been leaving."""
    stuck: set[Key] = field(default_factory=set)
    """Components of which one pod has begun something that does not end."""
    told: list[Decision] = field(default_factory=list)
    edge: int = 0
    """The candidate's share of traffic that the gateway really has."""
    healthy: bool = True
    visible: bool = True
    verdict: Verdict = "pass"
    blames: Blame | None = None
    requests: float | None = 1000
    driver: Driver = field(default_factory=lambda: Driver(1))
    fences: dict[Key | str, int] = field(default_factory=dict)
    versions: dict[Key | str, int] = field(default_factory=dict)

    # ------------------------------------------------------------------ what people ask

    @property
    def aborted(self) -> bool:
        return self.abort is not None

    @aborted.setter
    def aborted(self, asked: bool) -> None:
        self.abort = self.wish() if asked else None

    def wish(self, about: str = "") -> Wish:
        return Wish("somebody", "a hunch", self.now.isoformat(), about)

    def approve(self) -> None:
        """As the job does: for the stage that runs."""
        self.approval = self.wish(self.record.stage.name if self.record.stage else "")

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.record, self.abort, self.approval, self.pause, self.promotion)

    # ------------------------------------------------------------------ what is seen

    def observed(self) -> Observed:
        pods = {
            key: Pods(self.wanted.get(key, 0), self.ready(key), self.there.get(key, 0), self.killed_at(key))
            for key in {*self.wanted, *self.there}
        }
        serves = self.record.phase == "running" and self.record.weight > 0
        weight = self.edge if self.visible else None
        if not serves:
            return Observed(pods, weight)
        return Observed(pods, weight, self.verdict, "as the test says", self.blames, self.requests)

    def decision(self) -> Decision:
        return decide(self.ledger, WORKS, self.observed(), self.now)

    def ready(self, key: Key) -> int:
        if key[1] == self.record.candidate.colour and not self.healthy:
            return 0
        return min(self.wanted.get(key, 0), self.there.get(key, 0))

    def killed_at(self, key: Key) -> datetime | None:
        since = self.leaving.get(key)
        return since + timedelta(seconds=DRAINS[key[0]]) + GRACE if since and self.there.get(key, 0) else None

    # ------------------------------------------------------------------ what happens by itself

    def let_pods_move(self, steps: int) -> None:
        """Some pods start, some leave; a leaving one is there until it is gone. Autoscalers keep their floors."""
        for key, floor in self.floors.items():
            if 0 < self.wanted.get(key, 0) < floor:
                self.wanted[key] = floor
        for key in {*self.wanted, *self.there}:
            there, gap = self.there.get(key, 0), self.wanted.get(key, 0) - self.there.get(key, 0)
            if gap < 0:
                self.leaving.setdefault(key, self.now)
            self.there[key] = there + max(-steps, min(steps, gap))
            if key in self.stuck and gap < 0:
                self.there[key] = max(1, self.there[key])

    # ------------------------------------------------------------------ drivers

    def take_over(self) -> None:
        """A new driver: his fence goes on the record, on what is routed, and on exclusive work once that may have moved."""
        self.driver = Driver(self.driver.token + 1)
        if self.record.finished:
            return
        self.write("record")
        if self.record.applied:
            self.write("edge")
            back = self.record.phase == "rolling-back"
            self.move_edge(min(self.record.weight, self.edge) if back else self.record.weight)
            for key in self.exclusive() if self.record.may_have_handed_over else ():
                self.write(key)

    def exclusive(self) -> list[Key]:
        return [key for key in self.wanted if WORKS[key[0]] == "exclusive"]

    def write(self, name: Key | str, driver: Driver | None = None, read: int | None = None) -> None:
        """One write to an object, refused under a lower fence, or against a version that it is not any more."""
        token = (driver or self.driver).token
        if self.fences.get(name, 0) > token or (read is not None and read != self.versions.get(name, 0)):
            raise Overtaken
        self.fences[name] = token
        self.versions[name] = self.versions.get(name, 0) + 1

    def touched(self, decision: Decision) -> list[Key | str]:
        """The objects that a decision's step writes, the record left out."""
        if decision.step == "scale" and decision.colour:
            return [(name, decision.colour) for name in decision.targets]
        return ["edge"] if decision.step == "weight" else []

    def freeze(self) -> Driver:
        """The driver stands still with a write on its way; another one takes over when the lease has run out."""
        frozen, decision = self.driver, self.decision()
        frozen.on_its_way = decision
        frozen.versions = {name: self.versions.get(name, 0) for name in self.touched(decision)}
        self.take_over()
        return frozen

    def arrive(self, frozen: Driver) -> None:
        """That write arrives; whatever its driver would do next he finds that he was overtaken."""
        decision, frozen.on_its_way = frozen.on_its_way, None
        for name in self.touched(decision) if decision else ():
            try:
                self.write(name, frozen, frozen.versions[name])
            except Overtaken:
                continue
            assert decision
            self.act(replace(decision, targets={name[0]: decision.targets[name[0]]}) if name != "edge" else decision)

    def step(self, crash: str = "") -> Decision:
        """What the driver does next. `crash`: before or after the act (the record stays as it was), or between two writes."""
        decision = self.decision()
        if crash == "before":
            return decision
        if decision.step == "tell":
            self.told.append(decision)
        for name in self.touched(decision):
            self.write(name)
        if decision.step == "scale" and crash == "between":
            targets = dict(list(decision.targets.items())[:1])
            self.act(replace(decision, targets=targets))
        else:
            self.act(decision)
            if not crash:
                self.write("record")
                self.record = self.written(decision)
        self.check()
        return decision

    def act(self, decision: Decision) -> None:
        """What a step changes in the cluster."""
        if decision.step == "scale" and decision.colour:
            for name, number in decision.targets.items():
                self.wanted[name, decision.colour] = number
                if number and WORKS[name] == "worker":
                    self.floors[name, decision.colour] = number
        elif decision.step == "apply" and decision.colour:
            for name, work in WORKS.items():
                self.wanted.setdefault((name, decision.colour), SIZES[name] if work == "request" else 0)
                if work == "worker":  # the rollout pins both colours' floors at the size of the one that serves
                    self.floors |= {(name, colour): SIZES[name] for colour in COLOURS}
        elif decision.step == "weight":
            self.move_edge(decision.weight or 0)

    def move_edge(self, weight: int) -> None:
        before, self.edge = self.edge, weight
        gains: list[Colour] = [self.record.candidate.colour] if weight > before else []
        if weight < before and self.record.stable:
            gains = [self.record.stable.colour]
        for colour in gains:
            assert self.ready(("orchestrator", colour)) >= SIZES["orchestrator"], (
                f"{colour} gets traffic, and is not ready"
            )

    def written(self, decision: Decision) -> Record:
        """The record as a driver writes it after a step."""
        record, now, stage = self.record, self.now.isoformat(), self.record.stage
        match decision.step:
            case "validate":
                return replace(record, replicas=dict(SIZES), drain_seconds=dict(DRAINS))
            case "wait-gone" if decision.colour:
                since = {draining_key(name, decision.colour): now for name in decision.targets}
                return replace(record, draining={**since, **record.draining})
            case "tell" if decision.reason:
                until = decision.until.isoformat() if decision.until else None
                about = ", ".join(draining_key(name, decision.colour or "green") for name in decision.targets)
                event = Event(now, decision.reason, decision.why, about, until)
                return replace(record, events=(*record.events, event))
            case "apply":
                return replace(record, applied=True)
            case "smoke":
                return replace(record, verified=tuple({*record.verified, *decision.targets}))
            case "weight":
                return replace(record, weight=decision.weight or 0, weight_since=now, observed=None)
            case "observe-weight" if self.visible and self.edge == decision.weight:
                return replace(record, observed=decision.weight)
            case "monitor" if stage:
                until = self.now + timedelta(seconds=stage.bake_seconds)
                return record.with_stage(stage.name, until=until.isoformat())
            case "unmeasured":
                return replace(record, unmeasured_since=now)
            case "measured":
                return replace(record, unmeasured_since=None)
            case "restore":
                return replace(record, restored=True)
            case "keep-logs":
                until = self.now + timedelta(seconds=record.settings.logs_seconds)
                return replace(record, logs_until=until.isoformat())
            case "end-stage" if decision.stage:
                return record.with_stage(decision.stage, ended=now)
            case "roll-back":
                event = Event(now, "RolledBack", decision.why)
                events = (*record.events, event)
                return replace(record, phase="rolling-back", reason=decision.why, blames=decision.blames, events=events)
            case "complete":
                return replace(record, phase="done")
            case "rolled-back":
                return replace(record, phase="rolled-back")
            case _:
                return record

    # ------------------------------------------------------------------ what must hold

    def check(self) -> None:
        """What must hold at every moment."""
        assert 0 <= self.edge <= 100
        for name, work in WORKS.items():
            if work == "exclusive":
                both = [colour for colour in COLOURS if self.there.get((name, colour), 0) > 0]
                assert len(both) < 2, f"{name} runs in both colours"
        new = self.record.candidate.colour
        serving: list[Colour] = [new] if self.edge else []
        if self.record.stable and self.edge < 100:
            serving.append(other(new))
        for colour in serving:
            why = f"{colour} has traffic and is scaled down"
            assert self.wanted.get(("orchestrator", colour), 0) >= SIZES["orchestrator"], why
        if self.record.stable:
            workers = sum(self.wanted.get(("hunter", colour), 0) for colour in COLOURS)
            assert workers >= SIZES["hunter"], "there are fewer workers than before"
            if not self.is_over_the_hill():
                assert self.wanted["orchestrator", other(new)] >= SIZES["orchestrator"], "the stable copy has lost pods"

    def is_over_the_hill(self) -> bool:
        """Whether 100 % has been observed and baked: only then the stable copy may go."""
        return self.record.ended("monitor-health")


def world(*, stable: bool = True, times: Settings = TIMES) -> World:
    made = World(new_record(stable=stable, times=times))
    if stable:
        for name, number in SIZES.items():
            made.wanted[name, "blue"] = made.there[name, "blue"] = number
    return made


def canary(**changes: object) -> World:
    """A canary whose settings differ so."""
    return world(times=replace(CANARY_TIMES, **changes))  # pyright: ignore[reportArgumentType]


def go_on(made: World, seconds: int) -> World:
    """Steps of a driver for so long."""
    for _ in range(seconds):
        made.step()
        made.let_pods_move(1)
        made.now += timedelta(seconds=1)
    return made


def run(made: World, most: int = 600) -> World:
    """Steps of a driver that is left alone, until the rollout is over."""
    for _ in range(most):
        go_on(made, 1)
        if made.record.finished:
            return made
    raise AssertionError(f"it does not end: {made.decision().why}: {made.record}")


def until(made: World, stage: str) -> World:
    """Run until a stage begins."""
    for _ in range(400):
        if made.record.stage is not None and made.record.stage.name == stage:
            return made
        go_on(made, 1)
    raise AssertionError(f"{stage} does not begin: {made.decision().why}")


def running(made: World, colour: Colour) -> dict[str, int]:
    return {name: made.there.get((name, colour), 0) for name in WORKS}


def edges(made: World, seconds: Iterable[int]) -> list[int]:
    """The candidate's share after each second, one after the other, without what repeats."""
    seen: list[int] = []
    for _ in seconds:
        go_on(made, 1)
        if not seen or seen[-1] != made.edge:
            seen.append(made.edge)
        if made.record.finished:
            break
    return seen
