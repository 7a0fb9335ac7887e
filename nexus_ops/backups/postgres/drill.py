"""Drills: a backup is restored into a scratch server, which is started and looked at. Only that proves it.

What is measured is the time that a real restore takes, from the first byte read to a server that answers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from nexus_ops.backups.catalogue import Catalogue, Drill
from nexus_ops.backups.encryption import BadKey, Identity
from nexus_ops.backups.manifest import BackupId, Manifest, Postgres
from nexus_ops.backups.postgres import own_manifest
from nexus_ops.backups.postgres.logical_restore import restore_logical
from nexus_ops.backups.postgres.programs import Instance, Programs, initialise
from nexus_ops.backups.postgres.restore import CannotWrite, restore
from nexus_ops.backups.progress import Meter, Tell
from nexus_ops.backups.reading import BundleReader
from nexus_ops.errors import PermanentError
from nexus_ops.storage import BadStore, StoreRefused

RELATIONS = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND c.relpersistence = 'p' ORDER BY 1
"""
SUMMED = "SELECT count(*), coalesce(sum(hashtextextended(whole::text, 0)), 0)::text FROM {table} AS whole"
"""Rows of a table, and the sum of the hashes of their text."""


@dataclass
class Report:
    """What a drill found."""

    drill: Drill
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows by `database.schema.table`."""
    sums: Mapping[str, str] = field(default_factory=dict)
    """By the same, the sum of a hash of every row: equal where the same rows are there, in whatever order."""
    checked: list[str] = field(default_factory=list)
    """What was run: pg_verifybackup (or backup_manifest, by us, where that does not run), start, counts, sums, pg_amcheck."""


def drill_physical(
    catalogue: Catalogue,
    backup: BackupId,
    identity: Identity | None,
    scratch: Path,
    *,
    now: datetime,
    clock: Callable[[], float] = time.monotonic,
    tell: Tell | None = None,
) -> Report:
    """Restore into a folder below `scratch`, check, start, count; the result is recorded, and the folder removed.

    A backup that is damaged is a drill that failed, and no error; whatever else hinders it (no programs, no disk, no
    store) is an error, and says nothing about the backup.
    """
    manifest = catalogue.show(backup).manifest
    facts = _facts(manifest, "physical")
    programs = Programs.find(facts.major)

    def run(reader: BundleReader, folder: Path, report: Report, watch: _Watch) -> None:
        data = folder / "data"
        spaces = {space.oid: folder / f"tablespace-{space.oid}" for space in facts.tablespaces}
        restore(reader, data, tablespaces=spaces)
        with watch.paused():
            report.checked.append(_verify(programs, data, facts.segment_bytes, bool(spaces)))
        with Instance(programs, data, superuser=facts.superuser or "postgres") as server:
            watch.stop()
            report.checked.append("start")
            _look(programs, server, report)

    return _drill(catalogue, manifest, identity, scratch, now, _Watch(clock), tell, run)


def drill_logical(
    catalogue: Catalogue,
    backup: BackupId,
    identity: Identity | None,
    scratch: Path,
    *,
    now: datetime,
    clock: Callable[[], float] = time.monotonic,
    tell: Tell | None = None,
) -> Report:
    """As `drill_physical`, into a new server; rows are counted against the manifest."""
    manifest = catalogue.show(backup).manifest
    facts = _facts(manifest, "logical")
    programs = Programs.at_least(facts.major)

    def run(reader: BundleReader, folder: Path, report: Report, watch: _Watch) -> None:
        data = folder / "data"
        initialise(programs, data, "nexus_drill")
        with Instance(programs, data, superuser="nexus_drill", settings={"fsync": "off"}) as server:
            report.checked.append("start")
            restore_logical(reader, server.dsn, database=facts.databases[0])
            watch.stop()
            _look(programs, server, report)

    return _drill(catalogue, manifest, identity, scratch, now, _Watch(clock), tell, run)


def _facts(manifest: Manifest, kind: str) -> Postgres:
    if manifest.kind != kind or manifest.postgres is None:
        raise PermanentError(f"the backup {manifest.id} is {manifest.kind}; this drill is for {kind} ones.")
    return manifest.postgres


class _Watch:
    """Measures what a real restore would take: checks that only a drill makes do not count."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._seconds: float | None = None

    @contextmanager
    def paused(self) -> Generator[None]:
        since = self._clock()
        try:
            yield
        finally:
            self._began += self._clock() - since

    def stop(self) -> None:
        self._seconds = self._clock() - self._began

    @property
    def seconds(self) -> float:
        return self._clock() - self._began if self._seconds is None else self._seconds


def _drill(
    catalogue: Catalogue,
    manifest: Manifest,
    identity: Identity | None,
    scratch: Path,
    now: datetime,
    watch: _Watch,
    tell: Tell | None,
    run: Callable[[BundleReader, Path, Report, _Watch], None],
) -> Report:
    reader = BundleReader(catalogue.store, manifest, identity, meter=Meter(tell, total=manifest.size))
    folder = scratch / f"drill-{manifest.id}"
    report = Report(Drill(manifest.id, now, False, 0.0))
    findings: tuple[str, ...] = ()
    try:
        run(reader, folder, report, watch)
    except (BadKey, StoreRefused, BadStore, CannotWrite):
        raise  # our key, the store or the disk: it says nothing about the backup
    except PermanentError as error:
        findings = (str(error),)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.drill = Drill(manifest.id, now, not findings, watch.seconds, findings)
    catalogue.record_drill(report.drill)
    return report


def _look(programs: Programs, server: Instance, report: Report) -> None:
    report.counts, report.sums = _count(server)
    report.checked.append("counts")
    if unread := sorted(report.counts.keys() - report.sums.keys()):
        report.checked.append(f"sums of all but {', '.join(unread[:3])}, whose types need a library that is not here")
    else:
        report.checked.append("sums")
    if _amcheck(programs, server):
        report.checked.append("pg_amcheck")


def _verify(programs: Programs, data: Path, segment_bytes: int, relocated: bool) -> str:
    """PostgreSQL's own check of every file against its manifest, and of the log that recovery needs; what did it."""
    if programs.run("pg_verifybackup", "--version", check=False).returncode == 0:
        programs.run("pg_verifybackup", *(["--ignore=tablespace_map"] if relocated else []), str(data))
        return "pg_verifybackup"
    found = own_manifest.problems(data, segment_bytes, ("tablespace_map", "pg_tblspc") if relocated else ())
    if found:
        raise PermanentError(found[0], target=str(data))
    return "files by their manifest (read by nexus-ops: pg_verifybackup does not run here)"


def _count(server: Instance) -> tuple[dict[str, int], dict[str, str]]:
    """Rows and sums of every table of every database.

    Each is read whole, with the values that are kept apart for their size (TOAST), so that a page that cannot be read is found.
    """
    from psycopg.errors import UndefinedFile

    counts: dict[str, int] = {}
    sums: dict[str, str] = {}
    with server.connect() as link:
        names = [
            name for (name,) in link.execute("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate")
        ]
    for database in names:
        with server.connect(database) as link:
            for (table,) in link.execute(RELATIONS).fetchall():
                name = f"{database}.{table}"
                try:
                    counts[name], sums[name] = link.execute(SUMMED.format(table=table)).fetchone()
                except UndefinedFile:  # of an extension that this machine does not have
                    counts[name] = link.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    return counts, sums


def _amcheck(programs: Programs, server: Instance) -> bool:
    """Check indexes and heaps where the server has the extension amcheck."""
    with server.connect() as link:
        if not link.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'").fetchone():
            return False
    programs.run("pg_amcheck", "--all", "--install-missing", "--host", str(server.socket),
                 "--username", server.superuser)  # fmt: skip
    return True
