"""After a rollout is over: what serves now is watched on for hours, and taken back when it fails.

The rollout's own record is finished, and nobody drives it. So the watch is level-triggered from the record and the metrics:
whoever looks comes to the same answer, and a way back that did not begin is asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nexus_ops.rollouts.bad import find_bad, remember_bad
from nexus_ops.rollouts.cases import began, case_of
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.monitor import Health
from nexus_ops.rollouts.record import Ledger, Record
from nexus_ops.rollouts.verdicts import check_health

ACTOR = "rollback sensor"


@dataclass(frozen=True)
class Aftercare:
    """What is to be done about what serves, and why."""

    go_back: bool
    why: str
    health: Health | None = None


def look_after(context: RolloutContext, ledger: Ledger) -> Aftercare:
    """Whether what serves has to go back. `OperationError` when it cannot be told."""
    record = ledger.record
    if record is None or record.phase != "done":
        return Aftercare(False, "nothing has been promoted, or a rollout is under way and looks after itself")
    if record.stable is None:
        return Aftercare(False, "nothing served before: there is no way back")
    left = watch_left(context, record)
    if left <= 0:
        return Aftercare(False, f"{record.candidate.version} has been watched to the end")
    health = check_health(context, record)
    if health.verdict != "fail":
        return Aftercare(False, f"watched for {left / 60:.0f} min more, {health.verdict}: {health.reason}", health)
    if why_not := no_way_back(context, ledger, record):
        return Aftercare(False, f"it fails ({health.reason}), but {why_not}", health)
    return Aftercare(True, health.reason, health)


def watch_left(context: RolloutContext, record: Record) -> float:
    """Seconds of the watch that are left."""
    seconds = case_of(context, record, "watch").plan.rules.watch_seconds
    return began(record, "watch") + seconds - context.clock().timestamp()


def no_way_back(context: RolloutContext, ledger: Ledger, record: Record) -> str:
    """Why the previous release must not be deployed by a machine; empty when it may."""
    assert record.stable is not None, "something served before"
    if record.goes_back:
        return "it is itself what was gone back to: a person has to look"
    if find_bad(context.store, ledger, record.stable.release) is not None:
        return f"{record.stable.version} has failed before: a person has to look"
    if record.needs_approval:
        return f"the way back needs a person: {record.needs_approval}"
    return ""


def mark_bad(context: RolloutContext, record: Record, health: Health) -> None:
    """Have a release refused that failed in its watch; one that suffered from the platform is as good as it was."""
    if health.blames == "release":
        now = context.clock().isoformat()
        remember_bad(context.store, replace(record, updated=now, reason=f"failed in its watch: {health.reason}"))
