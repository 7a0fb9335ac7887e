"""Looking after a rollout from outside, as its sensor does: judge it, cut its traffic when it fails, see whether it is due.

Cheap while nothing serves, and without a run: whoever drives is only asked to stop, by the abort that wins over all he does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from nexus_ops.clusters.errors import LeaseHeld
from nexus_ops.errors import OperationError
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Decision, Observed
from nexus_ops.rollouts.driver import cut
from nexus_ops.rollouts.machine import decide
from nexus_ops.rollouts.observe import glance, serves
from nexus_ops.rollouts.operations import abort_by_verdict
from nexus_ops.rollouts.record import Ledger, Record


@dataclass(frozen=True)
class Attended:
    """What was seen of a rollout, what is decided about it, and whether a driver has something to do."""

    record: Record
    decision: Decision
    observed: Observed
    due: bool

    @property
    def judged(self) -> bool:
        """Whether its candidate's metrics were looked at."""
        return self.observed.verdict is not None


def attend(
    context: RolloutContext, ledger: Ledger, now: datetime, *, driver: str, actor: str, log: Callable[..., object]
) -> Attended:
    """Look at a rollout that runs; `driver`: who drives it now, or is about to (empty: nobody does)."""
    record = ledger.record
    assert record is not None, "a rollout that runs"
    if driver and not serves(record):
        return Attended(record, Decision("wait", f"{driver} goes on with it"), Observed(), due=False)
    observed, health = glance(context, record)
    decision = decide(ledger, context.works(record.candidate.release), observed, now)
    fails = decision.step == "roll-back"
    if fails and record.weight:
        try:
            # Also beside a run that is on its way: it holds no lease yet, and would only be late.
            result = cut(context, record.id, (observed, health), actor.replace(" ", "-"))
            log("%s: traffic cut: %s", record.cluster, decision.why)
            return Attended(result.record or record, decision, observed, due=not driver)
        except LeaseHeld as error:
            asked = observed.verdict == "fail" and abort_by_verdict(context, actor, decision.why, decision.blames)
            log("%s: %s %s", record.cluster, error, "It was told to abort." if asked else "")
        except OperationError as error:
            log("%s: the traffic could not be cut here: %s", record.cluster, error)
    due = not driver and decision.step not in ("wait", "approve", "nothing")
    return Attended(record, decision, observed, due)
