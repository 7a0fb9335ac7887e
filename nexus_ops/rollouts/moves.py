"""The moves of which a rollout is made, forward and back: each names the next step towards it, None when it is done.

What takes over is ready before what it relieves goes; exclusive work is the other way round: the old is gone before the
new one starts. What leaves is waited for until it is gone. Pods that take longer to drain than their component may are
told to people, once, and waited for further: the rollout holds, it never forces them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from nexus_ops.rollouts.decision import Decision, Observed, Pods, Works
from nexus_ops.rollouts.record import Record, draining_key, moment
from nexus_ops.topology import Colour, Work


def of_kind(works: Works, *kinds: Work) -> list[str]:
    """The components that do work of these kinds."""
    return [name for name, work in works.items() if work in kinds]


def sizes(record: Record, works: Works, *kinds: Work) -> dict[str, int]:
    """How many pods the colour that serves has, of components of these kinds; empty before it was looked."""
    return {name: record.replicas[name] for name in of_kind(works, *kinds)} if record.replicas else {}


def bring_up(observed: Observed, colour: Colour, wanted: Mapping[str, int], why: str) -> Decision | None:
    """Scale up what is too small, then wait until all of it is ready."""
    small = {name: number for name, number in wanted.items() if observed.of(name, colour).wanted < number}
    if small:
        return Decision("scale", why, colour=colour, targets=small)
    if any(observed.of(name, colour).ready < number for name, number in wanted.items()):
        return Decision("wait-ready", why, colour=colour, targets=wanted)
    return None


def take_down(observed: Observed, colour: Colour, wanted: Mapping[str, int], why: str) -> Decision | None:
    """Scale down what is larger than this."""
    large = {name: number for name, number in wanted.items() if observed.of(name, colour).wanted > number}
    return Decision("scale", why, colour=colour, targets=large) if large else None


def none_of(names: list[str]) -> dict[str, int]:
    """No pods of these components."""
    return dict.fromkeys(names, 0)


def ask(record: Record, names: list[str], why: str) -> Decision | None:
    """Ask the candidate's components that have not been asked yet."""
    unasked = [name for name in names if name not in record.verified]
    return Decision("smoke", why, colour=record.candidate.colour, targets=none_of(unasked)) if unasked else None


def to_weight(record: Record, observed: Observed, weight: int, now: datetime) -> Decision | None:
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


def share_workers(
    record: Record, works: Works, observed: Observed, *, to: Colour, away: Colour | None, weight: int = 100
) -> Decision | None:
    """Workers share by replicas: `to` gets `weight` percent, at least one, and has it before the other colour goes down.

    Both together are never fewer than one colour has when it serves alone, and neither is without any before the end.
    """
    wanted = sizes(record, works, "worker")
    taking = {name: -(-number * weight // 100) for name, number in wanted.items()}
    if decision := bring_up(observed, to, taking, "workers start where the work goes"):
        return decision
    if away is None:
        return None
    least = 0 if weight == 100 else 1
    left = {name: max(min(least, number), number - taking[name]) for name, number in wanted.items()}
    return take_down(observed, away, left, "workers stop where the work came from")


def hand_over(
    record: Record, works: Works, observed: Observed, now: datetime, *, to: Colour, away: Colour | None
) -> Decision | None:
    """Exclusive work: the old pods are gone before a new one starts. Draining is waited for, never forced."""
    wanted = sizes(record, works, "exclusive")
    if away is not None:
        why = "exclusive work stops before it is handed over"
        if decision := take_down(observed, away, none_of(list(wanted)), why):
            return decision
        why = "what exclusive work has begun is finished first"
        if decision := drain(record, observed, now, away, list(wanted), why):
            return decision
    return bring_up(observed, to, wanted, "exclusive work starts in its new place")


def drain(
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
