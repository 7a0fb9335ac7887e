"""Physical backups: BASE_BACKUP over the replication protocol, streamed into bundles.

The server sends its data folder as tars, with the write-ahead log from the beginning to the end of the backup, and then
its own manifest. Nothing touches a disk on the way. It compresses with zstd where it was built with it; elsewhere we do,
bundle by bundle.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from nexus_ops.backups.bundles import BundleWriter, Packing, StreamWriter
from nexus_ops.backups.catalogue import Catalogue, Listed
from nexus_ops.backups.lsn import Lsn, segment_name
from nexus_ops.backups.manifest import Entry, Manifest, Postgres, Stream, Tablespace, WalFile
from nexus_ops.backups.postgres.connection import Replication, Server, ServerFailed, connect
from nexus_ops.backups.postgres.tar import Member, TarScanner
from nexus_ops.backups.progress import Meter, Tell
from nexus_ops.errors import OperationError

BASE, OWN_MANIFEST = "base", "postgresql-manifest"
SLOT = "nexus_backup"


def tablespace_stream(oid: int) -> str:
    """The stream of a tablespace other than the data folder itself."""
    return f"tablespace-{oid}"


@dataclass(frozen=True)
class Options:
    """How a physical backup is taken."""

    server_compression: bool = True
    """Let the server compress where it can."""
    server_workers: int = 2
    """Threads that it may use for that."""
    max_rate_kb: int = 0
    """Most kilobytes a second that the server sends; 0: as fast as it can."""


@dataclass
class _Taken:
    """What came so far."""

    begin: tuple[Lsn, int]
    tablespaces: tuple[Tablespace, ...]
    streams: list[Stream] = field(default_factory=list)
    wal: list[WalFile] = field(default_factory=list)


def back_up(
    catalogue: Catalogue,
    dsn: str,
    packing: Packing,
    *,
    now: datetime,
    options: Options | None = None,
    tell: Tell | None = None,
    before_commit: Callable[[], None] = lambda: None,
) -> Listed:
    """Take a backup and commit it. Whatever stops it leaves nothing that is listed.

    `before_commit` raises when it must not become visible: its lease was lost.
    """
    options = options or Options()
    began = time.monotonic()
    warnings: list[str] = []
    with Replication(dsn) as link:
        server = link.identify()
        backup = catalogue.new_id(now)
        _hold_wal(link, f"{SLOT}_{backup.tag}", warnings)
        compressed, answer = _start(link, options, packing.level, str(backup))
        begin, spaces, total = _beginning(link, answer)
        meter = Meter(tell, total=total)
        with BundleWriter(catalogue.store, catalogue.place, backup, packing, meter) as writer:
            taken = _Taken(begin, spaces)
            _receive(link, writer, taken, compressed)
            end = _end(link)
        facts = _facts(server, taken, end, _names(dsn, warnings))
    ended = now + timedelta(seconds=time.monotonic() - began)
    manifest = Manifest(
        id=backup,
        cluster=catalogue.place.cluster,
        system="postgresql",
        kind="physical",
        started=now,
        ended=ended,
        lock_until=catalogue.locked_until(taken.streams),
        streams=tuple(taken.streams),
        recipients=packing.recipients,
        tools={"server": str(server.version), "libpq": _libpq(), **tools()},
        postgres=facts,
        warnings=tuple(warnings),
    )
    before_commit()
    return catalogue.commit(manifest)


def tools() -> dict[str, str]:
    """Versions of what packs bundles."""
    from importlib.metadata import version

    return {name: version(name) for name in ("nexus-ops", "cryptography", "zstandard", "obstore")}


def _start(link: Replication, options: Options, level: int, label: str) -> tuple[bool, Any]:
    """Send the command; whether the server compresses, and its first answer."""
    if options.server_compression and level:
        link.send(_command(options, level, label))
        try:
            return True, link.result()
        except ServerFailed as error:
            if "compression" not in error.problem:
                raise
    link.send(_command(options, 0, label))
    return False, link.result()


def _command(options: Options, level: int, label: str) -> str:
    # WAIT: the log is in the backup, so that it need not wait for an archive (which may be out of order).
    words = [f"LABEL 'nexus-ops {label}'", "CHECKPOINT 'fast'", "PROGRESS", "WAL", "WAIT false", "MANIFEST 'yes'"]
    if options.max_rate_kb:
        words.append(f"MAX_RATE {options.max_rate_kb}")
    if level:
        detail = f"level={level},workers={options.server_workers}"
        words += ["COMPRESSION 'zstd'", f"COMPRESSION_DETAIL '{detail}'"]
    return f"BASE_BACKUP ({', '.join(words)})"


def _hold_wal(link: Replication, slot: str, warnings: list[str]) -> None:
    """Let the server keep its log while the backup runs. The slot goes with the connection, however that ends."""
    try:
        link.rows(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY PHYSICAL RESERVE_WAL")
    except OperationError as error:
        warnings.append(f"no replication slot: {error.problem}")


def _beginning(link: Replication, first: Any) -> tuple[tuple[Lsn, int], tuple[Tablespace, ...], int]:
    """Where the backup begins, the tablespaces, and about how many bytes there are."""
    [(position, timeline)] = link.values(first)
    rows = link.values(link.result())
    spaces = tuple(Tablespace(oid=int(oid), location=location) for oid, location, _ in rows if oid)
    total = sum(int(size or 0) for _, _, size in rows) * 1024
    copying = link.result()
    if copying is None or not link.is_copying(copying):
        raise ServerFailed("the server sent no data.", target=link.where)
    return (Lsn.parse(position), int(timeline)), spaces, total


def _receive(link: Replication, writer: BundleWriter, taken: _Taken, compressed: bool) -> None:
    """All messages of the stream (protocol-replication, BASE_BACKUP): n(ew archive), m(anifest), d(ata), p(rogress)."""
    archive: _Archive | None = None
    done = 0
    for message in link.messages():
        kind = chr(message[0])
        if kind == "d" and archive is not None:
            archive.write(message[1:])
        elif kind == "p":
            done = int.from_bytes(message[1:9], "big")
            if compressed:  # else the bundles are counted
                writer.meter.reached(done)
        elif kind in "nm":
            if archive is not None:
                archive.finish(taken, done)
            archive = _Archive(_stream_of(bytes(message), writer, compressed), taken.wal)
        else:
            raise ServerFailed(f"the server sent a message of an unexpected kind, {kind!r}.", target=link.where)
    if archive is not None:
        archive.finish(taken, done)


def _stream_of(message: bytes, writer: BundleWriter, compressed: bool) -> StreamWriter:
    if message[:1] == b"m":
        return writer.stream(OWN_MANIFEST, "json")
    name = message[1:].split(b"\0")[0].decode().split(".")[0]
    return writer.stream(BASE if name == "base" else tablespace_stream(int(name)), "tar", compressed=compressed)


class _Archive:
    """One stream. In a tar that the server left uncompressed, it notes which file each cut goes through."""

    def __init__(self, stream: StreamWriter, wal: list[WalFile]) -> None:
        self._stream, self._wal = stream, wal
        is_open_tar = stream.content == "tar" and not stream.compressed
        self._scanner = TarScanner(self._begin, self._data) if is_open_tar else None
        self._segment: tuple[str, Any] | None = None

    def write(self, view: memoryview) -> None:
        if self._scanner is None:
            self._stream.write(view)
            return
        while view:
            part = view[: self._stream.room]
            self._scanner.feed(part)
            self._stream.write(part)
            view = view[len(part) :]
            piece = self._scanner.piece
            if not self._stream.filled and piece is not None:
                self._stream.mark(Entry(name=piece.name, offset=0, size=piece.left, at=piece.at))

    def finish(self, taken: _Taken, done: int) -> None:
        """`done`: bytes of all archives that the server has read so far."""
        self._close_segment()
        if self._stream.compressed:
            self._stream.size = done - sum(stream.size for stream in taken.streams)
        taken.streams.append(self._stream.finish())

    def _begin(self, member: Member) -> None:
        self._close_segment()
        folder, _, name = member.name.rpartition("/")
        self._segment = (name, hashlib.sha256()) if folder == "pg_wal" and len(name) == 24 else None

    def _data(self, view: memoryview) -> None:
        if self._segment:
            self._segment[1].update(view)

    def _close_segment(self) -> None:
        if self._segment:
            name, digest = self._segment
            self._wal.append(WalFile(name=name, sha256=digest.hexdigest()))
        self._segment = None


def _end(link: Replication) -> Lsn:
    """Where the backup ends; a stream that broke off has its error here."""
    result = link.result()
    if result is None or not (rows := link.values(result)):
        raise ServerFailed("the server did not say where the backup ends.", target=link.where)
    while link.result() is not None:
        pass
    return Lsn.parse(rows[0][0])


def _facts(server: Server, taken: _Taken, end: Lsn, names: tuple[tuple[str, ...], str]) -> Postgres:
    begin, timeline = taken.begin
    return Postgres(
        system_id=server.system_id,
        version=server.version,
        timeline=timeline,
        begin=begin,
        end=end,
        begin_wal=segment_name(timeline, begin, server.segment_bytes),
        end_wal=segment_name(timeline, max(begin, end - 1), server.segment_bytes),
        segment_bytes=server.segment_bytes,
        from_standby=server.in_recovery,
        data_checksums=server.data_checksums,
        tablespaces=taken.tablespaces,
        databases=names[0],
        superuser=names[1],
        wal=tuple(taken.wal),
    )


def _names(dsn: str, warnings: list[str]) -> tuple[tuple[str, ...], str]:
    """Databases and the first role, where an ordinary connection is allowed; the backup does not depend on it."""
    try:
        with connect(dsn) as link:
            databases = link.execute(
                "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"
            )
            first = link.execute("SELECT rolname FROM pg_roles WHERE oid = 10").fetchone()
            return tuple(name for (name,) in databases.fetchall()), first[0] if first else ""
    except OperationError as error:
        warnings.append(f"the names of the databases are not known: {error.problem}")
        return (), ""


def _libpq() -> str:
    from psycopg import pq

    return str(pq.version())
