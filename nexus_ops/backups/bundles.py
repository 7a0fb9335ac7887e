"""Writing streams as bundles: cut, compressed one by one, hashed, encrypted and stored while the stream still comes.

Memory does not grow with the stream: so many bundles are under way, and whoever writes waits for one of them. A bundle
is one object, written once; whatever is not named by a manifest in the end is an orphan.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from nexus_ops.backups.encryption import Recipients
from nexus_ops.backups.manifest import BackupId, Bundle, Entry, Place, Stream
from nexus_ops.backups.memory import bound_memory
from nexus_ops.backups.progress import Meter
from nexus_ops.errors import PermanentError, TemporaryError
from nexus_ops.storage import AlreadyStored, ObjectStore, digest_of

Content = Literal["tar", "copy", "sql", "rdb", "json", "dump"]
Data = bytes | bytearray | memoryview
MEGABYTE = 1 << 20
SPARE = 1 << 16
"""Bytes that encryption adds to a bundle, and more."""


@dataclass(frozen=True)
class Packing:
    """How bundles are made."""

    recipients: tuple[str, ...]
    """age public keys; none: not encrypted."""
    bundle_bytes: int = 16 * MEGABYTE
    """Raw bytes of a bundle, 16 to 64 MB: larger ones need fewer objects, and more memory."""
    level: int = 1
    """zstd's; 0 stores as it comes."""
    workers: int = 3
    """Bundles under way at the same time."""


class Cancelled(TemporaryError):
    """Another part of the same backup failed first."""


class BundleWriter:
    """Writes the streams of one backup. Leaving it by an error stops what is under way."""

    def __init__(
        self, store: ObjectStore, place: Place, backup: BackupId, packing: Packing, meter: Meter | None = None
    ) -> None:
        bound_memory()
        self.store, self.place, self.backup, self.packing = store, place, backup, packing
        self.meter = meter or Meter()
        self.recipients = Recipients(packing.recipients)
        self._pool = ThreadPoolExecutor(packing.workers, thread_name_prefix="bundle")
        self._slots = threading.Semaphore(packing.workers)
        self._failed: BaseException | None = None
        self.encrypting = threading.Lock()
        """One at a time: each needs a bundle of memory twice."""
        self._free: deque[bytearray] = deque()

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._failed = self._failed or error
        self._pool.shutdown(cancel_futures=error is not None)

    def stream(self, name: str, content: Content, *, compressed: bool = False) -> StreamWriter:
        """Begin a stream; `compressed`: the server sends zstd, which is cut as it comes. Several may be open at once."""
        return StreamWriter(self, name, content, compressed)

    def submit(self, make: Callable[[], Bundle]) -> Future[Bundle]:
        """Run one bundle's work; waits while too many are under way."""
        self.check()
        self._slots.acquire()
        return self._pool.submit(self._run, make)

    def take_room(self) -> bytearray:
        """Memory for a bundle, empty or as large as it was before. It is handed on: new memory takes longer to get than to fill."""
        for _ in range(len(self._free)):
            with suppress(IndexError):  # another was faster
                room = self._free.popleft()
                try:
                    room.append(0)  # refused while the store reads it still
                    room.pop()
                    return room
                except BufferError:  # for a later bundle
                    self._free.append(room)
        return bytearray()

    def give_back(self, room: bytearray) -> None:
        """Let another bundle have it."""
        if len(room) <= self.packing.bundle_bytes + SPARE and len(self._free) < self.packing.workers:
            self._free.append(room)

    def check(self) -> None:
        """Raise what stopped another bundle: nobody goes on writing to a backup that cannot become one."""
        if self._failed is not None:
            raise self._failed

    def _run(self, make: Callable[[], Bundle]) -> Bundle:
        try:
            self.check()
            return make()
        except BaseException as error:
            self._failed = self._failed or error
            raise
        finally:
            self._slots.release()


@dataclass
class StreamWriter:
    """One stream. Not for several threads at once."""

    writer: BundleWriter
    name: str
    content: Content
    compressed: bool
    size: int | None = None
    """Bytes before compression, where the caller knows better: the server compressed it."""
    _room: bytearray | None = None
    """What the bundle under construction is written into."""
    _filled: int = 0
    _entries: list[Entry] = field(default_factory=list)
    _bundles: list[Future[Bundle]] = field(default_factory=list)
    _written: int = 0

    @property
    def room(self) -> int:
        """Bytes that the bundle under construction still takes."""
        return self.writer.packing.bundle_bytes - self._filled

    @property
    def filled(self) -> int:
        """Bytes that are in the bundle under construction."""
        return self._filled

    def write(self, data: Data) -> None:
        """Append bytes; full bundles go their way. Waits when the store is slower than the source."""
        view = memoryview(data)
        while len(view) >= self.room:
            room = self.room
            self._add(view[:room])
            view = view[room:]
            self.cut()
        self._add(view)

    def append(self, data: Data) -> None:
        """Append bytes that stay together: if need be they begin a bundle, or make one that is larger than others."""
        if self._filled and len(data) > self.room:
            self.cut()
        self._add(data)

    def _add(self, data: Data) -> None:
        if self._room is None:
            self._room = self.writer.take_room()
        end = self._filled + len(data)
        self._room[self._filled : end] = data  # it grows where that is needed
        self._filled = end

    def mark(self, entry: Entry) -> None:
        """Note what the bundle under construction holds."""
        self._entries.append(entry)

    def cut(self) -> None:
        """End the bundle under construction here."""
        if self._room is None or not self._filled:
            return
        room, filled, entries, number = self._room, self._filled, tuple(self._entries), len(self._bundles) + 1
        self._room, self._filled, self._entries = None, 0, []
        self._written += filled
        taken = [room]  # emptied by the one who packs it: memory is not kept longer than needed
        del room
        self._bundles.append(self.writer.submit(lambda: self._pack(taken, filled, entries, number)))

    def finish(self) -> Stream:
        """Wait until all is stored; the stream, for the manifest."""
        self.cut()
        wait(self._bundles, return_when=FIRST_EXCEPTION)
        self.writer.check()
        level = 0 if self.compressed else self.writer.packing.level
        return Stream(
            name=self.name,
            content=self.content,
            compression="zstd" if self.compressed or level else "none",
            level=level,
            compressed_by="server" if self.compressed else "client",
            size=self._written if self.size is None else self.size,
            bundles=tuple(future.result() for future in self._bundles),
        )

    def _pack(self, taken: list[bytearray], filled: int, entries: tuple[Entry, ...], number: int) -> Bundle:
        """Compress, encrypt and store what fills the room. Memory that is not needed any more is handed on at once."""
        writer, recipients = self.writer, self.writer.packing.recipients
        room = taken.pop()
        raw = memoryview(room)[:filled]
        raw_digest = None if recipients else digest_of(raw)
        level = 0 if self.compressed else writer.packing.level
        data: Data = raw
        if level:
            data = _compress(raw, level)
            raw.release()
            room = bytearray()  # compressing takes memory of its own: none is kept meanwhile
        if recipients:
            with writer.encrypting:
                sealed = bytearray() if level else writer.take_room()
                data = writer.recipients.encrypt(data, sealed)
            raw.release()
            if not level:
                writer.give_back(room)
            room = sealed
        digest = raw_digest if raw_digest and not level else digest_of(data)
        suffix = (".zst" if level or self.compressed else "") + (".age" if recipients else "")
        key = f"bundles/{writer.backup}/{self.name}/{number:06}{suffix}"
        store_bundle(writer.store, f"{writer.place}/{key}", data, digest)
        stored = len(data)
        del data, raw
        if not level:
            writer.give_back(room)
        writer.meter.add(done=0 if self.compressed else filled, stored=stored)
        return Bundle(
            key=key,
            raw_size=filled,
            raw_sha256=raw_digest,
            stored_size=stored,
            stored_sha256=digest,
            entries=entries,
        )


def store_bundle(store: ObjectStore, key: str, data: Data, digest: str) -> None:
    """Create the object. A request that was sent twice finds its own bytes there, and that is well."""
    try:
        store.put(key, data, create=True)
    except AlreadyStored:
        if digest_of(store.get(key)) != digest:
            raise PermanentError(
                "other bytes are stored already under the key of this bundle.", target=key, todo="Take a new backup."
            ) from None


def _compress(raw: memoryview, level: int) -> bytes:
    from zstandard import ZstdCompressor

    return ZstdCompressor(level=level, write_checksum=True).compress(raw)
