"""Backups, drills and verifications as they are launched: one at a time for each database, whatever the system.

A backup is taken, read back and copied to the second store; a drill restores the newest one, and only it moves `latest-verified`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from nexus_ops.backups.catalogue import Drill, Listed, NoBackup
from nexus_ops.backups.claim import Claim, claim
from nexus_ops.backups.context import BackupContext
from nexus_ops.backups.copies import Verification, copy, verify
from nexus_ops.backups.judging import Answer, is_complete, is_plausible, is_young
from nexus_ops.backups.manifest import BackupId
from nexus_ops.backups.progress import Meter, Progress, Tell
from nexus_ops.backups.reading import BundleReader
from nexus_ops.errors import OperationError, PermanentError


@dataclass
class Taken:
    """A backup that was taken, and what was found of it right after."""

    listed: Listed
    before: Listed | None
    """The one before it."""
    complete: Answer
    read_back: Answer
    plausible: Answer
    copied: Answer
    own: Answer
    """Whether CloudNativePG's own backup is good, where it runs the server."""

    @property
    def seconds(self) -> float:
        return self.listed.manifest.seconds

    @property
    def rpo_seconds(self) -> float | None:
        """How much was not in any backup just before this one was: the time since the one before, at its worst moment.

        None for the first one: before it everything would have been lost.
        """
        if self.before is None:
            return None
        return (self.listed.manifest.ended - self.before.manifest.started).total_seconds()


@dataclass
class Drilled:
    """What a drill found."""

    drill: Drill
    rpo_seconds: float
    """What would be lost if the database were lost at this moment, and this backup restored."""
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rows by table; keys by type."""
    sums: Mapping[str, str] = field(default_factory=dict[str, str])
    """By table, a sum over the content of its rows."""
    checked: tuple[str, ...] = ()
    size: int = 0


@contextmanager
def claimed(context: BackupContext, what: str, holder: str) -> Generator[Claim]:
    """Hold the claim on a piece of work of this database."""
    with claim(context.catalogue.store, f"{context.place}/claims/{what}", holder, clock=context.clock) as held:
        yield held


def newest(context: BackupContext) -> Listed | None:
    """The newest backup; None when there is none."""
    try:
        return context.catalogue.latest()
    except NoBackup:
        return None


def take_backup(context: BackupContext, holder: str) -> Taken:
    """Take a backup, read every bundle of it back, and copy it; `ClaimHeld` when one is being taken already."""
    with claimed(context, "backup", holder) as held:
        before = newest(context)
        with own_backup(context) as own:  # it runs beside ours
            listed = _take(context, held)
            manifest = listed.manifest
            context.report(f"{listed.id}: {manifest.size / 1e6:.1f} MB, stored {manifest.stored_size / 1e6:.1f} MB")
            return Taken(
                listed,
                before,
                is_complete(manifest),
                _answer(verify(context.catalogue, listed.id, context.identity(), tell=_tell(context))),
                is_plausible(manifest, before.manifest if before else None),
                copy_to_second(context, listed),
                own(),
            )


@contextmanager
def own_backup(context: BackupContext) -> Generator[Callable[[], Answer]]:
    """Have CloudNativePG take its own backup, where it runs the server; what is called waits for it.

    What goes wrong with it is an answer: ours is the independent copy, and is taken all the same.
    """
    declared = context.declared.postgresql
    if context.system != "postgresql" or declared is None or declared.cnpg is None:
        yield lambda: Answer(True, "CloudNativePG does not run it")
        return
    from nexus_ops.backups.postgres import cnpg

    client, namespace = context.connect(), context.cluster.data_namespace
    try:
        try:
            name = cnpg.ask(client, namespace, declared.cnpg, now=context.clock())
            archive = cnpg.archive_of(client, namespace, declared.cnpg, context.cnpg_archive)
        except OperationError as error:
            refused = Answer(False, str(error))
            yield lambda: refused
            return
        context.report(f"CloudNativePG takes its own backup, {name}")

        def result() -> Answer:
            try:
                good = cnpg.await_good(client, namespace, name, archive, seconds=cnpg.AWAIT_SECONDS)
            except OperationError as error:
                return Answer(False, str(error))
            return Answer(True, f"{name}: its log, {good.begin_wal} to {good.end_wal}, is in the archive")

        yield result
    finally:
        client.close()


def judge_own(context: BackupContext) -> Answer:
    """CloudNativePG's own newest backup, whoever asked for it. On the first day of a platform there need be none."""
    from nexus_ops.backups.postgres import cnpg

    declared = context.declared.postgresql
    if declared is None or declared.cnpg is None:
        return Answer(True, "CloudNativePG does not run it")
    namespace, now = context.cluster.data_namespace, context.clock()
    client = context.connect()
    try:
        archive = cnpg.archive_of(client, namespace, declared.cnpg, context.cnpg_archive)
        good = cnpg.newest_good(client, namespace, declared.cnpg, archive, now=now)
    except cnpg.NoCluster as error:
        return Answer(False, str(error), first=True)
    except OperationError as error:
        return Answer(False, str(error))
    finally:
        client.close()
    if good is None:
        return Answer(False, "CloudNativePG has taken no backup yet whose log is in the archive", first=True)
    return is_young(good.name, good.ended, now)


def _take(context: BackupContext, held: Claim) -> Listed:
    if context.system == "redis":
        from nexus_ops.backups import redis_backup
        from nexus_ops.backups.redis_wire import Address

        return redis_backup.back_up(
            Address.parse(context.url()),
            context.catalogue,
            context.packing,
            clock=context.clock,
            meter=Meter(_tell(context)),
            report=context.report,
            before_commit=held.check,
        )
    declared = context.declared.postgresql
    if declared is not None and declared.kind == "logical":
        from nexus_ops.backups.postgres.connection import describe
        from nexus_ops.backups.postgres.logical import back_up_logical

        return back_up_logical(
            context.catalogue,
            context.url(),
            context.packing,
            database=declared.database or describe(context.url()).rpartition("/")[2],
            now=context.clock(),
            tell=_tell(context),
            before_commit=held.check,
        )
    from nexus_ops.backups.postgres import physical

    return physical.back_up(
        context.catalogue,
        context.url(),
        context.packing,
        now=context.clock(),
        tell=_tell(context),
        before_commit=held.check,
    )


def copy_to_second(context: BackupContext, listed: Listed) -> Answer:
    """Copy a backup to the second store. That it failed is an answer: the backup itself is there."""
    if context.second is None:
        return Answer(False, "no second store is named (NEXUS_BACKUP_DR_STORE)")
    began = time.monotonic()
    try:
        copy(context.catalogue, context.second, listed.id)
    except OperationError as error:
        return Answer(False, str(error))
    return Answer(True, f"copied in {time.monotonic() - began:.1f} s to {context.second.store.url}")


def verify_all(context: BackupContext) -> dict[BackupId, Answer]:
    """Read every bundle of every backup and compare it with its manifest."""
    listing = context.catalogue.list()
    found = {backup: Answer(False, why) for backup, why in listing.damaged}
    identity = context.identity()
    for one in listing.backups:
        found[one.id] = _answer(verify(context.catalogue, one.id, identity))
        context.report(f"{context.place}: {one.id}: {found[one.id].why}")
    return found


def drill_newest(context: BackupContext, holder: str) -> Drilled:
    """Restore the newest backup into a scratch server and look at it; the result is recorded, and moves `latest-verified`."""
    with claimed(context, "drill", holder):
        listed = context.catalogue.latest()
        now = context.clock()
        rpo = (now - listed.manifest.started).total_seconds()
        context.scratch.mkdir(parents=True, exist_ok=True)
        if context.system == "redis":
            return _drill_redis(context, listed, rpo)
        return _drill_postgres(context, listed, rpo)


def _drill_redis(context: BackupContext, listed: Listed, rpo: float) -> Drilled:
    """A backup that is damaged is a drill that failed; what else hinders it is an error, and says nothing of the backup."""
    from nexus_ops.backups import redis_recovery

    began = time.monotonic()
    reader = BundleReader(context.catalogue.store, listed.manifest, context.identity())
    found = redis_recovery.Drilled()
    try:
        found = redis_recovery.drill(reader, context.scratch / f"redis-{listed.id}")
    except PermanentError as error:
        found.findings.append(str(error))
        found.seconds = time.monotonic() - began
    drill = Drill(listed.id, context.clock(), not found.findings, round(found.seconds, 3), tuple(found.findings))
    context.catalogue.record_drill(drill)
    return Drilled(drill, rpo, dict(found.by_type), {}, ("checksum", "load", "keys"), listed.manifest.size)


def _drill_postgres(context: BackupContext, listed: Listed, rpo: float) -> Drilled:
    from nexus_ops.backups.postgres.drill import drill_logical, drill_physical

    drill = drill_logical if listed.manifest.kind == "logical" else drill_physical
    identity, now, tell = context.identity(), context.clock(), _tell(context)
    report = drill(context.catalogue, listed.id, identity, context.scratch, now=now, tell=tell)
    return Drilled(
        report.drill, rpo, dict(report.counts), dict(report.sums), tuple(report.checked), listed.manifest.size
    )


def _answer(found: Verification) -> Answer:
    how = "decoded" if found.decoded else "compared with their hashes"
    if found.passed:
        return Answer(True, f"{found.bundles} bundles {how}")
    return Answer(False, "; ".join(str(damage) for damage in found.damaged[:5]))


def _tell(context: BackupContext) -> Tell:
    def tell(progress: Progress) -> None:
        context.report(str(progress))

    return tell
