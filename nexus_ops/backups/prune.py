"""Removing what retention no longer wants: tombstone, grace, delete, each by what is there when it is done.

A dry run is the default everywhere. What deletes is a store with a credential of its own. Killed anywhere, the next prune goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from nexus_ops.backups.catalogue import Catalogue, Listed, Note
from nexus_ops.backups.judging import held, judged
from nexus_ops.backups.manifest import BackupId
from nexus_ops.backups.retention import Judged, Policy, removable_wal
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.storage import ObjectStore

BY = "prune"


@dataclass
class Pruned:
    """What a prune did, or in a dry run would do."""

    judged: Judged
    dry_run: bool
    damaged: tuple[tuple[BackupId, str], ...] = ()
    tombstoned: list[str] = field(default_factory=list[str])
    deleted: list[str] = field(default_factory=list[str])
    orphans: list[str] = field(default_factory=list[str])
    freed: int = 0
    """Bytes."""
    wal: int = 0
    """Segments of the archived log."""
    undone: str = ""
    """Why nothing was deleted although something could be."""

    def summary(self) -> str:
        """A sentence: what stays, and what goes or would go."""
        would = "would be " if self.dry_run else ""
        parts = [f"{len(self.judged.of('KEEP'))} backups stay"]
        for count, what in (
            (len(self.tombstoned), "tombstoned"),
            (len(self.deleted), "deleted"),
            (len(self.orphans), "left over by broken backups, removed"),
        ):
            if count:
                parts.append(f"{count} {would}{what}")
        if self.wal:
            parts.append(f"{self.wal} segments of the log {would}removed")
        if len(parts) == 1:
            parts.append("nothing is to go")
        if self.freed:
            parts.append(f"{self.freed / 1e6:.1f} MB {would}freed")
        if why := self.judged.refusal or self.undone:
            parts.append(f"but nothing is removed: {why}")
        return "; ".join(parts) + (". Dry run: nothing was changed." if self.dry_run else ".")


def prune(
    catalogue: Catalogue,
    policy: Policy,
    now: datetime,
    *,
    dry_run: bool = True,
    deleter: Callable[[], ObjectStore],
    report: Callable[[str], None] = lambda _: None,
) -> Pruned:
    """Tombstone what is obsolete, delete what was for its whole grace, collect orphans. A refusal stops all of it.

    A manifest that cannot be read is not a backup that may go: its objects stay, and it is reported.
    """
    listing = catalogue.list(tombstoned=True)
    verdicts = judged(listing, policy, now)
    done = Pruned(verdicts, dry_run, listing.damaged)
    if verdicts.refusal:
        report(f"nothing is removed: {verdicts.refusal}")
        return done
    for name in verdicts.of("OBSOLETE"):
        done.tombstoned.append(name)
        if not dry_run:
            why = next(judgement.reasons[0] for judgement in verdicts.judgements if judgement.id == name)
            catalogue.tombstone(BackupId.parse(name), Note(BY, now, why))
            report(f"{name}: tombstoned, {why}")
    _delete(catalogue, verdicts, policy, now, done, deleter, report)
    return done


def _delete(
    catalogue: Catalogue,
    verdicts: Judged,
    policy: Policy,
    now: datetime,
    done: Pruned,
    deleter: Callable[[], ObjectStore],
    report: Callable[[str], None],
) -> None:
    expired = verdicts.of("EXPIRED")
    half_gone = _half_gone(catalogue, verdicts, done)
    orphans = catalogue.orphans(now - policy.orphan_grace)
    if orphans or half_gone:
        _believe_listing(catalogue)
    wal = _removable_wal(catalogue, policy, now)
    if not expired and not half_gone and not orphans and not wal:
        return
    if done.dry_run:
        done.deleted, done.orphans, done.wal = list(expired), [str(backup) for backup in orphans], len(wal)
        return
    try:
        deleting = Catalogue(deleter(), catalogue.place)
    except OperationError as error:
        done.undone = str(error)
        report(f"nothing is deleted: {error}")
        return
    for name in expired:
        # Looked at again: somebody may have pinned it, or taken its tombstone away, since the listing.
        backup = BackupId.parse(name)
        fresh = catalogue.show(backup)
        if fresh.tombstone is None or fresh.is_pinned(now):
            continue
        done.freed += deleting.delete(backup)
        done.deleted.append(name)
        report(f"{name}: deleted")
    for backup in half_gone:
        done.freed += deleting.delete(backup)
        report(f"{backup}: what a prune that was killed had left of it, deleted")
    for backup, keys in orphans.items():
        for key in keys:
            deleting.store.delete(key)
        done.orphans.append(str(backup))
        report(f"{backup}: {len(keys)} objects of a backup that never became one, deleted")
    for key in wal:
        deleting.store.delete(key)
    done.wal = len(wal)


def _half_gone(catalogue: Catalogue, verdicts: Judged, done: Pruned) -> list[BackupId]:
    """Backups whose deletion was cut short: a tombstone, and no manifest any more. The tombstone is the last to go."""
    listed = {judgement.id for judgement in verdicts.judgements} | {str(backup) for backup, _ in done.damaged}
    tombstones = [key.rpartition("/")[2] for key in catalogue.store.list(catalogue.place.tombstones)]
    return [BackupId.parse(name) for name in tombstones if name not in listed]


def _believe_listing(catalogue: Catalogue) -> None:
    """Raise unless the listing holds what `latest` names. Were its manifests not seen, every bundle would be an orphan.

    Without any backup there is nothing to compare with: then orphans wait for the first one.
    """
    try:
        catalogue.latest()
    except OperationError as error:
        problem = (
            "there are bundles without a manifest, and the newest backup is not listed: the listing is not believed."
        )
        raise PermanentError(problem, target=str(catalogue.place), todo=f"Look first: {error}") from None


def _removable_wal(catalogue: Catalogue, policy: Policy, now: datetime) -> list[str]:
    """Keys of archived log that no promise needs. Of each server by itself: the log of one leads nowhere from another's backup.

    Tombstoned backups count as there: until they are deleted they can be brought back, and need what they needed.
    """
    if catalogue.place.system != "postgresql":
        return []
    by_server: dict[str, list[Listed]] = {}
    for one in catalogue.list(tombstoned=True).backups:
        if one.manifest.kind == "physical" and one.manifest.postgres is not None:
            by_server.setdefault(one.manifest.postgres.system_id, []).append(one)
    keys: list[str] = []
    for server, backups in by_server.items():
        root = f"{catalogue.place}/wal/{server}/"
        stored = catalogue.store.list(root.rstrip("/"))
        names = {key.removeprefix(root).partition("/")[0] for key in stored}
        gone = set(removable_wal(names, (held(one, now) for one in backups), policy, now))
        keys += [key for key in stored if key.removeprefix(root).partition("/")[0] in gone]
    return keys
