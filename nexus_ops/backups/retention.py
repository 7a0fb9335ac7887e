"""Which backups stay and which may go: pure, in the words that backups are spoken of.

A series is the backups of one kind of one cluster. `judge` gives each of them a verdict with its reasons; what removes them
(backups.prune) does no more than the verdicts say. The order of every doubt is: keep. A list that could not be
read must never come here as an empty one: the catalogue raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Verdict = Literal["KEEP", "OBSOLETE", "TOMBSTONED", "EXPIRED"]
"""KEEP: stays. OBSOLETE: no rule wants it, a tombstone is due. TOMBSTONED: within its grace period, can be brought back.
EXPIRED: its grace period is over, its objects may be deleted."""

SKEW = timedelta(hours=1)
"""How far ahead of our clock a backup may have ended before the clocks are not believed."""
_SEGMENT = re.compile(r"^[0-9A-F]{24}$")


@dataclass(frozen=True)
class Policy:
    """How long backups are kept. Declared in topology.yaml; there are no defaults."""

    days: int
    """A backup that ended within so many days stays."""
    wal_days: int
    """Every moment of so many days can be restored where there is a WAL archive."""
    last: int
    """So many of the newest stay, however old."""
    least_verified: int
    """Nothing is removed unless so many verified ones remain."""
    grace: timedelta
    """Between a backup's tombstone and its deletion; longer than any restore takes."""
    orphan_grace: timedelta
    """How old objects without a manifest must be; longer than any backup takes."""

    def __post_init__(self) -> None:
        if min(self.days, self.last, self.least_verified) < 1 or self.wal_days < 0:
            raise ValueError("days, last and least_verified must be at least 1, wal_days at least 0")
        if min(self.grace, self.orphan_grace) < timedelta(hours=1):
            raise ValueError("the grace periods must be at least an hour: a restore may be reading")


@dataclass(frozen=True)
class Held:
    """What retention needs to know of one complete backup."""

    id: str
    ended: datetime
    verified: datetime | None = None
    """When a drill last restored it."""
    pinned: bool = False
    parent: str | None = None
    """The backup without which this one cannot be restored."""
    locked_until: datetime | None = None
    """Until when the object store itself refuses to delete it (Object Lock)."""
    tombstoned: datetime | None = None
    anchors: bool = False
    """Whether WAL can be replayed onto it: physical backups of PostgreSQL."""
    first_wal: str | None = None
    last_wal: str | None = None


@dataclass(frozen=True)
class Judgement:
    """The verdict on one backup, and every rule that led to it."""

    id: str
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """All verdicts on a series, oldest first; with a `refusal`, none of them may be acted on."""

    judgements: tuple[Judgement, ...]
    refusal: str | None

    def of(self, verdict: Verdict) -> tuple[str, ...]:
        """The ids with this verdict."""
        return tuple(judgement.id for judgement in self.judgements if judgement.verdict == verdict)


def judge(series: Iterable[Held], policy: Policy, now: datetime) -> Judged:
    """Judge every backup of a series. Deterministic: the same series in another order gets the same verdicts."""
    backups = sorted(series, key=lambda backup: (backup.ended, backup.id))
    by_id = {backup.id: backup for backup in backups}
    if len(by_id) != len(backups):
        raise ValueError("a backup is in the series twice")
    reasons = _reasons_to_keep(backups, policy, now)
    _keep_parents(by_id, reasons)
    judgements = tuple(_verdict(backup, reasons.get(backup.id, []), policy, now) for backup in backups)
    return Judged(judgements, _refusal(by_id, judgements, policy, now))


def anchor(series: Iterable[Held], policy: Policy, now: datetime) -> Held | None:
    """The backup that a restore to the oldest promised moment begins with; None while none is old enough."""
    edge = now - timedelta(days=policy.wal_days)
    able = [backup for backup in series if backup.anchors and backup.tombstoned is None and backup.ended <= edge]
    return max(able, key=lambda backup: (backup.ended, backup.id), default=None)


def _reasons_to_keep(backups: Sequence[Held], policy: Policy, now: datetime) -> dict[str, list[str]]:
    """By backup, the rules that want it. A tombstone ends the claims of age and number, not those of a pin or lock."""
    reasons: dict[str, list[str]] = {}

    def keep(backup: Held, why: str) -> None:
        reasons.setdefault(backup.id, []).append(why)

    alive = [backup for backup in backups if backup.tombstoned is None]
    for backup in alive:
        if backup.ended >= now - timedelta(days=policy.days):
            keep(backup, f"younger than {policy.days} days")
    for number, backup in enumerate(reversed(alive[-policy.last :]), 1):
        keep(backup, f"number {number} of the last {policy.last}")
    if (first := anchor(alive, policy, now)) is not None:
        keep(first, f"anchor: a restore to any moment of the last {policy.wal_days} days begins with it")
    if verified := [backup for backup in alive if backup.verified is not None]:
        keep(verified[-1], "the latest verified one")
    for backup in backups:
        if backup.pinned:
            keep(backup, "pinned")
        if backup.locked_until is not None and backup.locked_until > now:
            keep(backup, f"locked by the object store until {backup.locked_until:%Y-%m-%d %H:%M} UTC")
    return reasons


def _keep_parents(by_id: Mapping[str, Held], reasons: dict[str, list[str]]) -> None:
    waiting = list(reasons)
    while waiting:
        child = by_id[waiting.pop()]
        parent = child.parent
        if parent is None or parent not in by_id:
            continue
        if parent not in reasons:
            waiting.append(parent)
        reasons.setdefault(parent, []).append(f"{child.id} cannot be restored without it")


def _verdict(backup: Held, reasons: list[str], policy: Policy, now: datetime) -> Judgement:
    if reasons:
        return Judgement(backup.id, "KEEP", tuple(reasons))
    if backup.tombstoned is None:
        why = f"older than {policy.days} days, not among the last {policy.last}, and nothing needs it"
        return Judgement(backup.id, "OBSOLETE", (why,))
    until = backup.tombstoned + policy.grace
    if now < until:
        return Judgement(backup.id, "TOMBSTONED", (f"deleted after {until:%Y-%m-%d %H:%M} UTC",))
    return Judgement(backup.id, "EXPIRED", (f"its grace period ended {until:%Y-%m-%d %H:%M} UTC",))


def _refusal(by_id: Mapping[str, Held], judgements: Sequence[Judgement], policy: Policy, now: datetime) -> str | None:
    """Why nothing may be removed, in a sentence; None when it may. Where nothing would go, nothing is refused."""
    if not any(judgement.verdict in ("OBSOLETE", "EXPIRED") for judgement in judgements):
        return None
    newest = max(by_id.values(), key=lambda backup: backup.ended)
    if newest.ended > now + SKEW:
        return (
            f"{newest.id} ended at {newest.ended:%Y-%m-%d %H:%M} UTC, which is yet to come: a clock is wrong, "
            "and ages cannot be believed."
        )
    kept = [by_id[judgement.id] for judgement in judgements if judgement.verdict == "KEEP"]
    verified = sum(backup.verified is not None and backup.tombstoned is None for backup in kept)
    if verified < policy.least_verified:
        return f"{verified} verified backups would remain; at least {policy.least_verified} must. Run the drill first."
    return None


def removable_wal(segments: Iterable[str], series: Iterable[Held], policy: Policy, now: datetime) -> tuple[str, ...]:
    """Those of the archived WAL files that no promise needs: before the anchor, and outside every backup that is left.

    Names are those of the archive, without a suffix of its compression. Only whole segments ever go: history files, backup
    labels and whatever else is there stay. Timelines are not told apart, which keeps too much rather than too
    little. Without an anchor nothing goes.
    """
    left = list(series)
    first = anchor(left, policy, now)
    if first is None or first.first_wal is None:
        return ()
    if any(backup.anchors and (backup.first_wal is None or backup.last_wal is None) for backup in left):
        return ()  # a backup that does not say what it needs may need anything
    spans = [(_number(b.first_wal), _number(b.last_wal)) for b in left if b.first_wal and b.last_wal]
    edge = _number(first.first_wal)

    def is_needed(segment: str) -> bool:
        number = _number(segment)
        return number >= edge or any(low <= number <= high for low, high in spans)

    return tuple(sorted(name for name in segments if _SEGMENT.match(name) and not is_needed(name)))


def _number(segment: str) -> int:
    """A segment's place in the log, whatever its timeline: the last 16 of its 24 digits."""
    return int(segment[8:24], 16)
