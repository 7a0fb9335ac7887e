"""What happens next: a pure function of the record, of what was observed, and of the time.

It is level-triggered. It names the first thing that is not yet as it should be, so that a driver that was killed
anywhere, and one that starts anew, come to the same next step. Order is what makes it safe:

- forward: candidate ready, asked, then edge traffic, then workers, then exclusive work (old gone before new starts);
- back: the stable copy ready, then edge traffic at once, then workers, then exclusive work, and last the candidate.

What leaves is waited for until it is gone. Pods that take longer to drain than their component may are told to people,
once, and waited for further: the rollout holds, it never forces them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from nexus_ops.rollouts.record import Ledger, Reason, Record, draining_key, moment
from nexus_ops.topology import Colour, Work

Verdict = Literal["pass", "fail", "insufficient", "error"]
Blame = Literal["release", "platform"]
"""What a verdict holds responsible. A rollout that failed for the platform's sake leaves its release as good as it was."""


@dataclass(frozen=True)
class Pods:
    """One component in one colour: pods asked for, ready, and there at all (leaving ones included)."""

    wanted: int = 0
    ready: int = 0
    there: int = 0
    killed_at: datetime | None = None
    """When Kubernetes ends the last of those that leave by force (their grace is over then)."""


@dataclass(frozen=True)
class Observed:
    """What a driver saw just now."""

    pods: Mapping[tuple[str, Colour], Pods] = field(default_factory=dict)
    weight: int | None = None
    """The candidate's observed share of edge traffic (percent); None: could not be observed."""
    verdict: Verdict | None = None
    """Of monitoring, where that stage runs."""
    verdict_reason: str = ""
    blames: Blame | None = None
    """Whom a failing verdict blames; None: nobody is known to be at fault."""
    requests: float | None = None
    """The candidate's requests served in this stage, as measured; None: not measured."""
    share: float | None = None
    """The candidate's share of requests (percent) as it was measured, whether or not it is the weight."""
    weight_problem: str = ""
    """Why the weight could not be observed, in words."""

    def of(self, component: str, colour: Colour) -> Pods:
        return self.pods.get((component, colour), Pods())


@dataclass(frozen=True)
class Decision:
    """The next step, and why. `targets` are pods by component, of `colour`."""

    step: Literal[
        "validate", "apply", "scale", "wait-ready", "wait-gone", "tell", "smoke", "weight", "observe-weight", "monitor",
        "end-stage", "wait", "approve", "roll-back", "complete", "rolled-back", "nothing",
    ]  # fmt: skip
    why: str
    stage: str | None = None
    colour: Colour | None = None
    targets: Mapping[str, int] = field(default_factory=dict)
    weight: int | None = None
    until: datetime | None = None
    reason: Reason | None = None
    """Of the event that is told."""


Works = Mapping[str, Work]
"""The kind of work of each component."""


def decide(ledger: Ledger, works: Works, observed: Observed, now: datetime) -> Decision:
    """The next step of a rollout."""
    record = ledger.record
    if record is None:
        return Decision("nothing", "no rollout has begun")
    if record.finished:
        return Decision("nothing", f"the rollout is over: {record.phase}")
    if record.phase == "rolling-back":
        return _back(record, works, observed, now)
    if ledger.abort is not None:
        return Decision("roll-back", f"{ledger.abort.actor} aborted it: {ledger.abort.reason}")
    stage = record.stage
    if stage is None:
        return Decision("complete", f"{record.candidate.version} serves")
    handlers = {
        "validate": _validate,
        "deploy": _deploy,
        "smoke": _smoke,
        "switch": _switch,
        "bake": _bake,
        "clean-up": _clean_up,
    }
    if stage.kind == "switch" and record.needs_approval and ledger.approval is None:
        return Decision("approve", record.needs_approval, stage=stage.name)
    decision = handlers[stage.kind](record, works, observed, now)
    return decision or Decision("end-stage", f"{stage.name} is done", stage=stage.name)


def _of(works: Works, *kinds: Work) -> list[str]:
    return [name for name, work in works.items() if work in kinds]


def _validate(record: Record, works: Works, observed: Observed, now: datetime) -> Decision | None:
    del works, observed, now
    return None if record.replicas else Decision("validate", "prerequisites come first", stage="validate-prerequisites")


def _deploy(record: Record, works: Works, observed: Observed, now: datetime) -> Decision | None:
    """The candidate's request components at the size that the stable colour has; nothing else runs yet."""
    del now
    colour = record.candidate.colour
    if not record.applied:
        return Decision("apply", f"{record.candidate.version} is to be applied as {colour}", colour=colour)
    wanted = {name: record.replicas[name] for name in _of(works, "request")}
    return _bring_up(observed, colour, wanted, "the candidate must match the stable colour before any traffic")


def _smoke(record: Record, works: Works, observed: Observed, now: datetime) -> Decision | None:
    del observed, now
    unasked = {name: 0 for name in _of(works, "request") if name not in record.verified}
    if unasked:
        return Decision(
            "smoke", "the candidate has not been asked yet", colour=record.candidate.colour, targets=unasked
        )
    return None


def _switch(record: Record, works: Works, observed: Observed, now: datetime) -> Decision | None:
    new = record.candidate.colour
    old = record.stable.colour if record.stable else None
    requests = {name: record.replicas[name] for name in _of(works, "request")}
    if not _all_ready(observed, new, requests):
        return _bring_up(observed, new, requests, "traffic only goes to a colour that is ready")
    if decision := _to_weight(record, observed, 100, now):
        return decision
    return (
        _shift_workers(record, works, observed, to=new, away=old)
        or _hand_over(record, works, observed, now, to=new, away=old)
        or _ask_the_rest(record, works)
    )


def _ask_the_rest(record: Record, works: Works) -> Decision | None:
    unasked = {name: 0 for name in _of(works, "worker", "exclusive") if name not in record.verified}
    if unasked:
        return Decision(
            "smoke", "what started just now has not been asked yet", colour=record.candidate.colour, targets=unasked
        )
    return None


def _bake(record: Record, works: Works, observed: Observed, now: datetime) -> Decision | None:
    del works
    stage = record.stage
    assert stage is not None, "a stage that is decided about"
    if observed.verdict == "fail":
        return Decision("roll-back", f"monitoring failed: {observed.verdict_reason}")
    if stage.until is None:
        return Decision("monitor", "monitoring begins", stage=stage.name)
    until = moment(stage.until)
    if now < until:
        return Decision("wait", f"the candidate is watched until {until:%H:%M:%S} UTC", until=until)
    if observed.verdict == "pass":
        return None
    late = (now - until).total_seconds()
    if late > record.settings.insufficient_seconds:
        return Decision("roll-back", f"monitoring gave no verdict: {observed.verdict_reason or observed.verdict}")
    return Decision("wait", f"no verdict yet: {observed.verdict_reason or observed.verdict}")


def _clean_up(record: Record, works: Works, observed: Observed, now: datetime) -> Decision | None:
    if observed.verdict == "fail":
        return Decision("roll-back", f"the candidate failed within the hold: {observed.verdict_reason}")
    if record.stable is None:
        return None
    old, stage = record.stable.colour, record.stage
    assert stage is not None, "a stage that is decided about"
    if stage.until is None:
        return Decision("monitor", "the hold begins: the old colour stays as the way back", stage=stage.name)
    until = moment(stage.until)
    if now < until:
        return Decision("wait", f"the {old} colour is kept as the way back until {until:%H:%M:%S} UTC", until=until)
    if observed.weight != 100:
        return Decision("observe-weight", "the old colour stays until all traffic is seen on the new one", weight=100)
    return _take_down(observed, old, list(works), "the old colour is not needed any more") or _drain(
        record, observed, now, old, list(works), "what the old colour has begun is finished first"
    )


def _back(record: Record, works: Works, observed: Observed, now: datetime) -> Decision:
    """The way back: the stable copy serves again, then the candidate goes."""
    new = record.candidate.colour
    if record.stable is None:
        if record.weight != 0:
            return Decision("weight", "nothing may reach a candidate that failed", weight=0)
        gone = _take_down(observed, new, list(works), "a first install that failed is taken down")
        return gone or _leave(record, works, observed, now) or Decision("rolled-back", record.reason)
    old = record.stable.colour
    requests = {name: record.replicas[name] for name in _of(works, "request")} if record.replicas else {}
    if record.weight or observed.weight:
        why = "the stable colour must be ready before traffic returns"
        if decision := _bring_up(observed, old, requests, why):
            return decision
    if record.applied:
        if decision := _to_weight(record, observed, 0, now):
            return decision
        moved = _shift_workers(record, works, observed, to=old, away=new) or _hand_over(
            record, works, observed, now, to=old, away=new
        )
        if moved:
            return moved
        down = _take_down(observed, new, list(works), "the candidate is not needed any more")
        if down := down or _leave(record, works, observed, now):
            return down
    return Decision("rolled-back", record.reason)


def _leave(record: Record, works: Works, observed: Observed, now: datetime) -> Decision | None:
    why = "what the candidate has begun is finished first"
    return _drain(record, observed, now, record.candidate.colour, list(works), why)


def _all_ready(observed: Observed, colour: Colour, wanted: Mapping[str, int]) -> bool:
    return all(observed.of(name, colour).ready >= number for name, number in wanted.items())


def _bring_up(observed: Observed, colour: Colour, wanted: Mapping[str, int], why: str) -> Decision | None:
    """Scale up what is too small, then wait until all of it is ready."""
    small = {name: number for name, number in wanted.items() if observed.of(name, colour).wanted < number}
    if small:
        return Decision("scale", why, colour=colour, targets=small)
    if not _all_ready(observed, colour, wanted):
        return Decision("wait-ready", why, colour=colour, targets=wanted)
    return None


def _take_down(observed: Observed, colour: Colour, names: list[str], why: str) -> Decision | None:
    large = {name: 0 for name in names if observed.of(name, colour).wanted > 0}
    return Decision("scale", why, colour=colour, targets=large) if large else None


def _to_weight(record: Record, observed: Observed, weight: int, now: datetime) -> Decision | None:
    """Request a weight, then see it. Traffic that never follows ends a rollout; on the way back, people are told."""
    if record.weight != weight:
        return Decision("weight", f"the candidate's share of traffic becomes {weight} %", weight=weight)
    if observed.weight == weight:
        known = record.observed == weight
        return None if known else Decision("observe-weight", f"{weight} % are seen", weight=weight)
    share = "cannot be observed" if observed.weight is None else f"is still {observed.weight} %"
    because = f" ({observed.weight_problem})" if observed.weight_problem else ""
    why = f"{weight} % were requested, the share {share}{because}"
    waited = (now - moment(record.weight_since)).total_seconds() if record.weight_since else 0
    if record.observed != weight and waited > record.settings.observe_seconds:
        if record.phase == "running":
            return Decision("roll-back", f"traffic does not follow: {why} after {waited:.0f} s")
        if not any(event.reason == "WeightUnseen" for event in record.events):
            why = (
                f"traffic does not go back: {why} after {waited:.0f} s. Look at the route's status and at the gateway."
            )
            return Decision("tell", why, reason="WeightUnseen")
    return Decision("observe-weight", why, weight=weight)


def _shift_workers(
    record: Record, works: Works, observed: Observed, *, to: Colour, away: Colour | None
) -> Decision | None:
    """Workers share by replicas: those that take over are ready before the others go."""
    wanted = {name: record.replicas[name] for name in _of(works, "worker")} if record.replicas else {}
    if decision := _bring_up(observed, to, wanted, "workers start where the work goes"):
        return decision
    return _take_down(observed, away, list(wanted), "workers stop where the work came from") if away else None


def _hand_over(
    record: Record, works: Works, observed: Observed, now: datetime, *, to: Colour, away: Colour | None
) -> Decision | None:
    """Exclusive work: the old pods are gone before a new one starts. Draining is waited for, never forced."""
    wanted = {name: record.replicas[name] for name in _of(works, "exclusive")} if record.replicas else {}
    if away is not None:
        if decision := _take_down(observed, away, list(wanted), "exclusive work stops before it is handed over"):
            return decision
        why = "what exclusive work has begun is finished first"
        if decision := _drain(record, observed, now, away, list(wanted), why):
            return decision
    return _bring_up(observed, to, wanted, "exclusive work starts in its new place")


def _drain(
    record: Record, observed: Observed, now: datetime, colour: Colour, names: list[str], why: str
) -> Decision | None:
    """Wait until the pods of some components are gone; what takes too long is told once, and how it ended."""
    left = {name: 0 for name in names if observed.of(name, colour).there}
    deadlines = {name: _drain_deadline(record, name, colour) for name in left}
    for name, deadline in deadlines.items():
        if deadline is not None and now >= deadline and not record.told("DrainLate", name, colour):
            return _late(record, observed.of(name, colour), name, colour)
    if left:
        ahead = [deadline for deadline in deadlines.values() if deadline is not None and deadline > now]
        return Decision("wait-gone", why, colour=colour, targets=left, until=min(ahead, default=None))
    for name in names:
        if (late := record.told("DrainLate", name, colour)) and not _drain_told_over(record, name, colour):
            return _over(name, colour, moment(late.until) if late.until else None, now)
    return None


def _drain_deadline(record: Record, name: str, colour: Colour) -> datetime | None:
    """When a component's pods should be gone; None before it was seen that they leave."""
    began = record.draining.get(draining_key(name, colour))
    if began is None or name not in record.drain_seconds:
        return None
    return moment(began) + timedelta(seconds=record.drain_seconds[name])


def _late(record: Record, pods: Pods, name: str, colour: Colour) -> Decision:
    forced = f" Kubernetes ends them by force at {pods.killed_at:%H:%M:%S} UTC." if pods.killed_at else ""
    why = (
        f"{name} ({colour}) has not drained in its {record.drain_seconds[name]} s: {pods.there} pods are still at work. "
        f"The rollout holds.{forced} Look at what they do; an abort sends traffic back."
    )
    return Decision("tell", why, colour=colour, targets={name: 0}, until=pods.killed_at, reason="DrainLate")


def _drain_told_over(record: Record, name: str, colour: Colour) -> bool:
    return bool(record.told("DrainEnded", name, colour) or record.told("DrainKilled", name, colour))


def _over(name: str, colour: Colour, killed_at: datetime | None, now: datetime) -> Decision:
    """Late pods are gone: by themselves, or because their grace was over."""
    if killed_at is not None and now >= killed_at:
        why = (
            f"{name} ({colour}) was still at work when its grace was over at {killed_at:%H:%M:%S} UTC: Kubernetes has "
            "ended it by force. Look at what it had begun, it may be half done."
        )
        return Decision("tell", why, colour=colour, targets={name: 0}, reason="DrainKilled")
    why = f"{name} ({colour}) has finished, late. The rollout goes on."
    return Decision("tell", why, colour=colour, targets={name: 0}, reason="DrainEnded")
