"""What people and sensors do with rollouts: start one, abort or approve it, go back, see whether it is due."""

from __future__ import annotations

import copy
import socket
import uuid
from datetime import datetime

from nexus_ops.clusters.client import CONFIG_MAP, NAMESPACE
from nexus_ops.clusters.errors import Conflict
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.errors import PermanentError
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import LEASE
from nexus_ops.rollouts.plan import RolloutActive, RolloutPlan, plan_rollout, read_ledger
from nexus_ops.rollouts.record import NAME, Record, StageState, Wish, moment
from nexus_ops.rollouts.strategy import Settings, stages_of

TRIES = 20


class NothingToDo(PermanentError):
    """There is no rollout, or no earlier release, for what was asked."""


def start(context: RolloutContext, plan: RolloutPlan, actor: str) -> Record:
    """Store the plan, and begin: write the record under the lease. Refused while another rollout runs."""
    cluster = context.cluster
    _ensure_namespace(context)
    digest = context.store.put_content("plans", plan.to_bytes())
    with acquire(
        context.client, cluster.ops_namespace, LEASE, f"{socket.gethostname()}-start", clock=context.clock
    ) as lease:
        fenced = Fenced(context.client, lease)
        now = context.clock().isoformat()
        record = Record(
            id=f"{context.clock():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}",
            cluster=cluster.name,
            actor=actor,
            started=now,
            settings=plan.settings,
            candidate=plan.candidate,
            stable=plan.stable,
            stages=tuple(
                StageState.of(stage, started=now if index == 0 else None)
                for index, stage in enumerate(stages_of(plan.settings))
            ),
            needs_approval=plan.needs_approval,
            plan=digest,
            updated=now,
        )

        def begin(data: dict[str, str]) -> dict[str, str]:
            # Looked at again as it is written: another start may have been first.
            before = Record.from_json(data["record"]) if "record" in data else None
            if before is not None and not before.finished:
                raise RolloutActive(
                    f"{before.candidate.version} is being rolled out.",
                    target=cluster.name,
                    todo="Wait for it, or abort it.",
                )
            serving = before.serving if before else None
            if serving != plan.stable:
                raise PermanentError(
                    "what serves has changed since the plan was made.", target=cluster.name, todo="Plan again."
                )
            return {"record": record.to_json()}

        fenced.write_config_map(NAME, cluster.ops_namespace, begin)
    return record


def request_abort(context: RolloutContext, actor: str, reason: str) -> Record:
    """Ask the running rollout to stop and go back; needs no lease, and wins over everything."""
    return _wish(context, "abort", actor, reason)


def approve(context: RolloutContext, actor: str, reason: str = "") -> Record:
    """Let the running rollout go on where it waits for a person."""
    return _wish(context, "approval", actor, reason)


def plan_rollback(context: RolloutContext) -> RolloutPlan | None:
    """None when the running rollout can be aborted; else the plan of deploying the previous release again."""
    record = read_ledger(context).record
    if record is None:
        raise NothingToDo("nothing has been deployed here yet.", target=context.cluster.name)
    if not record.finished:
        return None
    if record.phase != "done" or record.stable is None:
        raise NothingToDo("there is no earlier release to go back to.", target=context.cluster.name)
    return plan_rollout(context, record.stable.version, record.settings)


def due(record: Record | None, *, aborted: bool, approved: bool, now: datetime) -> bool:
    """Whether a driver has something to do now. Pure; the driver itself looks again."""
    if record is None or record.finished:
        return False
    if aborted or record.phase == "rolling-back":
        return True
    stage = record.stage
    if stage and stage.kind == "switch" and record.needs_approval and not approved:
        return False
    return stage is None or stage.until is None or now >= moment(stage.until)


def _wish(context: RolloutContext, key: str, actor: str, reason: str) -> Record:
    wish = Wish(actor, reason, context.clock().isoformat()).to_json()
    for _ in range(TRIES):
        found = context.client.get(CONFIG_MAP, NAME, context.cluster.ops_namespace)
        record = read_record(found)
        if found is None or record is None or record.finished:
            raise NothingToDo("no rollout is running.", target=context.cluster.name)
        changed = copy.deepcopy(found)
        changed["data"][key] = wish
        try:
            # The fence stays as it is: a wish is not a driver's write, it only has to be newer than what it answers.
            context.client.replace(changed, manager="nexus-operator")
        except Conflict:
            continue
        return record
    raise Conflict("the record changes faster than it can be written.", target=context.cluster.name, todo="Try again.")


def read_record(found: dict[str, dict[str, str]] | None) -> Record | None:
    """The record of the ConfigMap as it was read."""
    data = (found or {}).get("data") or {}
    return Record.from_json(data["record"]) if "record" in data else None


def _ensure_namespace(context: RolloutContext) -> None:
    name = context.cluster.ops_namespace
    if context.client.get(NAMESPACE, name) is None:
        try:
            context.client.create(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, manager="nexus-rollout"
            )
        except Conflict:
            pass  # made by another at the same moment


__all__ = ["NothingToDo", "Settings", "approve", "due", "plan_rollback", "plan_rollout", "request_abort", "start"]
