"""What a Redis backup is good for: restoring it, and the drill that proves that it can be.

Nothing is overwritten before every bundle has been read once and every RDB matched its own checksum.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nexus_ops.backups.manifest import Manifest, Redis, RedisNode
from nexus_ops.backups.rdb import Checksum, Key, Library, Size, walk
from nexus_ops.backups.reading import BundleReader
from nexus_ops.backups.redis_restore import NotEmpty, Restored, keys_in, restore_keys
from nexus_ops.backups.redis_scratch import scratch_redis
from nexus_ops.backups.redis_stream import LoadFailed, load_snapshot
from nexus_ops.backups.redis_topology import keys_of, observe
from nexus_ops.backups.redis_wire import Address, Connection, RedisRefused
from nexus_ops.errors import PermanentError


def check_rdbs(reader: BundleReader) -> int:
    """Read every RDB and compare its own checksum; the bytes read. What is damaged is named."""
    size = 0
    for node in _redis(reader.manifest).nodes:
        checksum = Checksum()
        for chunk in _rdb(reader, node):
            checksum.update(chunk)
        checksum.finish(f"{reader.manifest.id}, node {node.id[:8]}")
        size += checksum.size
    return size


def restore(
    reader: BundleReader,
    target: Address,
    *,
    replace: bool = False,
    report: Callable[[str], None] = lambda _: None,
    before_change: Callable[[], None] = lambda: None,
) -> Restored:
    """Restore a backup into a Redis, whatever the topology of either. `before_change`: the backup is whole, the target as it was.

    One server into one server: the RDB is loaded whole, in one step. Else, or where the server may not follow another (managed
    ones), key by key. A target with keys is refused unless `replace`.
    """
    redis = _redis(reader.manifest)
    if (held := keys_in(target)) and not replace:
        todo = "Name the target twice to replace them; a safety backup is taken first."
        raise NotEmpty(f"the target is not empty: it holds {held} keys.", target=str(target), todo=todo)
    began = time.monotonic()
    checked = check_rdbs(reader)
    before_change()
    report(f"{checked / 1e6:.1f} MB checked; the target is touched from here on")
    if len(redis.nodes) == 1 and observe(target).mode == "standalone":
        try:
            load_snapshot(observe(target).shards[0].master, _rdb(reader, redis.nodes[0]))
            return Restored(keys=keys_in(target), seconds=time.monotonic() - began)
        except (LoadFailed, RedisRefused) as error:
            report(f"not loaded whole: {error} Key by key, then")
    rdbs = ((node.id, _rdb(reader, node)) for node in redis.nodes)
    done = restore_keys(target, rdbs, replace=True, progress=lambda done: report(f"{done.keys} keys"))
    done.seconds = time.monotonic() - began
    return done


@dataclass
class Drilled:
    """What a drill of a Redis backup found."""

    seconds: float = 0.0
    """Until everything was loaded: the RTO without finding a server."""
    keys: int = 0
    by_type: Counter[str] = field(default_factory=Counter[str])
    findings: list[str] = field(default_factory=list[str])


def drill(reader: BundleReader, folder: Path) -> Drilled:
    """Load every shard into a scratch server and count: as many keys as the RDB says, holds, and the server has."""
    done = Drilled()
    with scratch_redis(folder) as scratch:
        for node in _redis(reader.manifest).nodes:
            began = time.monotonic()
            before = time.time()
            load_snapshot(scratch, _rdb(reader, node))
            done.seconds += time.monotonic() - began
            with Connection.open(scratch) as connection:
                found = keys_of(connection)
            after = time.time()
            counted = _count(_rdb(reader, node), node.id, before, after)
            done.keys += sum(found.values())
            done.by_type += counted.by_type
            done.findings += counted.compare(node, found)
    return done


@dataclass
class _Counted:
    """Keys of an RDB, by database."""

    said: dict[int, int] = field(default_factory=dict[int, int])
    held: Counter[int] = field(default_factory=Counter[int])
    alive_before: Counter[int] = field(default_factory=Counter[int])
    alive_after: Counter[int] = field(default_factory=Counter[int])
    by_type: Counter[str] = field(default_factory=Counter[str])

    def compare(self, node: RedisNode, found: dict[int, int]) -> list[str]:
        """What does not fit, in sentences. Keys may expire while they are counted, and only those."""
        problems: list[str] = []
        name = f"node {node.id[:8]}"
        for db in sorted({*self.said, *self.held, *found}):
            if self.said.get(db, 0) != self.held[db]:
                problems.append(f"{name}, db {db}: the RDB says {self.said.get(db, 0)} keys and holds {self.held[db]}")
            if not self.alive_after[db] <= found.get(db, 0) <= self.alive_before[db]:
                problems.append(
                    f"{name}, db {db}: {self.alive_before[db]} keys were loaded, the server has {found.get(db, 0)}"
                )
        return problems


def _count(chunks: Iterable[bytes], name: str, before: float, after: float) -> _Counted:
    counted = _Counted()
    for item in walk(chunks, name):
        if isinstance(item, Size):
            counted.said[item.db] = item.keys
        elif isinstance(item, Key):
            counted.held[item.db] += 1
            counted.by_type[item.type] += 1
            counted.alive_before[item.db] += not item.expires or item.expires > before * 1000
            counted.alive_after[item.db] += not item.expires or item.expires > after * 1000
        else:
            assert isinstance(item, Library)
    return counted


def _redis(manifest: Manifest) -> Redis:
    if manifest.redis is None:
        raise PermanentError("this is no backup of a Redis.", target=f"backup {manifest.id}")
    return manifest.redis


def _rdb(reader: BundleReader, node: RedisNode) -> Iterator[bytes]:
    for chunk in reader.read(reader.manifest.stream(node.stream)):
        yield bytes(chunk)
