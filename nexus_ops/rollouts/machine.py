"""What happens next: a pure function of the record, of what was observed, and of the time.

It is level-triggered. It names the first thing that is not yet as it should be, so that a driver that was killed
anywhere, and one that starts anew, come to the same next step. Order is what makes it safe:

- first of all an abort, then a verdict against the candidate: neither waits for anything, not for a person either;
- forward: candidate ready, asked, then share by share edge traffic, workers and a bake, then all traffic, all workers,
  and exclusive work (old gone before new starts);
- back: the stable copy ready, then edge traffic at once, then workers, then exclusive work, then what both
  colours share, and last the candidate.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from nexus_ops.rollouts.decision import Decision, Observed, Pods, Verdict, Works
from nexus_ops.rollouts.moves import (
    ask,
    bring_up,
    drain,
    hand_over,
    none_of,
    of_kind,
    share_workers,
    sizes,
    take_down,
    to_weight,
)
from nexus_ops.rollouts.record import Blame, Ledger, Record, StageState, moment

LOOK_AGAIN = timedelta(seconds=5)
"""When a verdict that is not there yet is asked for again."""


def decide(ledger: Ledger, works: Works, observed: Observed, now: datetime) -> Decision:
    """The next step of a rollout."""
    record = ledger.record
    if record is None:
        return Decision("nothing", "no rollout has begun")
    if record.finished:
        return Decision("nothing", f"the rollout is over: {record.phase}")
    if record.phase == "rolling-back":
        return _back(ledger, record, works, observed, now)
    if ledger.abort is not None:
        why = f"{ledger.abort.actor} aborted it: {ledger.abort.reason}"
        return Decision("roll-back", why, blames=ledger.abort.blames)
    stage = record.stage
    if stage is None:
        return Decision("complete", f"{record.candidate.version} serves")
    if bad := _judged(record, stage, observed, now):
        return bad
    if gate := _gate(ledger, record, stage):
        return _paused(ledger, record, stage, gate)
    handlers = {
        "validate": _validate,
        "deploy": _deploy,
        "smoke": _smoke,
        "switch": _switch,
        "bake": _bake,
        "clean-up": _clean_up,
    }
    decision = handlers[stage.kind](ledger, record, stage, works, observed, now)
    decision = decision or Decision("end-stage", f"{stage.name} is done", stage=stage.name)
    return _paused(ledger, record, stage, decision)


# ---------------------------------------------------------------------- before any stage


def _judged(record: Record, stage: StageState, observed: Observed, now: datetime) -> Decision | None:
    """A verdict against the candidate ends the rollout; not being able to measure does after a while."""
    if observed.verdict == "fail":
        when = "within the hold" if stage.kind == "clean-up" else f"in {stage.name}"
        why = f"the candidate failed {when}: {observed.verdict_reason}"
        return Decision("roll-back", why, blames=observed.blames)
    if observed.verdict is None or stage.kind == "clean-up":
        return None
    since = record.unmeasured_since
    if observed.verdict != "error":
        return Decision("measured", "the candidate is measured again") if since else None
    if since is None:
        return Decision("unmeasured", f"nothing can be said of the candidate: {observed.verdict_reason}")
    waited = (now - moment(since)).total_seconds()
    if waited > record.settings.error_seconds:
        return Decision("roll-back", f"nothing could be measured for {waited:.0f} s: {observed.verdict_reason}")
    return None


def _gate(ledger: Ledger, record: Record, stage: StageState) -> Decision | None:
    """A stage that a person has to let begin, and the point after which there is no way back."""
    if ledger.approval is not None and ledger.approval.about in ("", stage.name):
        return None
    first = next((one.name for one in record.stages if one.weight), None)
    if record.needs_approval and stage.name == first:
        return Decision("approve", record.needs_approval, stage=stage.name)
    if stage.gate and ledger.promotion is None:
        return Decision("approve", f"{stage.name} begins when a person lets it: job `approve`", stage=stage.name)
    return None


def _paused(ledger: Ledger, record: Record, stage: StageState, decision: Decision) -> Decision:
    """A pause holds before anything begins; what has begun to move is brought to rest first. Whoever waits anyway says so, too."""
    if ledger.pause is None or decision.step == "roll-back":
        return decision
    why = f"{ledger.pause.actor} paused it: {ledger.pause.reason}"
    if decision.step in ("wait", "approve"):
        return replace(decision, why=f"{why}; {decision.why}")
    if stage.kind in ("bake", "switch") and record.weight == stage.weight and decision.step != "end-stage":
        return decision
    return Decision("wait", why, stage=stage.name)


# ---------------------------------------------------------------------- the stages


def _validate(
    ledger: Ledger, record: Record, stage: StageState, works: Works, observed: Observed, now: datetime
) -> Decision | None:
    del ledger, works, observed, now
    return None if record.replicas else Decision("validate", "prerequisites come first", stage=stage.name)


def _deploy(
    ledger: Ledger, record: Record, stage: StageState, works: Works, observed: Observed, now: datetime
) -> Decision | None:
    """The candidate's request components at the size that the stable colour has; nothing else runs yet."""
    del ledger, stage, now
    colour = record.candidate.colour
    if not record.applied:
        return Decision("apply", f"{record.candidate.version} is to be applied as {colour}", colour=colour)
    why = "the candidate must match the stable colour before any traffic"
    return bring_up(observed, colour, sizes(record, works, "request"), why)


def _smoke(
    ledger: Ledger, record: Record, stage: StageState, works: Works, observed: Observed, now: datetime
) -> Decision | None:
    del ledger, stage, observed, now
    return ask(record, of_kind(works, "request"), "the candidate has not been asked yet")


def _bake(
    ledger: Ledger, record: Record, stage: StageState, works: Works, observed: Observed, now: datetime
) -> Decision | None:
    """The candidate gets its share, and is watched for its time: until the verdict is a pass, on enough requests."""
    if ledger.promotion is not None:
        return None
    new, old = record.candidate.colour, record.stable.colour if record.stable else None
    why = "traffic only goes to a colour that is ready"
    if decision := bring_up(observed, new, sizes(record, works, "request"), why):
        return decision
    if record.observed != stage.weight and (decision := to_weight(record, observed, stage.weight, now)):
        return decision
    if stage.until is None:
        return (
            share_workers(record, works, observed, to=new, away=old, weight=stage.weight)
            or ask(record, of_kind(works, "worker"), "the workers that started just now have not been asked yet")
            or Decision("monitor", f"the candidate is watched with {stage.weight} % of the traffic", stage=stage.name)
        )
    until = moment(stage.until)
    if now < until:
        why = f"the candidate is watched with {stage.weight} % until {until:%H:%M:%S} UTC"
        return Decision("wait", why, until=until)
    missing = _missing(record, stage, observed)
    if not missing:
        return None
    late = (now - until).total_seconds()
    if late > record.settings.insufficient_seconds and ledger.pause is None:
        return Decision("roll-back", f"{stage.name} came to no verdict in {late:.0f} s beyond its time: {missing}")
    return Decision("wait", f"no verdict yet: {missing}", until=now + LOOK_AGAIN)


def _missing(record: Record, stage: StageState, observed: Observed) -> str:
    """What a bake still needs before it may end, in words."""
    if observed.verdict != "pass":
        return observed.verdict_reason or str(observed.verdict)
    least = record.settings.min_requests
    if least and (observed.requests is None or observed.requests < least):
        return f"{observed.requests or 0:.0f} of at least {least} requests were seen"
    if observed.weight != stage.weight:
        because = f" ({observed.weight_problem})" if observed.weight_problem else ""
        return f"{stage.weight} % were requested and had been seen, now they are not{because}"
    return ""


def _switch(
    ledger: Ledger, record: Record, stage: StageState, works: Works, observed: Observed, now: datetime
) -> Decision | None:
    del ledger
    new, old = record.candidate.colour, record.stable.colour if record.stable else None
    return (
        bring_up(observed, new, sizes(record, works, "request"), "traffic only goes to a colour that is ready")
        or to_weight(record, observed, stage.weight, now)
        or share_workers(record, works, observed, to=new, away=old)
        or hand_over(record, works, observed, now, to=new, away=old)
        or ask(record, of_kind(works, "worker", "exclusive"), "what started just now has not been asked yet")
    )


def _clean_up(
    ledger: Ledger, record: Record, stage: StageState, works: Works, observed: Observed, now: datetime
) -> Decision | None:
    """The old colour is the way back for a while, and the candidate is watched; then the old one goes."""
    del ledger
    if record.stable is None:
        return None
    old, everything = record.stable.colour, [*{**works, **(observed.stable or {})}]
    if stage.until is None:
        return Decision("monitor", "the hold begins: the old colour stays as the way back", stage=stage.name)
    until = moment(stage.until)
    if now < until:
        return Decision("wait", f"the {old} colour is kept as the way back until {until:%H:%M:%S} UTC", until=until)
    if observed.weight != 100:
        return Decision("observe-weight", "the old colour stays until all traffic is seen on the new one", weight=100)
    late = (now - until).total_seconds()
    if observed.verdict in ("insufficient", "error") and late <= record.settings.insufficient_seconds:
        why = f"the old colour stays while nothing can be said of the new one: {observed.verdict_reason}"
        return Decision("wait", why, until=now + LOOK_AGAIN)
    return take_down(observed, old, none_of(everything), "the old colour is not needed any more") or drain(
        record, observed, now, old, everything, "what the old colour has begun is finished first"
    )


# ---------------------------------------------------------------------- the way back


def _back(ledger: Ledger, record: Record, works: Works, observed: Observed, now: datetime) -> Decision:
    """The way back: the stable copy serves again, then the candidate goes."""
    new = record.candidate.colour
    if record.stable is None:
        if record.weight != 0:
            return Decision("weight", "nothing may reach a candidate that failed", weight=0)
        return _let_go(ledger, record, works, observed, now)
    old = record.stable.colour
    # What is new with the candidate has nowhere to go back to: it goes with the candidate.
    known: Works = {name: work for name, work in works.items() if observed.stable is None or name in observed.stable}
    if record.weight or observed.weight:
        why = "the stable colour must be ready before traffic returns"
        if decision := bring_up(observed, old, sizes(record, known, "request"), why):
            return decision
    if not record.applied:
        return Decision("rolled-back", record.reason)
    return (
        to_weight(record, observed, 0, now)
        or share_workers(record, known, observed, to=old, away=new)
        or hand_over(record, known, observed, now, to=old, away=new)
        or _restore(record)
        or _let_go(ledger, record, works, observed, now)
    )


def _restore(record: Record) -> Decision | None:
    """What both colours share was applied with the candidate: rules, policies, Services. It goes back with the rest."""
    if record.restored or record.stable is None or record.stable.release == record.candidate.release:
        return None
    return Decision("restore", f"what both colours share becomes that of {record.stable.version} again")


def _let_go(ledger: Ledger, record: Record, works: Works, observed: Observed, now: datetime) -> Decision:
    """Without work, the candidate's request pods stay for a while, so that their logs can be read; then all of it goes."""
    new = record.candidate.colour
    others = of_kind(works, "worker", "exclusive")
    down = take_down(observed, new, none_of(others), "what acts by itself stops")
    runs = any(observed.of(name, new).wanted for name in of_kind(works, "request"))
    if not down and runs and record.settings.logs_seconds and not _enough_read(ledger, record):
        if record.logs_until is None:
            return Decision("keep-logs", "the candidate stays for a while, without traffic: its logs can be read")
        until = moment(record.logs_until)
        if now < until:
            why = f"the candidate stays without traffic until {until:%H:%M:%S} UTC: its logs can be read; `abort` ends that"
            return Decision("wait", why, until=until)
    return (
        down
        or take_down(observed, new, none_of(list(works)), "the candidate is not needed any more")
        or drain(record, observed, now, new, list(works), "what the candidate has begun is finished first")
        or Decision("rolled-back", record.reason)
    )


def _enough_read(ledger: Ledger, record: Record) -> bool:
    """Whether a person asked for the end after the way back had begun."""
    began = next((event.time for event in record.events if event.reason == "RolledBack"), None)
    return bool(ledger.abort and began and moment(ledger.abort.time) > moment(began))


__all__ = ["Blame", "Decision", "Observed", "Pods", "Verdict", "Works", "decide"]
