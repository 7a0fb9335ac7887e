"""What people and sensors do with rollouts: start one, abort, pause, promote or approve it, go back."""

from __future__ import annotations

import copy
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

from nexus_ops.clusters.client import CONFIG_MAP, NAMESPACE
from nexus_ops.clusters.errors import Conflict
from nexus_ops.clusters.fence import Fenced
from nexus_ops.clusters.lease import acquire
from nexus_ops.errors import PermanentError
from nexus_ops.rollouts.bad import refusal
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.driver import LEASE
from nexus_ops.rollouts.plan import RolloutActive, RolloutPlan, plan_rollout, read_ledger
from nexus_ops.rollouts.record import NAME, PAST, WISHES, Blame, Copy, Ledger, Record, StageState, Wish
from nexus_ops.rollouts.strategy import Settings, stages_of

TRIES = 20
MANAGER = "nexus-operator"
"""By which what is asked of a rollout, or seen of it, is written beside the record."""


class NothingToDo(PermanentError):
    """There is no rollout, or no earlier release, for what was asked."""


def start(context: RolloutContext, plan: RolloutPlan, actor: str) -> Record:
    """Store the plan, and begin: write the record under the lease. Refused while another rollout runs."""
    cluster = context.cluster
    if plan.unchanged:
        raise NothingToDo(
            f"{plan.candidate.version} serves already, the same release: nothing to do.", target=cluster.name
        )
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
            goes_back=plan.goes_back,
            forced=plan.forced,
            plan=digest,
            updated=now,
        )

        def begin(data: dict[str, str]) -> dict[str, str]:
            # Looked at again as it is written: another start may have been first.
            ledger = Ledger.from_data(data)
            before = ledger.record
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
            bad = next((one for one in ledger.bad if one.release == plan.candidate.release), None)
            if bad is not None and not plan.forced:
                raise refusal(bad)
            kept = {key: value for key, value in data.items() if key not in (*WISHES, "seen")}
            return {**kept, "record": record.to_json()}

        fenced.write_config_map(NAME, cluster.ops_namespace, begin)
    return record


def request_abort(context: RolloutContext, actor: str, reason: str) -> Record:
    """Ask the running rollout to stop and go back; needs no lease, and wins over everything.

    One that is on its way back already does not keep its candidate for its logs any longer.
    """
    return _wish(context, "abort", lambda _: _Asked(actor, reason))


def abort_by_verdict(context: RolloutContext, actor: str, reason: str, blames: Blame | None) -> bool:
    """The same for a verdict that was seen while another one drives; False when the rollout goes back already."""

    def ask(ledger: Ledger) -> _Asked:
        if ledger.record is None or ledger.record.phase != "running" or ledger.abort is not None:
            raise NothingToDo("it goes back already.", target=context.cluster.name)
        return _Asked(actor, reason, blames=blames)

    try:
        _wish(context, "abort", ask)
    except NothingToDo:
        return False
    return True


def approve(context: RolloutContext, actor: str, reason: str = "") -> Record:
    """Let the running rollout go on where it waits for a person; an error where it does not."""

    def ask(ledger: Ledger) -> _Asked:
        record = ledger.record
        stage = record.stage if record else None
        first = next((one.name for one in record.stages if one.weight), None) if record else None
        if record is None or stage is None or not (stage.gate or (record.needs_approval and stage.name == first)):
            raise NothingToDo(
                f"nothing waits for an approval{f' in {stage.name}' if stage else ''}.",
                target=context.cluster.name,
                todo="A rollout that a person has to let go on says so in its record; give the approval then.",
            )
        return _Asked(actor, reason, about=stage.name)

    return _wish(context, "approval", ask)


def pause(context: RolloutContext, actor: str, reason: str) -> Record:
    """Hold the running rollout where it is: judged as before, but nothing new begins."""
    return _wish(context, "pause", lambda _: _Asked(actor, reason))


def unpause(context: RolloutContext) -> Record:
    """Take a pause back."""

    def ask(ledger: Ledger) -> None:
        if ledger.pause is None:
            raise NothingToDo("the rollout is not paused.", target=context.cluster.name)

    return _wish(context, "pause", ask)


def promote(context: RolloutContext, actor: str, reason: str) -> Record:
    """Let the running rollout skip the bakes and gates that are left. A verdict against it, and an abort, still count."""
    return _wish(context, "promotion", lambda _: _Asked(actor, reason))


def plan_rollback(context: RolloutContext, leaves: str = "") -> RolloutPlan | None:
    """None when the running rollout can be aborted; else the plan of deploying the previous release again.

    `leaves`: the version that is to go. It must be named where somebody, or the platform itself, has gone back already: whoever is woken
    by that, and goes back once more, would leave the version that is good.
    """
    record = read_ledger(context).record
    if record is None:
        raise NothingToDo("nothing has been deployed here yet.", target=context.cluster.name)
    if record.phase == "running" and record.goes_back:
        raise NothingToDo(
            f"the rollout that runs is the way back already: {record.actor} brings back {record.candidate.version}.",
            target=context.cluster.name,
            todo="The job `abort` would stop that.",
        )
    goes = record.serving if record.finished else record.candidate
    if leaves and (goes is None or goes.version != leaves):
        raise NothingToDo(
            f"{leaves} would not go: {goes.version if goes else 'nothing'} would.", target=context.cluster.name
        )
    if not record.finished:
        return None
    before = _served_before(context, record)
    if before is None:
        todo = "Deploy the version that you want, with the job `deploy`."
        raise NothingToDo("there is no earlier release to go back to.", target=context.cluster.name, todo=todo)
    has_gone_back = record.goes_back if record.phase == "done" else not record.goes_back
    if has_gone_back and record.serving is not None and not leaves:
        good, reason = record.serving.version, record.reason or f"{record.actor} brought {record.serving.version} back"
        gone = before.version if record.goes_back else record.candidate.version
        raise NothingToDo(
            f"{gone} has gone back already ({reason}), and {good} serves.",
            target=context.cluster.name,
            todo=f"To leave {good}, too, for {before.version}, which served before it, say so: leaves: {good}.",
        )
    # What served before is the way back, whatever was once thought of it; and going back is no experiment.
    times = replace(record.settings, strategy="blue-green", gates=())
    return replace(plan_rollout(context, before.version, times, force=True), goes_back=True)


def _served_before(context: RolloutContext, record: Record) -> Copy | None:
    """What served before that which serves now. A rollout that went back has changed nothing: the one that brought it knows."""
    if record.phase == "done" or record.serving is None:
        return record.stable if record.phase == "done" else None
    for key in reversed(context.store.list(f"{PAST}/{record.cluster}")):  # their ids begin with their time
        past = Record.from_json(context.store.get(key).decode())
        if past.phase == "done" and past.candidate.release == record.serving.release:
            return past.stable
    return None


@dataclass(frozen=True)
class _Asked:
    """What is to be written of a wish; its time comes with the writing."""

    actor: str
    reason: str
    about: str = ""
    blames: Blame | None = None


def _wish(context: RolloutContext, key: str, ask: Callable[[Ledger], _Asked | None]) -> Record:
    """Write what `ask` says into the ConfigMap as it is found there; None takes the wish back."""
    for _ in range(TRIES):
        found = context.client.get(CONFIG_MAP, NAME, context.cluster.ops_namespace)
        ledger = Ledger.from_data((found or {}).get("data") or {})
        record = ledger.record
        if found is None or record is None or record.finished:
            raise NothingToDo("no rollout is running.", target=context.cluster.name)
        if record.phase == "rolling-back" and key != "abort":
            raise NothingToDo(
                f"{record.candidate.version} is on its way back: {record.reason}.", target=context.cluster.name
            )
        asked = ask(ledger)
        changed = copy.deepcopy(found)
        changed["data"].pop(key, None)
        if asked is not None:
            wish = Wish(asked.actor, asked.reason, context.clock().isoformat(), asked.about, asked.blames)
            changed["data"][key] = wish.to_json()
        try:
            # The fence stays as it is: a wish is not a driver's write, it only has to be newer than what it answers.
            context.client.replace(changed, manager=MANAGER)
        except Conflict:
            continue
        return record
    raise Conflict("the record changes faster than it can be written.", target=context.cluster.name, todo="Try again.")


def _ensure_namespace(context: RolloutContext) -> None:
    name = context.cluster.ops_namespace
    if context.client.get(NAMESPACE, name) is None:
        try:
            context.client.create(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, manager="nexus-rollout"
            )
        except Conflict:
            pass  # made by another at the same moment


__all__ = [
    "NothingToDo",
    "Settings",
    "abort_by_verdict",
    "approve",
    "pause",
    "plan_rollback",
    "plan_rollout",
    "promote",
    "request_abort",
    "start",
    "unpause",
]
