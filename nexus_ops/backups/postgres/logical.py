"""Logical backups: one database, or some tables of it, in a form that other versions and managed servers understand.

One exported snapshot is shared by all: pg_dump writes the schema, before and after the data, and the large
objects; several connections copy slices of the tables at the same time. Everything is streamed into bundles.
"""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import IO, Any

from nexus_ops.backups.bundles import MEGABYTE, BundleWriter, Packing, StreamWriter
from nexus_ops.backups.catalogue import Catalogue, Listed
from nexus_ops.backups.lsn import Lsn
from nexus_ops.backups.manifest import Entry, Manifest, Postgres, Stream
from nexus_ops.backups.postgres.connection import Wire, connect, describe, explain
from nexus_ops.backups.postgres.physical import tools
from nexus_ops.backups.postgres.programs import Programs
from nexus_ops.backups.progress import Meter, Tell
from nexus_ops.backups.reading import in_parallel
from nexus_ops.errors import OperationError, PermanentError

PRE_DATA, POST_DATA, REST, ROLES, SEQUENCES = "pre-data", "post-data", "rest", "roles", "sequences"
DATA = "data-"
PAGE = 8192
SLICE_BYTES = 64 * MEGABYTE
"""A table is cut into slices of about this much, so that one large table keeps all connections busy."""
CHUNK = MEGABYTE
# Every table with rows of its own; those of extensions only where the extension says that its rows are to be dumped.
TABLES = """
SELECT c.oid, format('%%I.%%I', n.nspname, c.relname), pg_relation_size(c.oid), coalesce(x.condition, ''),
    (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition FROM pg_extension) x ON x.oid = c.oid
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND (x.oid IS NOT NULL OR NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
        AND d.objid = c.oid AND d.deptype = 'e'))
    AND (%(tables)s::regclass[] IS NULL OR c.oid = ANY (%(tables)s::regclass[]))
ORDER BY pg_relation_size(c.oid) DESC
"""
# All sequences, or those that belong to a column of one of the tables.
NUMBERED = """
SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    AND (%(tables)s::regclass[] IS NULL OR EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
        AND d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjid = ANY (%(tables)s::regclass[])))
ORDER BY 1
"""
_ENVIRONMENT = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
    "passfile": "PGPASSFILE", "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY", "options": "PGOPTIONS", "target_session_attrs": "PGTARGETSESSIONATTRS",
}  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """A part of a table, by pages; `table` and `columns` are quoted as SQL needs them."""

    table: str
    columns: str
    condition: str
    first: int
    after: int | None
    """The page after the last; None: to the end."""
    size: int

    @property
    def command(self) -> str:
        """The COPY that sends it."""
        where = [self.condition.strip().removeprefix("WHERE ")] if self.condition.strip() else []
        if self.first:
            where.append(f"ctid >= '({self.first},0)'::tid")
        if self.after is not None:
            where.append(f"ctid < '({self.after},0)'::tid")
        if not where and self.columns:
            return f"COPY {self.table} ({self.columns}) TO STDOUT"
        return f"COPY (SELECT {self.columns} FROM ONLY {self.table} WHERE {' AND '.join(where) or 'true'}) TO STDOUT"


def slices_of(table: str, columns: str, condition: str, size: int, slice_bytes: int = SLICE_BYTES) -> list[Slice]:
    """A table in slices; together they are the whole, whatever was appended meanwhile: the snapshot decides."""
    pages = max(1, slice_bytes // PAGE)
    starts = list(range(0, max(1, -(-size // PAGE)), pages))
    ends = [*starts[1:], None]
    return [
        Slice(table, columns, condition, first, after, min(size, slice_bytes))
        for first, after in zip(starts, ends, strict=True)
    ]


def back_up_logical(
    catalogue: Catalogue,
    dsn: str,
    packing: Packing,
    *,
    database: str,
    now: datetime,
    tables: Sequence[str] | None = None,
    connections: int = 2,
    tell: Tell | None = None,
    before_commit: Callable[[], None] = lambda: None,
) -> Listed:
    """Back up a database, or some of its tables (`schema.table`, quoted as in SQL)."""
    began = time.monotonic()
    warnings: list[str] = []
    with connect(dsn, dbname=database) as link:
        version = int(link.execute("SHOW server_version_num").fetchone()[0])
        programs = Programs.at_least(version // 10000)
        link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = link.execute("SELECT pg_export_snapshot()").fetchone()[0]
        parts = _slices(link, tables, describe(dsn))
        facts = _facts(link, version, database)
        backup = catalogue.new_id(now)
        meter = Meter(tell, total=sum(part.size for part in parts))
        # Each connection fills a bundle of its own: two under way beside them keep the memory within bounds.
        few = replace(packing, workers=min(packing.workers, 2))
        with BundleWriter(catalogue.store, catalogue.place, backup, few, meter) as writer:
            dumps = _Dumps(programs, dsn, database, snapshot, tables, writer)
            streams = [*dumps.roles(warnings), dumps.section(PRE_DATA, "--section=pre-data")]
            copied, counts = _copy(writer, dsn, database, snapshot, parts, connections)
            numbers = _sequences(link, tables, writer, describe(dsn))
            streams += [*copied, numbers, dumps.rest(), dumps.section(POST_DATA, "--section=post-data")]
    ended = now + timedelta(seconds=time.monotonic() - began)
    manifest = Manifest(
        id=backup,
        cluster=catalogue.place.cluster,
        system="postgresql",
        kind="logical",
        started=now,
        ended=ended,
        lock_until=catalogue.locked_until(streams),
        streams=tuple(streams),
        recipients=packing.recipients,
        tools={"server": str(version), "pg_dump": str(programs.major), **tools()},
        postgres=facts,
        counts={f"{database}.{table}": rows for table, rows in sorted(counts.items())},
        warnings=tuple(warnings),
    )
    before_commit()
    return catalogue.commit(manifest)


def environment(dsn: str) -> dict[str, str]:
    """A DSN as libpq's variables: on a command line everybody could read the password."""
    import os

    import psycopg.conninfo

    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    given = {
        _ENVIRONMENT[name]: str(value) for name, value in parts.items() if name in _ENVIRONMENT and value is not None
    }
    return {**os.environ, "PGAPPNAME": "nexus-ops backup", **given}


class _Dumps:
    """What pg_dump and pg_dumpall write, straight into streams."""

    def __init__(
        self,
        programs: Programs,
        dsn: str,
        database: str,
        snapshot: str,
        tables: Sequence[str] | None,
        writer: BundleWriter,
    ) -> None:
        self._programs, self._writer, self._where = programs, writer, describe(dsn)
        self._environment = environment(dsn)
        self._database, self._tables = database, tables
        self._arguments = [
            "--format=custom",
            "--compress=0",
            f"--snapshot={snapshot}",
            "--no-sync",
            f"--dbname={database}",
        ]

    def section(self, name: str, *options: str) -> Stream:
        chosen = [f"--table={table}" for table in self._tables or ()]
        return self._stream(name, "pg_dump", *self._arguments, *options, *chosen)

    def rest(self) -> Stream:
        """All data that is in no table and no sequence: large objects."""
        return self.section(REST, "--section=data", "--exclude-table-data=*.*")

    def roles(self, warnings: list[str]) -> list[Stream]:
        """Roles belong to no database. Managed servers keep their passwords to themselves."""
        if self._tables is not None:
            return []
        common = ("--roles-only", f"--database={self._database}")
        try:
            self._run(lambda _: None, "pg_dumpall", *common)
            return [self._stream(ROLES, "pg_dumpall", *common)]
        except OperationError:
            warnings.append("roles are without passwords: the server does not show them to this role.")
        try:
            return [self._stream(ROLES, "pg_dumpall", "--no-role-passwords", *common)]
        except OperationError as error:
            warnings.append(f"roles are not in the backup: {error.problem}")
            return []

    def _stream(self, name: str, program: str, *arguments: str) -> Stream:
        stream = self._writer.stream(name, "sql" if program == "pg_dumpall" else "dump")
        self._run(stream.write, program, *arguments)
        return stream.finish()

    def _run(self, write: Any, program: str, *arguments: str) -> None:
        process = subprocess.Popen(
            [self._programs.path(program), "--no-password", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment,
        )  # fmt: skip
        assert process.stdout is not None
        said: list[bytes] = []
        listener = threading.Thread(target=_drain, args=(process.stderr, said))
        listener.start()
        try:
            while piece := process.stdout.read(CHUNK):
                write(piece)
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            code = process.wait()
            listener.join()
        if code != 0:
            raise explain(f"{program}: {b''.join(said).decode(errors='replace')}", self._where)


def _drain(pipe: IO[bytes] | None, said: list[bytes]) -> None:
    if pipe is not None:
        with pipe:
            said.append(pipe.read())


def _slices(link: Any, tables: Sequence[str] | None, where: str) -> list[Slice]:
    import psycopg

    try:
        rows = link.execute(TABLES, {"tables": list(tables) if tables is not None else None}).fetchall()
        if tables is not None and len(rows) < len(tables):
            raise PermanentError(f"not all of {', '.join(tables)} are tables with rows.", target=where)
        for at in range(0, len(rows), 500):  # they must not be dropped meanwhile
            names = ", ".join(name for _, name, *_ in rows[at : at + 500])
            link.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
    except psycopg.Error as error:
        raise explain(str(error), where) from None
    return [
        part for _, name, size, condition, columns in rows for part in slices_of(name, columns or "", condition, size)
    ]


def _sequences(link: Any, tables: Sequence[str] | None, writer: BundleWriter, where: str) -> Stream:
    """Where each sequence is, as SQL. Sequences know no snapshot: read after the rows, none is behind them."""
    import psycopg

    stream = writer.stream(SEQUENCES, "sql")
    try:
        rows = link.execute(NUMBERED, {"tables": list(tables) if tables is not None else None}).fetchall()
        names = [name for (name,) in rows]
        for at in range(0, len(names), 200):
            question = " UNION ALL ".join(
                f"SELECT {_literal(name)}, last_value, is_called FROM {name}" for name in names[at : at + 200]
            )
            for name, value, is_called in link.execute(question.replace("%", "%%"), ()):
                stream.write(
                    f"SELECT pg_catalog.setval({_literal(name)}, {value}, {str(is_called).lower()});\n".encode()
                )
    except psycopg.Error as error:
        raise explain(str(error), where) from None
    return stream.finish()


def _literal(text: str) -> str:
    from psycopg import sql

    return sql.Literal(text).as_string()


def _copy(
    writer: BundleWriter, dsn: str, database: str, snapshot: str, parts: list[Slice], connections: int
) -> tuple[list[Stream], dict[str, int]]:
    """Copy all slices over several connections, each into a stream of its own; rows by table."""
    waiting: queue.SimpleQueue[Slice] = queue.SimpleQueue()
    for part in parts:
        waiting.put(part)
    counts = {part.table: 0 for part in parts}
    lock = threading.Lock()
    streams: dict[int, Stream] = {}

    def work(number: int) -> None:
        stream = writer.stream(f"{DATA}{number}", "copy")
        with Wire(dsn, dbname=database) as wire:
            wire.rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            wire.rows(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            for part in _taken(waiting):
                writer.check()
                rows = _copy_slice(wire, part, stream)
                with lock:
                    counts[part.table] += rows
        streams[number] = stream.finish()

    in_parallel(range(1, connections + 1), work, connections)
    return [streams[number] for number in sorted(streams)], counts


def _taken(waiting: queue.SimpleQueue[Slice]) -> Iterator[Slice]:
    while True:
        try:
            yield waiting.get_nowait()
        except queue.Empty:
            return


def _copy_slice(wire: Wire, part: Slice, stream: StreamWriter) -> int:
    """One COPY. A bundle holds whole rows, and says of which table: it can be restored without any other."""
    wire.send(part.command)
    wire.result()
    name = f"{part.table} ({part.columns})"
    begin = stream.filled
    rows: list[bytes] = []
    size = 0

    def flush() -> None:
        nonlocal begin, size
        if not rows:
            return
        if stream.filled and size > stream.room:
            if stream.filled > begin:
                stream.mark(Entry(name=name, offset=begin, size=stream.filled - begin))
            stream.cut()
            begin = 0
        stream.append(b"".join(rows))
        rows.clear()
        size = 0

    for message in wire.messages():
        rows.append(bytes(message))
        size += len(message)
        if size >= CHUNK // 4:
            flush()
    flush()
    if stream.filled > begin:
        stream.mark(Entry(name=name, offset=begin, size=stream.filled - begin))
    return wire.copied()


def _facts(link: Any, version: int, database: str) -> Postgres:
    import psycopg

    in_recovery = link.execute("SELECT pg_is_in_recovery()").fetchone()[0]
    position = "pg_last_wal_replay_lsn" if in_recovery else "pg_current_wal_lsn"
    try:
        with link.transaction():
            system, timeline = link.execute(
                "SELECT system_identifier, timeline_id FROM pg_control_system(), pg_control_checkpoint()"
            ).fetchone()
            at = Lsn.parse(link.execute(f"SELECT {position}()").fetchone()[0])
    except psycopg.Error:  # managed servers (Aurora among them) do not all tell
        system, timeline, at = "", 0, Lsn(0)
    return Postgres(
        system_id=str(system),
        version=version,
        timeline=timeline,
        begin=at,
        end=at,
        begin_wal="",
        end_wal="",
        segment_bytes=0,
        from_standby=in_recovery,
        databases=(database,),
    )
