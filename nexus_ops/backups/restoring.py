"""A restore that an operator dares to launch: a plan first, a second naming for what would be overwritten, a safety backup before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from nexus_ops.backups.catalogue import Listed, Note
from nexus_ops.backups.context import BackupContext
from nexus_ops.backups.operations import claimed, take_backup
from nexus_ops.backups.reading import BundleReader
from nexus_ops.errors import PermanentError, UnknownName

KEPT = timedelta(days=30)
"""How long the safety backup is pinned."""


class NotTwice(PermanentError):
    """The target holds data, and was named only once."""


@dataclass(frozen=True)
class Plan:
    """What a restore would do."""

    listed: Listed
    moment: datetime | None
    """The time that is restored to; None: the backup's own end."""
    target: str
    databases: tuple[str, ...]
    tables: tuple[str, ...]
    overwritten: dict[str, int]
    """What is in the target and would be replaced: rows by table (about), keys."""
    lost: timedelta
    """What was written in so long a time is in the target and not in the backup."""
    last_seconds: float | None
    """How long the last drill of this backup took."""

    @property
    def not_there(self) -> list[str]:
        """Tables that are wanted and not in the target; whether the backup holds them shows when it is brought up."""
        return [
            table
            for table in self.tables
            if not any(f"{database}.{table}" in self.overwritten for database in self.databases)
        ]

    @property
    def is_empty(self) -> bool:
        return not any(self.overwritten.values())

    def to_markdown(self) -> str:
        manifest = self.listed.manifest
        verified = self.listed.drill
        lines = [
            f"**Restore {manifest.place.system} of {manifest.cluster} into {self.target}**",
            "",
            f"- backup: {manifest.id} ({manifest.kind}, {manifest.size / 1e6:.1f} MB), ended {manifest.ended:%Y-%m-%d %H:%M:%S} UTC, "
            + (
                f"restored by a drill {verified.at:%Y-%m-%d %H:%M} UTC"
                if verified and verified.passed
                else "**no drill has restored it**"
            ),
            f"- what: {', '.join(self.tables) if self.tables else ', '.join(self.databases) or 'everything'}",
            *([f"- to: {self.moment:%Y-%m-%d %H:%M:%S} UTC, by the archive of WAL"] if self.moment else []),
            f"- lost: what was written in the last {_said(self.lost)}",
            f"- last time it took: {f'{self.last_seconds:.1f} s' if self.last_seconds is not None else 'unknown, no drill has restored it'}",
        ]
        if self.is_empty:
            of_it = "it has none of these tables" if self.tables else "it is empty"
            lines.append(f"- overwritten: nothing in the target, {of_it}")
        else:
            lines += ["- overwritten, after a safety backup:", "", "| what | about |", "|---|---|"]
            lines += [f"| {name} | {count} |" for name, count in list(self.overwritten.items())[:50]]
        if self.not_there:
            lines += [
                "",
                f"**Not in the target: {', '.join(self.not_there)}.** Check the spelling: whether the backup holds it shows only when "
                "the backup is up in a scratch server. If it does not, the restore is refused then, and nothing is changed.",
            ]
        return "\n".join(lines)


@dataclass
class Outcome:
    """What a restore did."""

    plan: Plan
    safety: Listed | None
    counts: dict[str, int]
    seconds: float
    kept_as: dict[str, str] = field(default_factory=dict[str, str])


def choose(context: BackupContext, source: str) -> tuple[Listed, datetime | None]:
    """The backup that is meant (`latest-verified`, `latest`, an id), or the one that leads to a time, and that time.

    A time that no archive of WAL leads to is refused, with the nearest ones (moments.NotRestorable).
    """
    try:
        moment = datetime.fromisoformat(source)
    except ValueError:
        listed = context.catalogue.resolve(source)
        if listed.tombstone is not None:
            todo = "Take its tombstone away first, if it shall be used."
            raise PermanentError(
                f"it is tombstoned: {listed.tombstone.reason}.", target=f"backup {listed.id}", todo=todo
            ) from None
        return listed, None
    if context.system == "redis":
        raise PermanentError(
            "a Redis has no archive of its writes, and cannot be restored to a time.",
            target=str(context.place),
            todo="Name a backup by its id, or latest-verified.",
        )
    from nexus_ops.backups.postgres.moments import choose as window_of

    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return window_of(context.catalogue, moment).listed, moment


def plan(
    source: BackupContext,
    target: BackupContext,
    which: str,
    *,
    databases: Sequence[str] = (),
    tables: Sequence[str] = (),
) -> Plan:
    """Look at both sides, change nothing."""
    listed, moment = choose(source, which)
    # The wrong identity and bundles that are not there are known without reading one.
    BundleReader(source.catalogue.store, listed.manifest, source.identity()).check_presence()
    now = source.clock()
    drill = listed.drill if listed.drill is not None and listed.drill.passed else None
    chosen, overwritten = (), dict[str, int]()
    if source.system == "redis":
        from nexus_ops.backups.redis_restore import keys_in
        from nexus_ops.backups.redis_wire import Address

        if databases or tables:
            raise PermanentError("a Redis is restored whole.", todo="Leave databases and tables empty.")
        overwritten["keys"] = keys_in(Address.parse(target.url()))
    else:
        chosen = _databases(listed, target, databases)
        if unclear := [name for name in tables if "." not in name]:
            todo = "Write it as schema.table, for example public.trades."
            raise PermanentError(f"the table {unclear[0]!r} has no schema.", target=f"backup {listed.id}", todo=todo)
        overwritten = _overwritten(target, chosen, tables)
    return Plan(
        listed=listed,
        target=f"{target.system} of {target.cluster.name}",
        databases=chosen,
        tables=tuple(tables),
        overwritten=overwritten,
        moment=moment,
        lost=now - (moment or listed.manifest.ended),
        last_seconds=drill.rto_seconds if drill else None,
    )


def restore(source: BackupContext, target: BackupContext, planned: Plan, named_again: str, holder: str) -> Outcome:
    """Carry a plan out. A target with data must have been named a second time (`named_again`), and is backed up first."""
    if not planned.is_empty and named_again != target.cluster.name:
        raise NotTwice(
            "the target holds data that would be overwritten.",
            target=planned.target,
            todo=f"Set target_again to {target.cluster.name}, too, if that is what you want.",
        )
    safety: list[Listed] = []
    with claimed(target, "restore", holder) as held:

        def keep_what_goes() -> None:
            """The safety backup, when the source has proven whole: a restore that is refused leaves none."""
            if not planned.is_empty:
                safety.append(take_backup(target, holder).listed)
                now = target.clock()
                note = Note(holder, now, f"before the restore of {planned.listed.id}", now + KEPT)
                target.catalogue.pin(safety[0].id, note)
                target.report(f"safety backup {safety[0].id}: pinned for {KEPT.days} days")
            held.check()

        reader = BundleReader(source.catalogue.store, planned.listed.manifest, source.identity())
        if source.system == "redis":
            from nexus_ops.backups import redis_recovery
            from nexus_ops.backups.redis_wire import Address

            done = redis_recovery.restore(
                reader,
                Address.parse(target.url()),
                replace=True,
                report=target.report,
                before_change=keep_what_goes,
            )
            return Outcome(planned, next(iter(safety), None), {"keys": done.keys}, done.seconds)
        from nexus_ops.backups.transfer import Moment, transfer

        moved = transfer(
            reader,
            target.url(),
            target.scratch,
            databases=planned.databases,
            tables=planned.tables,
            moment=Moment(source.catalogue, planned.moment) if planned.moment else None,
            report=target.report,
            before_change=keep_what_goes,
        )
        return Outcome(planned, next(iter(safety), None), moved.rows, moved.seconds, moved.kept_as)


def _databases(listed: Listed, target: BackupContext, wanted: Sequence[str]) -> tuple[str, ...]:
    """The databases that are restored: those that are named, else the one of the target's DSN."""
    held = list(listed.manifest.postgres.databases) if listed.manifest.postgres else []
    if held and (unknown := [name for name in wanted if name not in held]):
        raise UnknownName("database", unknown[0], held, target=f"backup {listed.id}")
    if wanted:
        return tuple(wanted)
    from nexus_ops.backups.postgres.connection import describe

    name = describe(target.url()).rpartition("/")[2]
    if not name:
        todo = f"Name databases; the backup holds {', '.join(held)}."
        raise PermanentError("the DSN names no database.", target=target.cluster.name, todo=todo)
    return (name,)


def _overwritten(target: BackupContext, databases: Sequence[str], tables: Sequence[str]) -> dict[str, int]:
    from nexus_ops.backups.transfer import contents

    found = contents(target.url(), databases)
    chosen = {f"{database}.{table}" for database in databases for table in tables}
    return {name: rows for name, rows in found.items() if not tables or name in chosen}


def _said(age: timedelta) -> str:
    minutes = age.total_seconds() / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
