"""Logical restores: into a database that is empty, or new, of the same or a later major version.

Schema, then all bundles of rows in parallel, then sequences and large objects, then indexes and constraints in parallel.
The rows of every table are counted against the manifest before it is called restored.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from nexus_ops.backups.manifest import Bundle, Manifest, Stream
from nexus_ops.backups.postgres.connection import Wire, connect, describe, explain
from nexus_ops.backups.postgres.logical import DATA, POST_DATA, PRE_DATA, REST, ROLES, SEQUENCES, environment
from nexus_ops.backups.postgres.programs import Programs
from nexus_ops.backups.postgres.restore import NotEmpty
from nexus_ops.backups.reading import BundleReader, in_parallel
from nexus_ops.errors import OperationError, PermanentError

IN_USE = """
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
    AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""
HARMLESS = ("already exists", "role names starting with")


class WrongRows(PermanentError):
    """What was restored is not what was backed up."""


def restore_logical(
    reader: BundleReader,
    dsn: str,
    *,
    database: str,
    tables: Sequence[str] | None = None,
    roles: bool = True,
    connections: int = 2,
) -> dict[str, int]:
    """Restore into `database`, which is made where it does not exist; the rows by table.

    A database that was made is dropped when the restore does not end; one that was there and empty is left as it is then.

    `tables`: only the rows of these (`schema.table`, quoted as in SQL); the schema comes whole, without foreign keys.
    """
    manifest = reader.manifest
    if manifest.kind != "logical" or manifest.postgres is None:
        raise PermanentError(f"the backup {manifest.id} is {manifest.kind}, and a logical one is needed.")
    chosen = _chosen(manifest, tables)
    made = _prepare(dsn, database)
    try:
        return _restore(reader, manifest, dsn, database, chosen, tables is not None, roles, connections)
    except BaseException:
        if made:
            _drop(dsn, database)
        raise


def _restore(
    reader: BundleReader,
    manifest: Manifest,
    dsn: str,
    database: str,
    chosen: list[str],
    some: bool,
    roles: bool,
    connections: int,
) -> dict[str, int]:
    assert manifest.postgres is not None
    with connect(dsn, dbname=database) as link:
        major = int(link.execute("SHOW server_version_num").fetchone()[0]) // 10000
    tool = _Restorer(Programs.at_least(max(major, manifest.postgres.major)), dsn, database)
    with tempfile.TemporaryDirectory(prefix="nexus-restore-") as folder:  # schemas only: pg_restore must seek in them
        files = {name: Path(folder, name) for name in (PRE_DATA, POST_DATA)}
        for name, path in files.items():
            with path.open("wb") as file:
                for raw in reader.read(manifest.stream(name)):
                    file.write(raw)
        if roles and any(stream.name == ROLES for stream in manifest.streams):
            _roles(dsn, b"".join(bytes(raw) for raw in reader.read(manifest.stream(ROLES))))
        tool.run(files[PRE_DATA])
        counts = _rows(reader, dsn, database, chosen, connections)
        with connect(dsn, dbname=database) as link:
            if positions := b"".join(bytes(raw) for raw in reader.read(manifest.stream(SEQUENCES))):
                link.execute(positions)
        tool.feed(reader, manifest.stream(REST))
        tool.run(files[POST_DATA], f"--jobs={connections}", without_foreign_keys=some)
    wanted = {table: manifest.counts[f"{manifest.postgres.databases[0]}.{table}"] for table in chosen}
    wrong = [
        f"{table} ({counts[table]} rows instead of {rows})" for table, rows in wanted.items() if counts[table] != rows
    ]
    if wrong:
        raise WrongRows(f"not all rows are there: {', '.join(wrong[:5])}.", target=f"backup {manifest.id}")
    return {table: counts[table] for table in chosen}


def _chosen(manifest: Manifest, tables: Sequence[str] | None) -> list[str]:
    prefix = f"{manifest.postgres.databases[0]}." if manifest.postgres else ""
    known = [name.removeprefix(prefix) for name in manifest.counts]
    if unknown := [table for table in tables or () if table not in known]:
        raise PermanentError(
            f"the backup {manifest.id} has no table {unknown[0]}.", todo=f"It has: {', '.join(known[:20])}."
        )
    return known if tables is None else list(tables)


def _prepare(dsn: str, database: str) -> bool:
    """The database must be empty; where there is none, it is made: whether it was."""
    from psycopg import sql

    with connect(dsn) as link:
        if not link.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
            name = sql.Identifier(database)
            link.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(name))
            return True
    with connect(dsn, dbname=database) as link:
        if link.execute(IN_USE).fetchone()[0]:
            raise NotEmpty(
                "the target is not empty, and nothing is overwritten.",
                target=describe(dsn).rpartition("/")[0] + f"/{database}",
                todo="Name a database that does not exist.",
            )
    return False


def _drop(dsn: str, database: str) -> None:
    """Take a half-restored database away; what stopped the restore is what its caller must hear of."""
    import psycopg
    from psycopg import sql

    try:
        with connect(dsn) as link:
            link.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database)))
    except (psycopg.Error, OperationError):
        pass


def _roles(dsn: str, text: bytes) -> None:
    """Make the roles that are missing; those that are there stay as they are."""
    import psycopg

    with connect(dsn) as link:
        for line in text.decode().split(";\n"):
            command = "\n".join(part for part in line.splitlines() if not part.startswith(("--", "\\"))).strip()
            if command.startswith(("CREATE ROLE", "GRANT")) or (
                command.startswith("ALTER ROLE") and " WITH " in command
            ):
                try:
                    link.execute(command)
                except psycopg.Error as error:
                    if not any(words in str(error) for words in (*HARMLESS, "must be superuser", "permission denied")):
                        raise explain(str(error), describe(dsn)) from None


def _rows(reader: BundleReader, dsn: str, database: str, tables: list[str], connections: int) -> Counter[str]:
    """All bundles of rows, each over the connection of whoever takes it; a bundle is checked before a row of it is sent."""
    import queue

    counts: Counter[str] = Counter(dict.fromkeys(tables, 0))
    lock = Lock()
    wanted = set(tables)
    todo: queue.SimpleQueue[tuple[Stream, Bundle]] = queue.SimpleQueue()
    for stream in reader.manifest.streams:
        for bundle in stream.bundles if stream.name.startswith(DATA) else ():
            if any(_table_of(entry.name) in wanted for entry in bundle.entries):
                todo.put((stream, bundle))

    def work(_: int) -> None:
        with Wire(dsn, dbname=database) as wire:
            wire.rows("SET synchronous_commit = off")
            while True:
                try:
                    stream, bundle = todo.get_nowait()
                except queue.Empty:
                    return
                raw = memoryview(reader.raw(bundle, stream))
                for entry in bundle.entries:
                    table = _table_of(entry.name)
                    if table in wanted:
                        piece = raw[entry.offset : entry.offset + entry.size]
                        rows = wire.copy_in(f"COPY {entry.name} FROM STDIN", _pieces(piece))
                        with lock:
                            counts[table] += rows

    in_parallel(range(connections), work, connections)
    return counts


def _table_of(name: str) -> str:
    """An entry is called `schema.table (columns)`; a quoted name may hold anything, and columns come last."""
    quoted = False
    for at, char in enumerate(name):
        if char == '"':
            quoted = not quoted
        elif not quoted and name.startswith(" (", at):
            return name[:at]
    return name


def _pieces(view: memoryview, size: int = 1 << 20) -> Any:
    return (bytes(view[at : at + size]) for at in range(0, len(view), size))


class _Restorer:
    """pg_restore, told by the environment where to."""

    def __init__(self, programs: Programs, dsn: str, database: str) -> None:
        self._program = programs.path("pg_restore")
        self._environment = environment(dsn)
        self._common = ["--no-password", "--exit-on-error", f"--dbname={database}"]
        self._where = describe(dsn)

    def run(self, archive: Path, *options: str, without_foreign_keys: bool = False) -> None:
        """Restore an archive in a file."""
        chosen: list[str] = []
        if without_foreign_keys:
            listed = subprocess.run([self._program, "--list", str(archive)], text=True, capture_output=True, check=True)
            kept = archive.with_suffix(".list")
            kept.write_text(
                "".join(line for line in listed.stdout.splitlines(keepends=True) if " FK CONSTRAINT " not in line)
            )
            chosen = [f"--use-list={kept}"]
        done = subprocess.run(
            [self._program, *self._common, *options, *chosen, str(archive)],
            capture_output=True, env=self._environment, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._check(done.returncode, done.stderr)

    def feed(self, reader: BundleReader, stream: Stream) -> None:
        """Restore an archive as it is read."""
        process = subprocess.Popen(
            [self._program, *self._common], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
        )
        assert process.stdin is not None
        try:
            for raw in reader.read(stream):
                process.stdin.write(raw)
        except BrokenPipeError:
            pass  # it says why
        except BaseException:
            process.kill()
            raise
        _, said = process.communicate()
        self._check(process.returncode, said)

    def _check(self, code: int, said: bytes) -> None:
        if code != 0:
            raise explain(said.decode(errors="replace"), self._where)
