"""Reading bundles: each is checked against the manifest before a byte of it is used, several at once.

A wrong object has a name: missing, cut short, changed, another bundle's, or encrypted to somebody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
from typing import Literal, TypeVar

from nexus_ops.backups.encryption import BadKey, Identity
from nexus_ops.backups.manifest import Bundle, Manifest, Stream
from nexus_ops.backups.memory import bound_memory
from nexus_ops.backups.progress import Meter
from nexus_ops.errors import PermanentError
from nexus_ops.storage import NotStored, ObjectStore, digest_of

Damage = Literal["missing", "truncated", "swapped", "modified", "undecodable"]
Data = bytes | bytearray | memoryview
Thing = TypeVar("Thing")
AHEAD = 2
"""Bundles that are read before they are asked for. More would only fill the memory."""


class DamagedBundle(PermanentError):
    """A bundle that is not what the manifest says."""

    def __init__(self, damage: Damage, bundle: Bundle, detail: str) -> None:
        self.damage, self.bundle = damage, bundle
        super().__init__(
            f"the bundle is {damage}: {detail}.",
            target=bundle.key,
            todo="Restore another backup, or this one from its second copy.",
        )


class BundleReader:
    """Reads the bundles of one backup."""

    def __init__(
        self,
        store: ObjectStore,
        manifest: Manifest,
        identity: Identity | None,
        *,
        workers: int = 3,
        meter: Meter | None = None,
    ) -> None:
        """`identity`: None where the backup is not encrypted; the wrong one is refused here, before anything is read."""
        if identity is not None and manifest.recipients and not set(identity.public_keys) & set(manifest.recipients):
            raise BadKey("this identity is not among those it was encrypted to.", target=f"backup {manifest.id}")
        bound_memory()
        self.store, self.manifest, self.identity, self.workers = store, manifest, identity, workers
        self.meter = meter or Meter()
        self._decrypting = Lock()
        """One at a time: each needs a bundle of memory twice."""
        self._by_hash = {bundle.stored_sha256: bundle.key for stream in manifest.streams for bundle in stream.bundles}

    def check_presence(self) -> None:
        """That every bundle is stored, in its size, by one listing; else `DamagedBundle`. What they hold, it cannot tell."""
        place = self.manifest.place
        sizes = {entry.key: entry.size for entry in self.store.entries(f"{place.bundles}/{self.manifest.id}")}
        for stream in self.manifest.streams:
            for bundle in stream.bundles:
                size = sizes.get(f"{place}/{bundle.key}")
                if size is None:
                    raise DamagedBundle("missing", bundle, "nothing is stored under its key")
                if size != bundle.stored_size:
                    damage: Damage = "truncated" if size < bundle.stored_size else "modified"
                    raise DamagedBundle(damage, bundle, f"{size} bytes are stored, not {bundle.stored_size}")

    def stored(self, bundle: Bundle) -> memoryview:
        """The object as it is stored, if it is the one of the manifest, else `DamagedBundle`."""
        try:
            data = self.store.view(f"{self.manifest.place}/{bundle.key}")
        except NotStored:
            raise DamagedBundle("missing", bundle, "nothing is stored under its key") from None
        digest = digest_of(data)
        if digest != bundle.stored_sha256:
            other = self._by_hash.get(digest)
            if other:
                raise DamagedBundle("swapped", bundle, f"the content of {other} is stored under its key")
            if len(data) < bundle.stored_size:
                raise DamagedBundle("truncated", bundle, f"{len(data)} of {bundle.stored_size} bytes are stored")
            raise DamagedBundle("modified", bundle, "its SHA-256 is not the one of the manifest")
        self.meter.add(stored=len(data))
        return data

    def raw(self, bundle: Bundle, stream: Stream) -> Data:
        """The bytes as they came from the server (compressed, where the server compressed them), checked."""
        stored = self.stored(bundle)
        data: Data = stored
        if self.manifest.recipients:
            if self.identity is None:
                raise BadKey("the backup is encrypted and no identity was named.", target=f"backup {self.manifest.id}")
            try:
                with self._decrypting:
                    data = self.identity.decrypt(data)
            except ValueError:
                raise DamagedBundle("undecodable", bundle, "it does not decrypt") from None
        if stream.compression == "zstd" and stream.compressed_by == "client":
            data = _decompress(data, bundle)
        wanted = None if data is stored else bundle.raw_sha256  # the stored bytes have been compared already
        if len(data) != bundle.raw_size or (wanted and digest_of(data) != wanted):
            raise DamagedBundle("modified", bundle, "decoded, it is not what was backed up")
        self.meter.add(done=len(data) if stream.compressed_by == "client" else 0)
        return data

    def read(self, stream: Stream) -> Iterator[Data]:
        """The raw bytes of a stream, in order; the next two bundles are read meanwhile."""
        with ThreadPoolExecutor(AHEAD, thread_name_prefix="bundle") as pool:
            ahead: deque[Future[Data]] = deque()
            try:
                for bundle in stream.bundles:
                    if len(ahead) == AHEAD:
                        yield ahead.popleft().result()
                    ahead.append(pool.submit(self.raw, bundle, stream))
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def each(
        self, stream: Stream, act: Callable[[Bundle, Data], None], bundles: Iterable[Bundle] | None = None
    ) -> None:
        """Hand every bundle's raw bytes to `act`, in any order and several at once; the first error ends it."""
        chosen = stream.bundles if bundles is None else bundles
        in_parallel(chosen, lambda bundle: act(bundle, self.raw(bundle, stream)), self.workers)


def in_parallel(things: Iterable[Thing], act: Callable[[Thing], object], workers: int) -> None:
    """Do `act` for each thing, several at once; the first error stops the rest and is raised."""
    with ThreadPoolExecutor(workers, thread_name_prefix="bundle") as pool:
        futures = [pool.submit(act, thing) for thing in things]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
        for future in done:
            future.result()


class Journal:
    """What has been done already, by hash, in a local file: a verification or a restore that was killed goes on from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done = set(path.read_text().split("\n")) if path.exists() else set[str]()

    def __contains__(self, digest: object) -> bool:
        return digest in self._done

    def add(self, digest: str) -> None:
        """Note that it is done. One short line: it is written whole or not at all."""
        self._done.add(digest)
        with self.path.open("a") as file:
            file.write(f"{digest}\n")


def _decompress(data: Data, bundle: Bundle) -> bytes:
    from zstandard import ZstdDecompressor, ZstdError

    try:
        return ZstdDecompressor().decompress(data, max_output_size=bundle.raw_size)
    except ZstdError:
        raise DamagedBundle("undecodable", bundle, "it does not decompress") from None
