"""Carrying a rollout out: observe, decide, act, write the record; again, until it has to wait.

A run advances as far as it can go and ends; the rollout's sensor starts the next one. Every step is idempotent, and the
record is written after it, so that a driver may be killed or frozen at any line: the next one takes the lease, stamps its
fence first, and comes by `decide` to the same step.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

from nexus_ops.clusters.errors import Crashes, FenceLost
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.rollouts.applying import at_once
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Decision, Observed
from nexus_ops.rollouts.evidence import keep_evidence
from nexus_ops.rollouts.machine import decide
from nexus_ops.rollouts.monitor import Health
from nexus_ops.rollouts.moves import of_kind
from nexus_ops.rollouts.observe import observe
from nexus_ops.rollouts.plan import read_ledger
from nexus_ops.rollouts.record import Record
from nexus_ops.rollouts.routers import router_of
from nexus_ops.rollouts.steps import LOOK_UP, Advance, BadCandidate, Steps, ends_by_verdict
from nexus_ops.topology import COLOURS

LEASE = "rollout"
CUTTING = ("roll-back", "weight", "observe-weight")
"""The steps that take a candidate's traffic away."""
FIRST_OF_ALL = (*CUTTING, "scale", "wait-ready")
"""Steps on the way back for which evidence and notifications have to wait."""
Seen = tuple[Observed, Health | None]


class Driver:
    """Advances the rollout of one cluster under a lease."""

    def __init__(self, context: RolloutContext, steps: Steps) -> None:
        self.context = context
        self.steps = steps
        self._verdict: tuple[str, Health] | None = None
        """A verdict against the candidate whose evidence is still to be stored, and of which stage."""

    def run(self, until_stage: str | None = None) -> Advance:
        """Advance until a stage is over, or as far as can be gone without waiting long."""
        self._stamp()
        try:
            while True:
                if (end := self._next(until_stage)) is not None:
                    return end
        finally:
            self._settle()

    def cut(self, rollout: str, seen: Seen) -> Advance:
        """Take the traffic away from the candidate of this rollout, by what was seen of it a moment ago, and no more."""
        self._stamp()
        first: Seen | None = seen
        try:
            while True:
                if (end := self._next(None, rollout, CUTTING, first)) is not None:
                    return end
                first = None
        finally:
            self._settle()

    def _next(
        self,
        until_stage: str | None,
        rollout: str | None = None,
        only: Collection[str] | None = None,
        seen: Seen | None = None,
    ) -> Advance | None:
        """Look, decide, act, once; an answer when the driver has to stop. `only`: the steps that may be done."""
        ledger = read_ledger(self.context)
        record = ledger.record
        if record is None or (rollout is not None and record.id != rollout):
            return Advance("nothing", record, "no such rollout has begun")
        if record.finished:
            return Advance("done" if record.phase == "done" else "rolled-back", record, record.reason or record.said)
        if is_past(record, until_stage):
            return Advance("stage-done", record, f"{until_stage} is done")
        observed, health = seen or observe(self.context, record, self.steps.router)
        self.steps.observed = observed
        decision = decide(ledger, self.context.works(record.candidate.release), observed, self.context.clock())
        if only is not None and decision.step not in only:
            return Advance("waiting", record, decision.why)
        return self._act(self._keep_evidence(record, decision, health), decision)

    def _act(self, record: Record, decision: Decision) -> Advance | None:
        """Carry one decision out; an answer when the driver has to stop here."""
        steps = self.steps
        if decision.step not in FIRST_OF_ALL:
            self._settle()
        if decision.why != record.said:
            self.context.report(f"[{record.stage.name if record.stage else record.phase}] {decision.why}")
            record = steps.write(lambda current: replace(current, said=decision.why))
        if decision.step == "approve":
            record = steps.tell_once(record, decision, decision.why, "Waits")
        if decision.step in ("wait", "approve"):
            return self._wait(record, decision)
        try:
            return steps.carry_out(record, decision)
        except FenceLost:
            raise
        except PermanentError as error:
            if record.phase == "rolling-back":
                why = f"the way back is blocked: {error}"
                return Advance("waiting", steps.tell_once(record, decision, why), why)
            blames = "release" if isinstance(error, BadCandidate | Crashes) else None
            steps.roll_back(record, Decision("roll-back", str(error), blames=blames))
            return None
        except OperationError:
            raise  # it may pass by itself: the sensor's next run tries again
        except Exception as error:
            # A mistake of ours. Its words may hold anything, so only its kind is told; the run's log has the rest.
            steps.tell_once(
                record, decision, f"the step {decision.step} broke ({type(error).__name__}): see the log of its run"
            )
            raise

    def _wait(self, record: Record, decision: Decision) -> Advance | None:
        """Stay for what comes soon; leave the rest to the sensor. The record is looked at meanwhile: abort wins."""
        now = self.context.clock()
        if decision.step == "wait" and decision.until and decision.until <= self.steps.deadline:
            left = (decision.until - now).total_seconds()
            self.steps.look_until(lambda: read_ledger(self.context).abort is not None, most=min(max(left, 0.0), 2.0))
            return None
        return Advance("waiting", record, decision.why, decision.until)

    def _keep_evidence(self, record: Record, decision: Decision, health: Health | None) -> Record:
        """Store what a verdict stands on before a stage ends by it; a verdict that cuts traffic has to wait for that."""
        stage = record.stage
        if stage and health and decision.step == "roll-back":
            self._verdict = stage.name, health
        if stage and health and decision.step in ("end-stage", "complete") and ends_by_verdict(record):
            return self._store(record, stage.name, health)
        return record

    def _store(self, record: Record, stage: str, health: Health) -> Record:
        kept = keep_evidence(self.context, record, stage, health)
        self.context.report(f"  {health.verdict}: {health.reason} (evidence {kept.digest[:12]})")
        return self.steps.write(lambda current: replace(current, evidence=(*current.evidence, kept)))

    def _settle(self) -> None:
        """What had to wait until traffic is where it belongs: evidence, and telling people. No reason to fail."""
        verdict, self._verdict = self._verdict, None
        try:
            if verdict is not None and (record := read_ledger(self.context).record) is not None:
                self._store(record, *verdict)
        except OperationError as error:
            self.context.report(f"  the evidence could not be stored: {error}")
        self.steps.tell_all()

    def _stamp(self) -> None:
        """Put our fence on the record, on what is routed, and on exclusive work once that may have moved, before anything
        else: an older driver stops there."""
        ledger = read_ledger(self.context)
        record = ledger.record
        if record is None or record.finished:
            return
        self.steps.write(lambda current: current)
        if record.applied:
            self.steps.route(record, self._weight_to_keep(record))
        if record.may_have_handed_over:
            self._stamp_exclusive(record)

    def _weight_to_keep(self, record: Record) -> int:
        """The weight under which the route gets our fence: what the record says.

        On the way back never more than the route has: what an older driver has taken away from a candidate, and did not
        come to write down, is not given back.
        """
        if record.phase != "rolling-back":
            return record.weight
        requested = self.steps.router.requested(record.candidate.colour)
        return record.weight if requested is None else min(record.weight, requested)

    def _stamp_exclusive(self, record: Record) -> None:
        """A start or stop of exclusive work that an older driver has on its way must not arrive after ours."""
        works, space = self.context.works(record.candidate.release), self.context.cluster.namespace
        names = [f"{name}-{colour}" for name in of_kind(works, "exclusive") for colour in COLOURS]
        at_once(lambda name: self.steps.fenced.stamp(name, space), names)


def is_past(record: Record, stage: str | None) -> bool:
    """Whether a stage is over, or none of this rollout's. The last one ends with the rollout itself: there is no later
    driver to close the record."""
    if stage is None or record.phase != "running" or stage == record.stages[-1].name:
        return False
    return record.ended(stage) or all(stage != one.name for one in record.stages)


def advance(
    context: RolloutContext,
    *,
    until_stage: str | None = None,
    patience: timedelta = timedelta(seconds=120),
    holder: str | None = None,
) -> Advance:
    """Take the lease and advance the cluster's rollout. `LeaseHeld` while another driver works on it."""
    record = read_ledger(context).record
    if record is not None and is_past(record, until_stage):
        return Advance("stage-done", record, f"{until_stage} is done")
    name = holder or socket.gethostname()
    with acquire(context.client, context.cluster.ops_namespace, LEASE, name, clock=context.clock) as lease:
        return Driver(context, Steps(context, Fenced(context.client, lease), router_of(context), patience)).run(
            until_stage
        )


def cut(context: RolloutContext, rollout: str, seen: Seen, holder: str) -> Advance:
    """Take the traffic away from a candidate that has just been seen to fail, and nothing else: a run does the rest.

    The stable colour must be ready for it, as always. `LeaseHeld` while another driver works on it.
    """
    with acquire(context.client, context.cluster.ops_namespace, LEASE, holder, clock=context.clock) as lease:
        steps = Steps(context, Fenced(context.client, lease), router_of(context), timedelta(seconds=LOOK_UP))
        return Driver(context, steps).cut(rollout, seen)


__all__ = ["LEASE", "Advance", "advance", "cut", "is_past"]
