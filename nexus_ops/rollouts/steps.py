"""The steps of a rollout: each carries one decision out, and writes the record after it.

Every step is idempotent: it may be done again by a driver that does not know how far the one before it came.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from nexus_ops.clusters.errors import FenceLost
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.readiness import wait_ready
from nexus_ops.errors import PermanentError
from nexus_ops.rollouts.applying import (
    apply_candidate,
    drain_seconds_of,
    free_floors,
    pin_floors,
    restore_shared,
    scale_components,
    sizes_of,
)
from nexus_ops.rollouts.bad import remember_bad
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Decision, Observed, Pods
from nexus_ops.rollouts.monitor import guardrails_of, platform_values
from nexus_ops.rollouts.observe import observe_pods
from nexus_ops.rollouts.prerequisites import require_prerequisites
from nexus_ops.rollouts.record import NAME, PAST, BadRelease, Event, Reason, Record, draining_key, moment, with_bad
from nexus_ops.rollouts.routers import TrafficRouter
from nexus_ops.rollouts.smoke import FILE, ask, read_questions
from nexus_ops.topology import Colour, project_folder

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
    "Waits": "the rollout waits for a person",
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


class BadCandidate(Failed):
    """A step that failed by the release's own fault."""


class Steps:
    """Carries decisions out, under a lease."""

    def __init__(self, context: RolloutContext, fenced: Fenced, router: TrafficRouter, patience: timedelta) -> None:
        self.context = context
        self.fenced = fenced
        self.router = router
        self.deadline = context.clock() + patience
        self.observed = Observed()
        """What the decision that is carried out stands on."""
        self._untold: list[tuple[str, str]] = []
        """Notifications that are sent once traffic is where it belongs."""

    def carry_out(self, record: Record, decision: Decision) -> Advance | None:
        """Do one step; an answer when the driver has to stop here."""
        return self._STEPS[decision.step](self, record, decision)

    def route(self, record: Record, weight: int) -> None:
        """Request a weight of the router; by the shared part of the release that is to serve."""
        back = record.stable is not None and record.phase == "rolling-back"
        serving = record.stable.release if record.stable and back else record.candidate.release
        shared = self.context.rendering(serving, "shared")
        self.router.set_weight(self.fenced, shared, record.candidate.colour, weight)

    def _validate(self, record: Record, decision: Decision) -> None:
        del decision
        context = self.context
        require_prerequisites(context, record.candidate, record.stable, adopt=record.settings.adopt)
        sizes, drains = sizes_of(context, record.candidate, record.stable), drain_seconds_of(context, record)
        rules = guardrails_of(context.rendering(record.candidate.release, "shared"))
        baseline = platform_values(context, rules)
        self.write(
            lambda current: replace(current, replicas=sizes, drain_seconds=drains, guardrails=rules, baseline=baseline)
        )

    def _apply(self, record: Record, decision: Decision) -> None:
        del decision
        apply_candidate(self.context, self.fenced, record)
        self.route(record, record.weight)
        pin_floors(self.context, self.fenced, record)
        self.write(lambda current: replace(current, applied=True))

    def _scale(self, record: Record, decision: Decision) -> None:
        for name, number in decision.targets.items():
            self.context.report(f"  {name} ({decision.colour}): {number} pods")
        works = self.context.works(record.candidate.release)
        scale_components(self.context, self.fenced, decision.colour or record.candidate.colour, decision.targets, works)

    def _wait_ready(self, record: Record, decision: Decision) -> Advance | None:
        namespace = self.context.cluster.namespace
        wanted = {f"{name}-{decision.colour}": number for name, number in decision.targets.items()}
        late = wait_ready(self.context.client, namespace, wanted, seconds=min(self.left(), LOOK_UP))
        if not late:
            return None
        if record.phase == "running" and self._is_late(record):
            raise Failed(f"not ready after {record.settings.ready_seconds} s: {late}", target=self.context.cluster.name)
        if self.left() > 0:
            return None
        return Advance("waiting", record, "; ".join(f"{name}: {why}" for name, why in late.items()))

    def _wait_gone(self, record: Record, decision: Decision) -> Advance | None:
        """Wait for pods that drain. How long they take is decided; here they are only looked at, never forced."""
        colour = decision.colour or record.candidate.colour
        new = {draining_key(name, colour) for name in decision.targets} - set(record.draining)
        if new:
            since = dict.fromkeys(sorted(new), self.context.clock().isoformat())
            self.write(lambda current: replace(current, draining={**since, **current.draining}))
            return None

        def gone() -> bool:
            pods = observe_pods(self.context)
            return not any(pods.get((name, colour), Pods()).there for name in decision.targets)

        until = (decision.until - self.context.clock()).total_seconds() if decision.until else LOOK_UP
        if self.look_until(gone, most=max(0.0, min(until, LOOK_UP))) or self.left() > 0:
            return None
        return Advance("waiting", record, decision.why, decision.until)

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
        self.write(lambda current: replace(current, events=(*current.events, event)))

    def _smoke(self, record: Record, decision: Decision) -> None:
        components = list(decision.targets)
        questions = read_questions(project_folder() / FILE, self.context.works(record.candidate.release))
        results = ask(self.context, record.candidate, components, questions)
        for result in results:
            if not result.passed:
                self.context.report(f"  FAIL {result.component} {result.question}: {result.answer}")
        if bad := [f"{r.component} {r.question}: {r.answer}" for r in results if not r.passed]:
            raise BadCandidate(f"smoke tests failed: {'; '.join(bad[:5])}.", target=self.context.cluster.name)
        self.context.report(
            f"  {len(results)} questions to {len(components)} components, all answered as they should be"
        )
        answers = {name: ", ".join(str(one) for one in results if one.component == name) for name in components}
        self.write(
            lambda current: replace(
                current,
                smoke={**current.smoke, **answers},
                verified=tuple(sorted({*current.verified, *components})),
            )
        )

    def _weight(self, record: Record, decision: Decision) -> Advance | None:
        weight, colour = decision.weight or 0, record.candidate.colour
        if record.phase == "running" and weight > record.weight and (blocked := self._cannot_be_reached(colour)):
            if self._is_late(record if record.stage and record.stage.moved else self.write(self._moving)):
                raise Failed(f"traffic cannot be sent to {colour}: {blocked}", target=self.context.cluster.name)
            return None if self.left() > 0 else Advance("waiting", record, f"traffic waits: {blocked}")
        self.route(record, weight)
        now = self.context.clock().isoformat()
        self.write(lambda current: replace(self._moving(current), weight=weight, weight_since=now, observed=None))

    def _moving(self, record: Record) -> Record:
        """The record with when traffic was first to move for its present stage."""
        stage = record.stage
        if stage is None or stage.moved or record.phase != "running":
            return record
        return record.with_stage(stage.name, moved=self.context.clock().isoformat())

    def _is_late(self, record: Record) -> bool:
        """Whether traffic has waited longer than pods may take to become ready."""
        stage = record.stage
        began = moment(stage.moved) if stage and stage.moved else self.context.clock()
        return (self.context.clock() - began).total_seconds() > record.settings.ready_seconds

    def _cannot_be_reached(self, colour: Colour) -> str:
        """Why the router would send traffic to nobody there; what passes in a moment is waited for."""
        self.look_until(lambda: not self.router.blocked(colour), most=LOOK_UP)
        return self.router.blocked(colour)

    def _observe_weight(self, record: Record, decision: Decision) -> Advance | None:
        """Look for a little while; then it is decided anew, for an abort may have come or the time may be over."""
        colour = record.candidate.colour
        if self.look_until(lambda: self.router.observed_weight(colour) == decision.weight, most=LOOK_UP):
            self.write(lambda current: replace(current, observed=decision.weight))
            return None
        return None if self.left() > 0 else Advance("waiting", record, decision.why)

    def _unmeasured(self, record: Record, decision: Decision) -> None:
        now = self.context.clock().isoformat()
        self.write(lambda current: replace(current, unmeasured_since=now))

    def _measured(self, record: Record, decision: Decision) -> None:
        self.write(lambda current: replace(current, unmeasured_since=None))

    def _restore(self, record: Record, decision: Decision) -> None:
        """No reason to stop on the way back: users are served already. What cannot be applied is told, and goes on."""
        assert record.stable is not None, "something to go back to"
        try:
            restore_shared(self.context, self.fenced, record.stable)
        except FenceLost:
            raise
        except PermanentError as error:
            self.tell_once(record, decision, f"what both colours share could not be restored: {error}")
        self.write(lambda current: replace(current, restored=True))

    def _keep_logs(self, record: Record, decision: Decision) -> None:
        until = self.context.clock() + timedelta(seconds=record.settings.logs_seconds)
        self.write(lambda current: replace(current, logs_until=until.isoformat()))

    def _monitor(self, record: Record, decision: Decision) -> None:
        """A bake or hold begins: its end is written down."""
        stage = record.stage
        assert stage is not None, "a stage whose time begins"
        name, until = stage.name, self.context.clock() + timedelta(seconds=stage.bake_seconds)
        self.write(lambda current: current.with_stage(name, until=until.isoformat()))

    def _end_stage(self, record: Record, decision: Decision) -> None:
        if decision.stage is None:
            return
        name, now, seen = decision.stage, self.context.clock().isoformat(), self.observed
        judged = {"verdict": seen.verdict or "", "requests": seen.requests} if ends_by_verdict(record) else {}

        def change(current: Record) -> Record:
            changed = current.with_stage(name, ended=now, note=record.said, **judged)
            following = changed.stage
            return changed.with_stage(following.name, started=now) if following else changed

        self.context.report(f"[{name}] done")
        self.write(change)

    def roll_back(self, record: Record, decision: Decision) -> None:
        self.context.report(f"ROLLING BACK: {decision.why}")
        now = self.context.clock().isoformat()
        event = Event(now, "RolledBack", decision.why)
        copy = record.candidate
        bad = BadRelease(copy.release, copy.version, record.id, record.cluster, now, decision.why)

        def change(current: Record) -> Record:
            events = (*current.events, event)
            return replace(
                current,
                phase="rolling-back",
                reason=decision.why,
                blames=decision.blames,
                events=events,
                said=decision.why,
            )

        self.write(change, bad=bad if decision.blames == "release" else None)
        back = f"Traffic returns to {record.stable.version}" if record.stable else "Nothing served before"
        self._untold.append((f"{record.cluster}: {copy.version} is rolled back", f"{decision.why}. {back}."))

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
        "unmeasured": _unmeasured,
        "measured": _measured,
        "restore": _restore,
        "keep-logs": _keep_logs,
        "end-stage": _end_stage,
        "roll-back": roll_back,
        "complete": _complete,
        "rolled-back": _rolled_back,
    }

    # ------------------------------------------------------------------ writing and telling

    def write(self, change: Callable[[Record], Record], *, bad: BadRelease | None = None) -> Record:
        """Compare-and-swap of the record; `bad` is remembered with it."""
        written: list[Record] = []

        def swap(data: dict[str, str]) -> dict[str, str]:
            record = replace(change(Record.from_json(data["record"])), updated=self.context.clock().isoformat())
            written.append(record)
            data = {**data, "record": record.to_json()}
            return with_bad(data, bad) if bad else data

        self.fenced.write_config_map(NAME, self.context.cluster.ops_namespace, swap)
        return written[-1]

    def tell_once(self, record: Record, decision: Decision, why: str, reason: Reason = "Blocked") -> Record:
        """Tell people that the rollout cannot go on by itself; once for each step of a stage, however often it is tried again."""
        about = "/".join(filter(None, (record.phase, decision.step, decision.stage)))
        if any((event.reason, event.about) == (reason, about) for event in record.events):
            return record if record.said == why else self.write(lambda current: replace(current, said=why))
        self.context.notify(f"{self.context.cluster.name}: {NOTICES[reason]}", why)
        event = Event(time=self.context.clock().isoformat(), reason=reason, text=why, about=about)
        return self.write(lambda current: replace(current, said=why, events=(*current.events, event)))

    def tell_all(self) -> None:
        """Send the notifications that had to wait."""
        while self._untold:
            self.context.notify(*self._untold.pop(0))

    def _close(self, closed: Record) -> None:
        """End the rollout. Its copy is kept first: once the record says that it is over, no driver comes back to it."""
        if closed.phase == "rolled-back" and closed.blames == "release":
            remember_bad(self.context.store, closed)
        self.context.store.put(f"{PAST}/{closed.cluster}/{closed.id}.json", closed.to_json().encode())
        self.write(lambda current: replace(current, phase=closed.phase, said=closed.said))

    # ------------------------------------------------------------------ waiting

    def left(self) -> float:
        return max(0.0, (self.deadline - self.context.clock()).total_seconds())

    def look_until(self, seen: Callable[[], bool], most: float | None = None) -> bool:
        """Look again and again until something is seen; False when it was not in time, or was aborted."""
        end = time.monotonic() + min(self.left(), most if most is not None else self.left())
        while not seen():
            if time.monotonic() >= end:
                return False
            time.sleep(max(0.0, min(LOOK_AGAIN, end - time.monotonic())))
        return True


def ends_by_verdict(record: Record) -> bool:
    """Whether the present stage ends by what was measured in it."""
    return record.stage is not None and record.stage.kind in ("bake", "clean-up")
