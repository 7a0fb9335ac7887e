"""From a PostgreSQL backup into a live server: whole databases, or some of their tables.

A physical backup is brought up as a scratch server, and pg_dump hands over what is wanted. A whole database is restored beside the
one that serves, and takes its name in one transaction; what served stays under another name, as the way back. Tables are replaced in
one transaction. Killed anywhere, the live database is what it was, or what it should be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from signal import SIGTERM
from typing import Any

from nexus_ops.backups.catalogue import Catalogue
from nexus_ops.backups.postgres.connection import connect, describe
from nexus_ops.backups.postgres.logical import environment
from nexus_ops.backups.postgres.logical_restore import restore_logical
from nexus_ops.backups.postgres.moments import restore_to, start_at_moment
from nexus_ops.backups.postgres.programs import Instance, Programs, initialise
from nexus_ops.backups.postgres.restore import restore
from nexus_ops.backups.reading import BundleReader
from nexus_ops.errors import PermanentError
from nexus_ops.users import become, ordinary_user

TABLES = """
SELECT n.nspname || '.' || c.relname, format('%I.%I', n.nspname, c.relname), greatest(c.reltuples, 0)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1
"""


@dataclass(frozen=True)
class Moment:
    """A time between backups, and the catalogue whose archive leads to it."""

    catalogue: Catalogue
    at: datetime


@dataclass
class Transferred:
    """What was restored, counted in the target: rows by `database.schema.table`."""

    rows: dict[str, int] = field(default_factory=dict[str, int])
    kept_as: dict[str, str] = field(default_factory=dict[str, str])
    """By database, the name under which what served before is kept."""
    seconds: float = 0.0


def contents(dsn: str, databases: Sequence[str]) -> dict[str, int]:
    """What is in some databases of a server, of those that there are: rows by `database.schema.table`, about where there are many."""
    with connect(dsn) as link:
        there = {name for (name,) in link.execute("SELECT datname FROM pg_database").fetchall()}
    found: dict[str, int] = {}
    for database in databases:
        if database in there:
            with connect(dsn, dbname=database) as link:
                for table, quoted, about in link.execute(TABLES).fetchall():
                    found[f"{database}.{table}"] = int(about) or _count(link, quoted)
    return found


def transfer(
    reader: BundleReader,
    dsn: str,
    scratch: Path,
    *,
    databases: Sequence[str],
    tables: Sequence[str] = (),
    moment: Moment | None = None,
    report: Callable[[str], None] = lambda _: None,
    before_change: Callable[[], None] = lambda: None,
) -> Transferred:
    """Restore databases, or tables of the one database that is named, into the server of a DSN.

    `tables` are written as `schema.table`; one that the backup does not hold is refused before anything is changed.
    `before_change`: the backup is up and holds what is wanted, the target is as it was.
    """
    began, done = time.monotonic(), Transferred()
    if tables and len(databases) != 1:
        raise PermanentError("tables are of one database.", todo="Name the database that they are in.")
    with connect(dsn) as link:
        major = int(link.info.server_version) // 10000
    with _brought_up(reader, scratch, moment) as server:
        report(f"the backup is up in a scratch server after {time.monotonic() - began:.1f} s")
        tools = Programs.at_least(max(major, server.programs.major))
        all_held = {database: _tables_of(server, database, tables, str(reader.manifest.id)) for database in databases}
        before_change()
        for database, held in all_held.items():
            if tables:
                _replace_tables(tools, server, dsn, database, [held[name] for name in tables])
            else:
                done.kept_as |= _replace_database(tools, server, dsn, database, str(reader.manifest.id), report)
            _compare(
                server,
                dsn,
                database,
                list(held.items()) if not tables else [(name, held[name]) for name in tables],
                done,
            )
    done.seconds = time.monotonic() - began
    return done


@contextmanager
def _brought_up(reader: BundleReader, scratch: Path, moment: Moment | None) -> Generator[Instance]:
    """The backup as a running server of its own: as it ended, or as it was at a moment that its archive leads to."""
    manifest, facts = reader.manifest, reader.manifest.postgres
    if facts is None:
        raise PermanentError("it is no backup of PostgreSQL.", target=f"backup {manifest.id}")
    programs = Programs.find(facts.major) if manifest.kind == "physical" else Programs.at_least(facts.major)
    folder = scratch / f"restore-{manifest.id}-{os.getpid()}"
    data, superuser = folder / "data", facts.superuser or "postgres"
    try:
        if manifest.kind == "logical":
            initialise(programs, data, superuser)
            with Instance(programs, data, superuser=superuser) as server:
                restore_logical(reader, server.dsn, database=facts.databases[0])
                yield server
            return
        server = Instance(programs, data, superuser=superuser)
        if moment is None:
            spaces = {space.oid: folder / f"tablespace-{space.oid}" for space in facts.tablespaces}
            restore(reader, data, tablespaces=spaces)
            server.start()
        else:
            restore_to(moment.catalogue, moment.at, reader.identity, data, wal=folder / "wal")
            start_at_moment(server)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tables_of(server: Instance, database: str, wanted: Sequence[str], backup: str) -> dict[str, str]:
    """Tables of a database in the backup, by name as it is quoted; those that are wanted must be there."""
    with server.connect() as link:
        names = [name for (name,) in link.execute("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1")]
    if database not in names:
        raise PermanentError(
            f"there is no database {database!r} in it.",
            target=f"backup {backup}",
            todo=f"It holds: {', '.join(names)}.",
        )
    with server.connect(database) as link:
        held = {name: quoted for name, quoted, _ in link.execute(TABLES).fetchall()}
    for name in wanted:
        if name not in held:
            some = ", ".join(list(held)[:20]) or "none"
            raise PermanentError(
                f"there is no table {name!r} in it.", target=f"backup {backup}, {database}", todo=f"It holds: {some}."
            )
    return held


def _replace_tables(tools: Programs, server: Instance, dsn: str, database: str, quoted: Sequence[str]) -> None:
    chosen = [word for name in quoted for word in ("--table", name)]
    _pipe(
        [
            tools.path("pg_dump"),
            "--format=custom",
            "--compress=0",
            *chosen,
            "--dbname",
            f"{server.dsn} dbname='{_escaped(database)}'",
        ],
        [
            tools.path("pg_restore"),
            "--clean",
            "--if-exists",
            "--single-transaction",
            "--exit-on-error",
            "--dbname",
            database,
        ],
        environment(dsn),
    )


def _replace_database(
    tools: Programs, server: Instance, dsn: str, database: str, backup: str, report: Callable[[str], None]
) -> dict[str, str]:
    """Restore beside, then swap names. The connections to what served are ended: they would go on writing into the past."""
    stamp = backup.replace("-", "_").lower()
    beside, before = f"{database[:30]}_new_{stamp}", f"{database[:30]}_old_{stamp}"
    with connect(dsn, dbname="postgres") as link:
        link.execute(f"DROP DATABASE IF EXISTS {_quoted(beside)} WITH (FORCE)")  # of a restore that was killed
        link.execute(f"CREATE DATABASE {_quoted(beside)} TEMPLATE template0")
    _pipe(
        [
            tools.path("pg_dump"),
            "--format=custom",
            "--compress=0",
            "--dbname",
            f"{server.dsn} dbname='{_escaped(database)}'",
        ],
        [tools.path("pg_restore"), "--single-transaction", "--exit-on-error", "--dbname", beside],
        environment(dsn),
    )
    report(f"{database}: restored beside, now it takes the name")
    with connect(dsn, dbname="postgres") as link:
        served = link.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
        if served:
            link.execute(f"DROP DATABASE IF EXISTS {_quoted(before)} WITH (FORCE)")
            link.execute(f"ALTER DATABASE {_quoted(database)} WITH ALLOW_CONNECTIONS false")
        try:
            link.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (%s, %s)", (database, beside)
            )
            with link.transaction():
                if served:
                    link.execute(f"ALTER DATABASE {_quoted(database)} RENAME TO {_quoted(before)}")
                link.execute(f"ALTER DATABASE {_quoted(beside)} RENAME TO {_quoted(database)}")
        finally:
            name = before if served and _exists(link, before) else database
            if served:
                link.execute(f"ALTER DATABASE {_quoted(name)} WITH ALLOW_CONNECTIONS true")
    return {database: before} if served else {}


def _exists(link: Any, database: str) -> bool:
    return link.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone() is not None


def _compare(server: Instance, dsn: str, database: str, tables: Sequence[tuple[str, str]], done: Transferred) -> None:
    """Count every row on both sides. The target may have more: its writers go on from the moment that a table is back."""
    with server.connect(database) as source, connect(dsn, dbname=database) as target:
        for name, quoted in tables:
            wanted, found = (link.execute(f"SELECT count(*) FROM {quoted}").fetchone()[0] for link in (source, target))
            if found < wanted:
                raise PermanentError(f"{name} has {found} rows, and {wanted} in the backup.", target=describe(dsn))
            done.rows[f"{database}.{name}"] = found


def _pipe(dump: Sequence[str], load: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run one into the other; the first that failed is the error. `variables` hold the target's password: no argument does."""
    user = ordinary_user()
    with subprocess.Popen(
        dump, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", preexec_fn=become(user, SIGTERM)
    ) as source:
        loaded = subprocess.run(
            load, stdin=source.stdout, capture_output=True, cwd="/", check=False, preexec_fn=become(user, SIGTERM), env=dict(variables)
        )  # fmt: skip
        assert source.stdout is not None
        source.stdout.close()  # or a dump whose reader has failed would wait for ever
        said = source.stderr.read() if source.stderr else b""
    for name, code, text in (("pg_restore", loaded.returncode, loaded.stderr), ("pg_dump", source.returncode, said)):
        if code != 0 and not (name == "pg_dump" and loaded.returncode != 0):
            lines = [line for line in text.decode(errors="replace").splitlines() if "error:" in line] or [
                "no reason given"
            ]
            raise PermanentError(f"{name} failed, and nothing was changed: {lines[0]}.")


def _count(link: Any, quoted: str) -> int:
    """Rows of a table that nobody has counted yet, up to a million."""
    return link.execute(f"SELECT count(*) FROM (SELECT 1 FROM {quoted} LIMIT 1000000) counted").fetchone()[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")
