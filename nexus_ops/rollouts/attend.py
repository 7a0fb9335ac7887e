"""Looking after a rollout from outside, as its sensor does: judge it, cut its traffic when it fails, see whether it is due.

Cheap while nothing serves, and without a run: whoever drives is only asked to stop, by the abort that wins over all he does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime

from nexus_ops.clusters.client import CONFIG_MAP
from nexus_ops.clusters.errors import LeaseHeld
from nexus_ops.errors import OperationError
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.decision import Decision, Observed
from nexus_ops.rollouts.driver import cut
from nexus_ops.rollouts.machine import decide
from nexus_ops.rollouts.observe import glance, serves
from nexus_ops.rollouts.operations import MANAGER, abort_by_verdict
from nexus_ops.rollouts.record import NAME, Ledger, Record, Word


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
    word = Word(record.id, actor, decision.why, now.isoformat())
    if not driver and not due and word.is_news(ledger.seen):
        _leave(context, word, log)
    return Attended(record, decision, observed, due)


def _leave(context: RolloutContext, word: Word, log: Callable[..., object]) -> None:
    """Write the last word beside the record, under a key of its own: no lease is needed, and no driver reads it."""
    try:
        found = context.client.get(CONFIG_MAP, NAME, context.cluster.ops_namespace)
        if found is not None and Ledger.from_data(found["data"]).seen != word:
            changed = {**found, "data": {**found["data"], "seen": json.dumps(asdict(word))}}
            context.client.replace(changed, manager=MANAGER)
    except OperationError as error:
        log("%s: what was seen could not be written: %s", context.cluster.name, error)
