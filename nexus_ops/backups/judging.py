"""What the checks say of backups: pure, from what the catalogue lists and the time it is. Each answer is a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nexus_ops.backups.catalogue import Listed, Listing
from nexus_ops.backups.manifest import Manifest
from nexus_ops.backups.retention import Held, Judged, Policy, judge

FRESH = timedelta(hours=26)
"""A day, and two hours for a backup that began or took longer than the last."""
VERIFIED = timedelta(days=8)
"""A week, and a day."""
LEFT_OVER = timedelta(days=2)
"""For how long what may go may still be there: prune runs daily."""
SHRUNK = 0.5
"""A backup of less than this part of the last one is not believed."""
SMALL = 1 << 20
"""Below this (bytes) everything may shrink."""
NONE_YET = "there is no backup yet; the schedule takes one every night, and the sensor backup_watch one that was missed"


@dataclass(frozen=True)
class Answer:
    """Whether it is as it should be, and why."""

    passed: bool
    why: str
    hours: float | None = None
    """The age that was judged."""
    first: bool = False
    """It fails because nothing has come yet at all: on its first day that is no alarm."""


def held(listed: Listed, now: datetime) -> Held:
    """A backup as retention sees it."""
    manifest, postgres = listed.manifest, listed.manifest.postgres
    anchors = manifest.kind == "physical" and postgres is not None
    return Held(
        id=str(listed.id),
        ended=manifest.ended,
        verified=listed.drill.at if listed.drill is not None and listed.drill.passed else None,
        pinned=listed.is_pinned(now),
        parent=str(manifest.parent) if manifest.parent else None,
        locked_until=manifest.lock_until,
        tombstoned=listed.tombstone.at if listed.tombstone else None,
        anchors=anchors,
        first_wal=postgres.begin_wal if anchors and postgres else None,
        last_wal=postgres.end_wal if anchors and postgres else None,
    )


def judged(listing: Listing, policy: Policy, now: datetime) -> Judged:
    """The verdicts on a listing with its tombstoned ones."""
    return judge((held(one, now) for one in listing.backups), policy, now)


def is_complete(manifest: Manifest) -> Answer:
    """Whether the manifest names all that a restore of its kind needs."""
    missing: list[str] = []
    streams = {stream.name: stream for stream in manifest.streams}
    if not manifest.streams:
        missing.append("it has no streams")
    missing += [f"the stream {name} is empty" for name, stream in streams.items() if stream.size and not stream.bundles]
    if manifest.redis is not None:
        missing += [f"node {node.id[:8]} has no RDB" for node in manifest.redis.nodes if node.stream not in streams]
        slots = sum(high - low + 1 for node in manifest.redis.nodes for low, high in node.slots)
        if manifest.redis.mode == "cluster" and slots != 16384:
            missing.append(f"{16384 - slots} slots are in no node")
    if manifest.postgres is not None and manifest.postgres.end < manifest.postgres.begin:
        missing.append("its write-ahead log ends before it begins")
    bundles = sum(len(stream.bundles) for stream in manifest.streams)
    return Answer(not missing, "; ".join(missing) or f"{len(streams)} streams in {bundles} bundles")


def is_plausible(manifest: Manifest, before: Manifest | None) -> Answer:
    """Whether a backup is not much smaller than the one before: an emptied database is backed up without any error."""
    if before is None or before.kind != manifest.kind:  # a logical one holds no indexes, a physical one does
        return Answer(True, f"the first {manifest.kind} one: there is nothing to compare it with")
    share = manifest.size / before.size if before.size else 1.0
    said = f"{manifest.size / 1e6:.1f} MB, the last one {before.size / 1e6:.1f} MB"
    return Answer(share >= SHRUNK or before.size < SMALL, said)


def is_fresh(listing: Listing, now: datetime) -> Answer:
    """Whether the newest backup is young enough."""
    if not listing.backups:
        return Answer(False, NONE_YET, first=True)
    newest = listing.backups[-1]
    return is_young(str(newest.id), newest.manifest.ended, now)


def is_young(backup: str, ended: datetime, now: datetime) -> Answer:
    """Whether a backup, the newest of its kind, ended in the last night."""
    age = now - ended
    return Answer(
        age <= FRESH, f"{backup} ended {_hours(age)} ago; allowed: {_hours(FRESH)}", age.total_seconds() / 3600
    )


def is_verified(listing: Listing, now: datetime) -> Answer:
    """Whether a drill has restored a backup lately, and the last drill did."""
    drills = [one.drill for one in listing.backups if one.drill is not None]
    passed = [drill for drill in drills if drill.passed]
    if not passed:
        failed = [finding for drill in drills for finding in drill.findings]
        said = (
            f"no drill has restored any backup: {'; '.join(failed)}"
            if failed
            else "no drill has restored any backup yet"
        )
        return Answer(False, said, first=not drills)
    newest = max(passed, key=lambda drill: drill.at)
    age = now - newest.at
    failed = [drill for drill in drills if not drill.passed and drill.at > newest.at]
    if failed:
        worst = max(failed, key=lambda drill: drill.at)
        return Answer(False, f"the last drill failed: {'; '.join(worst.findings)}", age.total_seconds() / 3600)
    said = f"{newest.backup} was restored {_hours(age)} ago; allowed: {_hours(VERIFIED)}"
    return Answer(age <= VERIFIED, said, age.total_seconds() / 3600)


def is_retained(listing: Listing, policy: Policy, now: datetime) -> Answer:
    """Whether what should be there is, and what should be gone is not there for days already."""
    problems = [f"{backup}: {why}" for backup, why in listing.damaged]
    alive = [one for one in listing.backups if one.tombstone is None]
    verified = sum(one.verified for one in alive)
    if alive and _days(now - alive[0].manifest.ended) >= policy.least_verified and verified < policy.least_verified:
        problems.append(f"{verified} verified backups; at least {policy.least_verified} are wanted")
    problems += [f"no backup of {night}" for night in _missing_nights(alive, policy, now)]
    then = judged(listing, policy, now - LEFT_OVER)
    lying = [*then.of("OBSOLETE"), *then.of("EXPIRED")]
    if lying:
        problems.append(
            f"{len(lying)} backups should be gone for days, {lying[0]} first; {then.refusal or 'does prune run?'}"
        )
    return Answer(not problems, "; ".join(problems[:5]) or f"{len(alive)} backups, {verified} of them verified")


def _missing_nights(alive: Sequence[Listed], policy: Policy, now: datetime) -> list[str]:
    """Days within the retention, after the first backup, on which none ended; today's may yet come."""
    if not alive:
        return []
    days = {one.manifest.ended.date() for one in alive}
    first = max(min(days), (now - timedelta(days=policy.days)).date())
    count = (now.date() - first).days
    return [str(day) for day in (first + timedelta(days=n) for n in range(1, count)) if day not in days]


def is_copied(listing: Listing, second: Listing | None) -> Answer:
    """Whether the newest backup is in the second region, too."""
    if second is None:
        return Answer(False, "no second store is named (NEXUS_BACKUP_DR_STORE)")
    if not listing.backups:
        return Answer(False, NONE_YET, first=True)
    newest, there = listing.backups[-1], {one.id: one.digest for one in second.backups}
    if there.get(newest.id) == newest.digest:
        return Answer(True, f"{newest.id} is there")
    return Answer(False, f"{newest.id} is not there; the newest copy is {max(there, default='none')}")


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.1f} h"


def _days(age: timedelta) -> float:
    return age.total_seconds() / 86400
