"""Writing streams as bundles: cut, compressed one by one, hashed, encrypted and stored while the stream still comes.

Memory does not grow with the stream: so many bundles are under way, and whoever writes waits for one of them. A bundle
is one object, written once; whatever is not named by a manifest in the end is an orphan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
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
        """One at a time: age keeps the interpreter's lock anyway, and each needs a bundle of memory twice."""

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
    _buffer: bytearray = field(default_factory=bytearray)
    _entries: list[Entry] = field(default_factory=list)
    _bundles: list[Future[Bundle]] = field(default_factory=list)
    _written: int = 0

    @property
    def room(self) -> int:
        """Bytes that the bundle under construction still takes."""
        return self.writer.packing.bundle_bytes - len(self._buffer)

    @property
    def filled(self) -> int:
        """Bytes that are in the bundle under construction."""
        return len(self._buffer)

    def write(self, data: Data) -> None:
        """Append bytes; full bundles go their way. Waits when the store is slower than the source."""
        view = memoryview(data)
        while len(view) >= self.room:
            room = self.room
            self._buffer += view[:room]
            view = view[room:]
            self.cut()
        self._buffer += view

    def append(self, data: Data) -> None:
        """Append bytes that stay together: if need be they begin a bundle, or make one that is larger than others."""
        if self._buffer and len(data) > self.room:
            self.cut()
        self._buffer += data

    def mark(self, entry: Entry) -> None:
        """Note what the bundle under construction holds."""
        self._entries.append(entry)

    def cut(self) -> None:
        """End the bundle under construction here."""
        if not self._buffer:
            return
        raw, entries, number = self._buffer, tuple(self._entries), len(self._bundles) + 1
        self._buffer, self._entries = bytearray(), []
        self._written += len(raw)
        taken = [raw]  # emptied by the one who packs it: the raw bytes are not kept longer than needed
        del raw
        self._bundles.append(self.writer.submit(lambda: self._pack(taken, entries, number)))

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

    def _pack(self, taken: list[bytearray], entries: tuple[Entry, ...], number: int) -> Bundle:
        raw = taken.pop()
        raw_size, raw_digest = len(raw), digest_of(raw)
        level = 0 if self.compressed else self.writer.packing.level
        data: Data = _compress(raw, level) if level else raw
        del raw
        with self.writer.encrypting:
            data = self.writer.recipients.encrypt(data)
        suffix = (".zst" if level or self.compressed else "") + (".age" if self.writer.packing.recipients else "")
        key = f"bundles/{self.writer.backup}/{self.name}/{number:06}{suffix}"
        digest = digest_of(data)
        store_bundle(self.writer.store, f"{self.writer.place}/{key}", data, digest)
        self.writer.meter.add(done=0 if self.compressed else raw_size, stored=len(data))
        return Bundle(
            key=key,
            raw_size=raw_size,
            raw_sha256=raw_digest,
            stored_size=len(data),
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


def _compress(raw: bytearray, level: int) -> bytes:
    from zstandard import ZstdCompressor

    return ZstdCompressor(level=level, write_checksum=True).compress(raw)
