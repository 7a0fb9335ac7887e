"""The archive of the write-ahead log: what lies between two backups, so that a server can be restored to a time.

The receiver streams the log from the server through a replication slot, as pg_receivewal does: the server keeps what the
archive does not have yet. A whole segment is stored as one object, and of the one under way what there is, every few seconds,
which is as much as can be lost. An object's name says all about it: segment, end, time, hash.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nexus_ops.backups.bundles import Packing, store_bundle
from nexus_ops.backups.encryption import BadKey, Identity, Recipients
from nexus_ops.backups.lsn import Lsn, segment_name, segment_start
from nexus_ops.backups.manifest import Place
from nexus_ops.backups.postgres.connection import Replication, Server, ServerFailed
from nexus_ops.backups.reading import in_parallel
from nexus_ops.errors import OperationError, PermanentError
from nexus_ops.storage import ObjectStore, digest_of

SLOT = "nexus_archive"
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_NAME = re.compile(r"([0-9A-F]{16})-(\d{8}T\d{12}Z)-([0-9a-f]{64})(\.zst)(\.age)?")
STATUS_SECONDS = 10.0


class MissingWal(PermanentError):
    """The archive has not all of the log that is needed."""


@dataclass(frozen=True, order=True)
class Segment:
    """A segment of the log in the archive, whole or as far as it was written."""

    name: str
    end: Lsn
    at: datetime
    """When the server sent its last byte (UTC, its clock)."""
    sha256: str
    """Of what is stored."""
    encrypted: bool

    @classmethod
    def parse(cls, text: str) -> Segment:
        """Of the last two parts of its key."""
        name, _, rest = text.partition("/")
        found = _NAME.fullmatch(rest)
        if not found:
            raise PermanentError(f"{text!r} is no segment of an archive.")
        at = datetime.strptime(found[2], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
        return cls(name, Lsn(int(found[1], 16)), at, found[3], bool(found[5]))

    def __str__(self) -> str:
        stamp = self.at.astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        return f"{self.name}/{int(self.end):016X}-{stamp}-{self.sha256}.zst{'.age' if self.encrypted else ''}"


class Archive:
    """The archived log of the servers of a place; each server (system identifier) has its own."""

    def __init__(self, store: ObjectStore, place: Place, system_id: str) -> None:
        self.store, self.root = store, f"{place}/wal/{system_id}"

    def segments(self) -> dict[str, Segment]:
        """Of each segment the fullest object, by name."""
        found: dict[str, Segment] = {}
        for key in self.store.list(self.root):
            text = key.removeprefix(f"{self.root}/")
            if not text.endswith(".history"):
                segment = Segment.parse(text)
                if segment.name not in found or segment.end > found[segment.name].end:
                    found[segment.name] = segment
        return found

    def put(self, name: str, data: bytearray | bytes, end: Lsn, at: datetime, packing: Packing) -> Segment:
        """Store a segment, or its beginning."""
        from zstandard import ZstdCompressor

        compressed = ZstdCompressor(level=max(1, packing.level), write_checksum=True).compress(data)
        stored = Recipients(packing.recipients).encrypt(compressed)
        segment = Segment(name, end, at, digest_of(stored), bool(packing.recipients))
        store_bundle(self.store, f"{self.root}/{segment}", stored, segment.sha256)
        return segment

    def put_history(self, name: str, content: bytes) -> None:
        """Store what a timeline says of where it came from."""
        store_bundle(self.store, f"{self.root}/{name}", content, digest_of(content))

    def get(self, segment: Segment, identity: Identity | None, segment_bytes: int) -> bytes:
        """A whole segment; what was not written yet is zeros, as in the server's own files."""
        from zstandard import ZstdDecompressor, ZstdError

        stored = self.store.get(f"{self.root}/{segment}")
        if digest_of(stored) != segment.sha256:
            raise MissingWal("the segment was changed: its content does not match its name.", target=segment.name)
        try:
            if segment.encrypted:
                if identity is None:
                    raise BadKey("the log is encrypted and no identity was named.", target=self.root)
                stored = identity.decrypt(stored)
            data = ZstdDecompressor().decompress(stored, max_output_size=segment_bytes)
        except (ValueError, ZstdError):
            raise MissingWal("the segment does not decode.", target=segment.name) from None
        return data.ljust(segment_bytes, b"\0")

    def chain(self, timeline: int, begin: Lsn, segment_bytes: int) -> list[Segment]:
        """The segments from the one that holds `begin` as far as they go without a gap, over newer timelines too."""
        there = self.segments()
        chain: list[Segment] = []
        number = begin // segment_bytes
        known = sorted({segment_start(name, segment_bytes)[0] for name in there if int(name[:8], 16) >= timeline})
        while True:
            names = [
                segment_name(one, number * segment_bytes, segment_bytes) for one in reversed(known) if one >= timeline
            ]
            name = next((name for name in names if name in there), None)
            if name is None:
                return chain
            segment = there[name]
            chain.append(segment)
            timeline = segment_start(name, segment_bytes)[0]
            number += 1
            if segment.end < number * segment_bytes:
                return chain

    def fetch(self, segments: list[Segment], folder: Path, identity: Identity | None, segment_bytes: int) -> None:
        """Write segments, and the histories of timelines, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)

        def take(segment: Segment) -> None:
            (folder / segment.name).write_bytes(self.get(segment, identity, segment_bytes))

        in_parallel(segments, take, 3)
        for key in self.store.list(self.root):
            if key.endswith(".history"):
                (folder / key.rpartition("/")[2]).write_bytes(self.store.get(key))


LAST = 1000
"""Messages that are still taken when it is to end, where the server goes on sending."""


class Receiver:
    """Streams the log of one server into its archive."""

    def __init__(
        self,
        store: ObjectStore,
        place: Place,
        dsn: str,
        packing: Packing,
        *,
        slot: str = SLOT,
        partial_seconds: float = 10.0,
    ) -> None:
        self.store, self.place, self.dsn, self.packing = store, place, dsn, packing
        self.slot, self.partial_seconds = slot, partial_seconds
        self.stored = Lsn(0)
        """Up to where the archive has all."""

    def run(self, stop: Callable[[], bool]) -> None:
        """Receive until `stop` says so, or the connection breaks (TemporaryError: run again)."""
        with Replication(self.dsn) as link:
            server = link.identify()
            archive = Archive(self.store, self.place, server.system_id)
            _make_slot(link, self.slot)
            timeline, position = _resume(link, self.slot, archive, server)
            while not stop():
                if timeline > 1:
                    [(name, content)] = link.rows(f"TIMELINE_HISTORY {timeline}")
                    archive.put_history(name, content.encode())
                command = f"START_REPLICATION SLOT {self.slot} PHYSICAL {position} TIMELINE {timeline}"
                link.send(command)
                answer = link.result()
                if answer is None or not link.is_copying(answer):
                    raise ServerFailed("the server sends no log.", target=link.where)
                stretch = _Stretch(self, link, archive, server, timeline, position)
                following = stretch.receive(stop)
                if following is None:
                    return
                timeline, switch = following
                position = Lsn(switch - switch % server.segment_bytes)


class _Stretch:
    """The log of one timeline, from the beginning of a segment on."""

    def __init__(
        self, receiver: Receiver, link: Replication, archive: Archive, server: Server, timeline: int, position: Lsn
    ) -> None:
        self._receiver, self._link, self._archive = receiver, link, archive
        self._bytes, self._timeline = server.segment_bytes, timeline
        self._start = int(position)
        self._buffer = bytearray()
        self._at = EPOCH
        self._kept = 0
        self._kept_at = self._told = time.monotonic()

    def receive(self, stop: Callable[[], bool]) -> tuple[int, int] | None:
        """Until the timeline ends: the next one and where it begins; None when we were to stop."""
        while not stop():
            message = self._link.try_message(min(1.0, self._receiver.partial_seconds))
            if message is False:
                self._keep()
                return self._next_timeline()
            if isinstance(message, memoryview):
                self._handle(message)
            now = time.monotonic()
            if now - self._kept_at >= self._receiver.partial_seconds:
                self._keep()
            if now - self._told >= STATUS_SECONDS:
                self._tell()
        for _ in range(LAST):  # what the server has sent already comes along
            if not isinstance(message := self._link.try_message(0.0), memoryview):
                break
            self._handle(message)
        self._keep()
        self._tell()
        return None

    def _handle(self, message: memoryview) -> None:
        kind = chr(message[0])
        if kind == "w":
            self._at = EPOCH + timedelta(microseconds=int.from_bytes(message[17:25], "big"))
            data = message[25:]
            while data:
                part = data[: self._bytes - len(self._buffer)]
                self._buffer += part
                data = data[len(part) :]
                if len(self._buffer) == self._bytes:
                    self._keep()
                    self._start += self._bytes
                    self._buffer, self._kept = bytearray(), 0
        elif kind == "k" and message[17]:
            self._tell()

    def _keep(self) -> None:
        """Store the segment under way, if it grew."""
        self._kept_at = time.monotonic()
        if len(self._buffer) <= self._kept:
            return
        end = Lsn(self._start + len(self._buffer))
        name = segment_name(self._timeline, self._start, self._bytes)
        self._archive.put(name, self._buffer, end, self._at, self._receiver.packing)
        self._kept = len(self._buffer)
        self._receiver.stored = end
        self._tell()

    def _tell(self) -> None:
        """Tell the server up to where the archive has all: it may remove the log before."""
        self._told = time.monotonic()
        position = int(self._receiver.stored).to_bytes(8, "big")
        clock = int((datetime.now(UTC) - EPOCH) / timedelta(microseconds=1)).to_bytes(8, "big")
        self._link.put(b"r" + position * 3 + clock + b"\0")

    def _next_timeline(self) -> tuple[int, int]:
        self._link.end_copy()
        rows: list[tuple[str, ...]] = []
        while (result := self._link.result()) is not None:
            rows += self._link.values(result)
        if not rows:
            raise ServerFailed("the server ended the log.", target=self._link.where)
        return int(rows[0][0]), Lsn.parse(rows[0][1])


def _make_slot(link: Replication, slot: str) -> None:
    try:
        link.rows(f"CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL")
    except OperationError as error:
        if "already exists" not in error.problem:
            raise


def _resume(link: Replication, slot: str, archive: Archive, server: Server) -> tuple[int, Lsn]:
    """Timeline and position to go on from: a segment's beginning, after what the archive has without a gap."""
    [(_, position, timeline)] = link.rows(f"READ_REPLICATION_SLOT {slot}")
    begin = Lsn.parse(position) if position else server.position
    line = int(timeline or server.timeline)
    start = Lsn(begin - begin % server.segment_bytes)
    for segment in archive.chain(line, start, server.segment_bytes):
        line = segment_start(segment.name, server.segment_bytes)[0]
        start = Lsn(segment.end - segment.end % server.segment_bytes)
    return line, start


def main() -> None:
    """`python -m nexus_ops.backups.postgres.wal`: the receiver as a process, configured by the environment alone.

    Ended by SIGTERM or SIGINT, it stores what it holds first.
    """
    import signal
    import sys

    needed = ("NEXUS_BACKUP_STORE", "NEXUS_BACKUP_PLACE", "NEXUS_POSTGRES_DSN", "NEXUS_BACKUP_RECIPIENTS")
    missing = [name for name in needed if name not in os.environ]
    if missing:
        sys.exit(f'Set {", ".join(missing)}: docs/backups.md, "Restore to a time".')
    url, place, dsn, recipients = (os.environ[name] for name in needed)
    receiver = Receiver(ObjectStore.open(url), Place.parse(place), dsn, Packing(tuple(recipients.split())))
    ended: list[int] = []
    ends = (signal.SIGTERM, signal.SIGINT)
    for number in ends:
        signal.signal(number, lambda received, _: ended.append(received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)  # whoever started us may have had them blocked
    try:
        receiver.run(lambda: bool(ended))
    except OperationError as error:
        sys.exit(str(error))  # whatever runs us starts us again


if __name__ == "__main__":
    main()
