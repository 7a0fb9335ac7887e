"""Carrying a rollout out: observe, decide, act, write the record; again, until it has to wait.

A run advances as far as it can go and ends; the rollout's sensor starts the next one. Every step is idempotent, and the
record is written after it, so that a driver may be killed or frozen at any line: the next one takes the lease, stamps its
fence first, and comes by `decide` to the same step.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from nexus_ops.clusters.errors import FenceLost
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.clusters.readiness import wait_ready
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.rollouts.applying import apply_candidate, at_once, drain_seconds_of, free_floors, pin_floors, sizes_of
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.evidence import keep_evidence
from nexus_ops.rollouts.machine import Decision, Pods, decide
from nexus_ops.rollouts.monitor import Health, guardrails_of, platform_values
from nexus_ops.rollouts.observe import observe, observe_pods
from nexus_ops.rollouts.plan import read_ledger
from nexus_ops.rollouts.prerequisites import check_prerequisites
from nexus_ops.rollouts.record import NAME, Event, Reason, Record, draining_key
from nexus_ops.rollouts.routers import TrafficRouter, router_of
from nexus_ops.rollouts.smoke import FILE, ask, read_questions
from nexus_ops.topology import project_folder

LEASE = "rollout"
LOOK_AGAIN = 0.3
"""Seconds between looks at what is expected in a moment (a route, pods that leave)."""
LOOK_UP = 3.0
"""Seconds after which a long wait is decided anew: an abort may have come, a deadline may have passed."""
NOTICES: dict[Reason, str] = {
    "DrainLate": "old pods take too long to drain",
    "DrainEnded": "old pods have drained",
    "DrainKilled": "old pods were ended by force",
    "WeightUnseen": "traffic does not follow",
    "Blocked": "the rollout cannot go on by itself",
}


@dataclass(frozen=True)
class Advance:
    """Where a rollout stands when a driver is done with it."""

    state: Literal["waiting", "done", "rolled-back", "stage-done", "nothing"]
    record: Record | None
    why: str
    until: datetime | None = None


class Failed(PermanentError):
    """A step that will not succeed by itself: the rollout goes back."""


class Driver:
    """Advances the rollout of one cluster under a lease."""

    def __init__(self, context: RolloutContext, fenced: Fenced, router: TrafficRouter, patience: timedelta) -> None:
        self.context = context
        self.fenced = fenced
        self.router = router
        self.patience = patience
        self.deadline = context.clock() + patience
        self._verdict: tuple[str, Health] | None = None
        """A verdict whose evidence is still to be stored, and of which stage."""

    def run(self, until_stage: str | None) -> Advance:
        """Advance until a stage is over, or as far as can be gone without waiting long."""
        self._stamp()
        while True:
            ledger = read_ledger(self.context)
            record = ledger.record
            if record is None:
                return Advance("nothing", None, "no rollout has begun")
            if record.finished:
                return Advance(
                    "done" if record.phase == "done" else "rolled-back", record, record.reason or record.said
                )
            # The last stage ends with the rollout itself: there is no later driver to close the record.
            if (
                until_stage not in (None, record.stages[-1].name)
                and record.phase == "running"
                and record.ended(until_stage)
            ):
                return Advance("stage-done", record, f"{until_stage} is done")
            works = self.context.works(record.candidate.release)
            observed, health = observe(self.context, record, self.router)
            decision = decide(ledger, works, observed, self.context.clock())
            record = self._keep_evidence(record, decision, health)
            if waiting := self._act(record, decision):
                return waiting

    def _act(self, record: Record, decision: Decision) -> Advance | None:
        """Carry one decision out; an answer when the driver has to stop here."""
        if decision.why != record.said:
            self.context.report(f"[{record.stage.name if record.stage else record.phase}] {decision.why}")
            record = self._write(lambda current: replace(current, said=decision.why))
        if decision.step in ("wait", "approve"):
            return self._wait(record, decision)
        try:
            return self._STEPS[decision.step](self, record, decision)
        except FenceLost:
            raise
        except PermanentError as error:
            if record.phase == "rolling-back":
                why = f"the way back is blocked: {error}"
                return Advance("waiting", self._tell_once(record, decision, why), why)
            self._roll_back(record, Decision("roll-back", str(error)))
            return None
        except OperationError:
            raise  # it may pass by itself: the sensor's next run tries again
        except Exception as error:
            # A mistake of ours. Its words may hold anything, so only its kind is told; the run's log has the rest.
            self._tell_once(
                record, decision, f"the step {decision.step} broke ({type(error).__name__}): see the log of its run"
            )
            raise

    # ------------------------------------------------------------------ steps

    def _validate(self, record: Record, decision: Decision) -> None:
        del decision
        context = self.context
        checks = check_prerequisites(
            context,
            context.release(record.candidate.release),
            candidate=record.candidate.colour,
            adopt=record.settings.adopt,
        )
        for check in checks:
            context.report(
                f"  {'ok  ' if not check.problem else 'FAIL'} {check.name} {check.problem or check.note}".rstrip()
            )
        if problems := [check.problem for check in checks if check.problem]:
            raise Failed(f"prerequisites are missing: {' '.join(problems)}", target=context.cluster.name)
        sizes, drains = sizes_of(context, record), drain_seconds_of(context, record)
        rules = guardrails_of(context.rendering(record.candidate.release, "shared"))
        baseline = platform_values(context, rules)
        self._write(
            lambda current: replace(current, replicas=sizes, drain_seconds=drains, guardrails=rules, baseline=baseline)
        )

    def _apply(self, record: Record, decision: Decision) -> None:
        del decision
        apply_candidate(self.context, self.fenced, record)
        shared = self.context.rendering(record.candidate.release, "shared")
        self.router.set_weight(self.fenced, shared, record.candidate.colour, record.weight)
        pin_floors(self.context, self.fenced, record)
        self._write(lambda current: replace(current, applied=True))

    def _scale(self, record: Record, decision: Decision) -> None:
        del record
        for name, number in decision.targets.items():
            self.context.report(f"  {name} ({decision.colour}): {number} pods")
        space = self.context.cluster.namespace
        at_once(
            lambda name: self.fenced.scale(f"{name}-{decision.colour}", space, decision.targets[name]), decision.targets
        )

    def _wait_ready(self, record: Record, decision: Decision) -> Advance | None:
        namespace = self.context.cluster.namespace
        wanted = {f"{name}-{decision.colour}": number for name, number in decision.targets.items()}
        late = wait_ready(self.context.client, namespace, wanted, seconds=min(self._left(), LOOK_UP))
        if not late:
            return None
        stage = record.stage
        began = datetime.fromisoformat(stage.started) if stage and stage.started else self.context.clock()
        if (self.context.clock() - began).total_seconds() > record.settings.ready_seconds and record.phase == "running":
            raise Failed(f"not ready after {record.settings.ready_seconds} s: {late}", target=self.context.cluster.name)
        if self._left() > 0:
            return None
        return Advance("waiting", record, "; ".join(f"{name}: {why}" for name, why in late.items()))

    def _wait_gone(self, record: Record, decision: Decision) -> Advance | None:
        """Wait for pods that drain. How long they take is decided; here they are only looked at, never forced."""
        colour = decision.colour or record.candidate.colour
        new = {draining_key(name, colour) for name in decision.targets} - set(record.draining)
        if new:
            since = dict.fromkeys(sorted(new), self.context.clock().isoformat())
            self._write(lambda current: replace(current, draining={**since, **current.draining}))
            return None

        def gone() -> bool:
            pods = observe_pods(self.context)
            return not any(pods.get((name, colour), Pods()).there for name in decision.targets)

        until = (decision.until - self.context.clock()).total_seconds() if decision.until else LOOK_UP
        if self._look_until(gone, most=max(0.0, min(until, LOOK_UP))) or self._left() > 0:
            return None
        return Advance("waiting", record, decision.why, decision.until)

    def _tell_once(self, record: Record, decision: Decision, why: str) -> Record:
        """Tell people that the rollout cannot go on by itself; once for each step, however often it is tried again."""
        about = f"{record.phase}/{decision.step}"
        if any((event.reason, event.about) == ("Blocked", about) for event in record.events):
            return self._write(lambda current: replace(current, said=why))
        self.context.notify(f"{self.context.cluster.name}: {NOTICES['Blocked']}", why)
        event = Event(time=self.context.clock().isoformat(), reason="Blocked", text=why, about=about)
        return self._write(lambda current: replace(current, said=why, events=(*current.events, event)))

    def _tell(self, record: Record, decision: Decision) -> None:
        """Tell people, then write down that they were told: rather twice than never."""
        assert decision.reason is not None, "what is told has a reason"
        names = [draining_key(name, decision.colour or record.candidate.colour) for name in decision.targets]
        self.context.notify(f"{self.context.cluster.name}: {NOTICES[decision.reason]}", decision.why)
        event = Event(
            time=self.context.clock().isoformat(),
            reason=decision.reason,
            text=decision.why,
            about=", ".join(names),
            until=decision.until.isoformat() if decision.until else None,
        )
        self._write(lambda current: replace(current, events=(*current.events, event)))

    def _smoke(self, record: Record, decision: Decision) -> None:
        components = list(decision.targets)
        questions = read_questions(project_folder() / FILE, self.context.works(record.candidate.release))
        results = ask(self.context, record.candidate, components, questions)
        for result in results:
            if not result.passed:
                self.context.report(f"  FAIL {result.component} {result.question}: {result.answer}")
        if bad := [f"{r.component} {r.question}: {r.answer}" for r in results if not r.passed]:
            raise Failed(f"smoke tests failed: {'; '.join(bad[:5])}.", target=self.context.cluster.name)
        self.context.report(
            f"  {len(results)} questions to {len(components)} components, all answered as they should be"
        )
        self._write(lambda current: replace(current, verified=tuple(sorted({*current.verified, *components}))))

    def _weight(self, record: Record, decision: Decision) -> None:
        weight = decision.weight or 0
        serving = (
            record.stable.release if record.stable and record.phase == "rolling-back" else record.candidate.release
        )
        shared = self.context.rendering(serving, "shared")
        self.router.set_weight(self.fenced, shared, record.candidate.colour, weight)
        now = self.context.clock().isoformat()
        self._write(lambda current: replace(current, weight=weight, weight_since=now, observed=None))

    def _observe_weight(self, record: Record, decision: Decision) -> Advance | None:
        if self._look_until(lambda: self.router.observed_weight(record.candidate.colour) == decision.weight, most=30.0):
            self._write(lambda current: replace(current, observed=decision.weight))
            return None
        return Advance("waiting", record, decision.why)

    def _monitor(self, record: Record, decision: Decision) -> None:
        """A bake or hold begins: its end is written down."""
        stage = record.stage
        assert stage is not None, "a stage whose time begins"
        name, until = stage.name, self.context.clock() + timedelta(seconds=stage.bake_seconds)
        self._write(lambda current: current.with_stage(name, until=until.isoformat()))

    def _end_stage(self, record: Record, decision: Decision) -> None:
        if decision.stage is None:
            return
        name, now = decision.stage, self.context.clock().isoformat()

        def change(current: Record) -> Record:
            changed = current.with_stage(name, ended=now, note=record.said)
            following = changed.stage
            return changed.with_stage(following.name, started=now) if following else changed

        self.context.report(f"[{name}] done")
        self._write(change)

    def _roll_back(self, record: Record, decision: Decision) -> None:
        self.context.report(f"ROLLING BACK: {decision.why}")
        event = Event(self.context.clock().isoformat(), "RolledBack", decision.why)
        self._write(
            lambda current: replace(current, phase="rolling-back", reason=decision.why, events=(*current.events, event))
        )
        self.context.notify(
            f"{self.context.cluster.name}: {record.candidate.version} is rolled back",
            f"{decision.why}. {'Traffic returns to ' + record.stable.version if record.stable else 'Nothing served before'}.",
        )

    def _complete(self, record: Record, decision: Decision) -> None:
        free_floors(self.context, self.fenced, record)
        self._close(replace(record, phase="done", said=decision.why))

    def _rolled_back(self, record: Record, decision: Decision) -> None:
        free_floors(self.context, self.fenced, record)
        self._close(replace(record, phase="rolled-back", said=decision.why))

    _STEPS: ClassVar[dict[str, Callable[[Any, Record, Decision], Advance | None]]] = {
        "validate": _validate,
        "apply": _apply,
        "scale": _scale,
        "wait-ready": _wait_ready,
        "wait-gone": _wait_gone,
        "tell": _tell,
        "smoke": _smoke,
        "weight": _weight,
        "observe-weight": _observe_weight,
        "monitor": _monitor,
        "end-stage": _end_stage,
        "roll-back": _roll_back,
        "complete": _complete,
        "rolled-back": _rolled_back,
    }

    # ------------------------------------------------------------------ inside

    def _wait(self, record: Record, decision: Decision) -> Advance | None:
        """Stay for what comes soon; leave the rest to the sensor. The record is looked at meanwhile: abort wins."""
        now = self.context.clock()
        if decision.step == "wait" and decision.until and decision.until <= self.deadline:
            left = (decision.until - now).total_seconds()
            self._look_until(lambda: read_ledger(self.context).abort is not None, most=min(max(left, 0.0), 2.0))
            return None
        return Advance("waiting", record, decision.why, decision.until)

    def _left(self) -> float:
        return max(0.0, (self.deadline - self.context.clock()).total_seconds())

    def _look_until(self, seen: Callable[[], bool], most: float | None = None) -> bool:
        """Look again and again until something is seen; False when it was not in time, or was aborted."""
        import time

        end = time.monotonic() + min(self._left(), most if most is not None else self._left())
        while not seen():
            if time.monotonic() >= end:
                return False
            time.sleep(max(0.0, min(LOOK_AGAIN, end - time.monotonic())))
        return True

    def _keep_evidence(self, record: Record, decision: Decision, health: Health | None) -> Record:
        """Store what a verdict stands on: before a stage ends by it; after traffic has been cut because of it."""
        stage = record.stage
        if stage and health and decision.step in ("end-stage", "complete", "roll-back"):
            self._verdict = stage.name, health
        if self._verdict is None or decision.step in ("roll-back", "scale", "wait-ready", "weight"):
            return record
        (name, judged), self._verdict = self._verdict, None
        try:
            kept = keep_evidence(self.context, record, name, judged)
        except OperationError as error:
            if record.phase != "rolling-back":
                raise
            self.context.report(f"  the evidence could not be stored: {error}")  # the way back does not wait for it
            return record
        self.context.report(f"  {judged.verdict}: {judged.reason} (evidence {kept.digest[:12]})")
        return self._write(lambda current: replace(current, evidence=(*current.evidence, kept)))

    def _write(self, change: Callable[[Record], Record]) -> Record:
        """Compare-and-swap of the record."""
        written: list[Record] = []

        def swap(data: dict[str, str]) -> dict[str, str]:
            record = replace(change(Record.from_json(data["record"])), updated=self.context.clock().isoformat())
            written.append(record)
            return {**data, "record": record.to_json()}

        self.fenced.write_config_map(NAME, self.context.cluster.ops_namespace, swap)
        return written[-1]

    def _stamp(self) -> None:
        """Put our fence on the record and on what is routed, before anything else: an older driver stops there."""
        ledger = read_ledger(self.context)
        record = ledger.record
        if record is None or record.finished:
            return
        self._write(lambda current: current)
        if record.applied:
            serving = (
                record.stable.release if record.stable and record.phase == "rolling-back" else record.candidate.release
            )
            shared = self.context.rendering(serving, "shared")
            self.router.set_weight(self.fenced, shared, record.candidate.colour, record.weight)

    def _close(self, closed: Record) -> None:
        """End the rollout. Its copy is kept first: once the record says that it is over, no driver comes back to it."""
        self.context.store.put(f"rollouts/{closed.cluster}/{closed.id}.json", closed.to_json().encode())
        self._write(lambda current: replace(current, phase=closed.phase, said=closed.said))


def advance(
    context: RolloutContext,
    *,
    until_stage: str | None = None,
    patience: timedelta = timedelta(seconds=120),
    holder: str | None = None,
) -> Advance:
    """Take the lease and advance the cluster's rollout. `LeaseHeld` while another driver works on it."""
    name = holder or socket.gethostname()
    with acquire(context.client, context.cluster.ops_namespace, LEASE, name, clock=context.clock) as lease:
        return Driver(context, Fenced(context.client, lease), router_of(context), patience).run(until_stage)
