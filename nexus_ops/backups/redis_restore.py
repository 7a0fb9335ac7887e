"""Keys of an RDB into a running Redis of any size, key by key (RESTORE), each to the master that has its slot.

Where the target is one server, loading the whole RDB (redis_stream.load_snapshot) is faster and replaces everything in one step. A
cluster cannot be given an RDB while it runs: its nodes follow only each other. So its masters get RESTORE, all of them at once.
A restore that was cut short is done again: every key replaces itself.
"""

from __future__ import annotations

import binascii
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nexus_ops.backups.rdb import Key, Library, Size, walk
from nexus_ops.backups.redis_topology import SLOTS, RedisTopology, Shard, keys_of, observe
from nexus_ops.backups.redis_wire import Address, Connection, RedisRefused, pack
from nexus_ops.errors import OperationError, PermanentError, TemporaryError

BATCH = 256 << 10
"""Bytes of commands that are sent to a master before its replies are read."""
AHEAD = 4
"""Batches that wait for a master: more would only use memory."""


class NotEmpty(PermanentError):
    """The target holds keys, and nobody said that they may go."""


class SlotsMoved(TemporaryError):
    """The target's slots moved while keys were sent to them."""


@dataclass
class Restored:
    """What a restore did."""

    keys: int = 0
    by_type: Counter[str] = field(default_factory=Counter[str])
    expired: int = 0
    """Keys whose time had come before they could be restored."""
    expiring: int = 0
    libraries: int = 0
    seconds: float = 0.0


def keys_in(target: Address) -> int:
    """Keys that a Redis holds, in all of its masters and databases."""
    total = 0
    for shard in observe(target).shards:
        with Connection.open(shard.master) as connection:
            total += sum(keys_of(connection).values())
    return total


def slot_of(key: bytes) -> int:
    """The slot of a key (https://valkey.io/topics/cluster-spec/, key distribution): CRC-16 of it, or of its tag in braces."""
    begin = key.find(b"{")
    end = key.find(b"}", begin + 1)
    tag = key[begin + 1 : end] if 0 <= begin < end - 1 else key
    return binascii.crc_hqx(tag, 0) % SLOTS


def restore_keys(
    target: Address,
    rdbs: Iterable[tuple[str, Iterable[bytes]]],
    *,
    replace: bool = False,
    now: Callable[[], float] = time.time,
    progress: Callable[[Restored], None] = lambda _: None,
) -> Restored:
    """Restore every key of some RDBs, given by name and bytes; TTLs are moments, so that they end when they would have.

    A target with keys is refused (`NotEmpty`), or with `replace` emptied first: what a backup does not hold must not outlive
    its restore. At the end the target's own count is compared.
    """
    began, done = time.monotonic(), Restored()
    topology = observe(target)
    if held := keys_in(target):
        if not replace:
            todo = "Name the target twice to replace them; a safety backup is taken first."
            raise NotEmpty(f"the target is not empty: it holds {held} keys.", target=str(target), todo=todo)
        _empty(topology)
    senders = [_Sender(shard) for shard in topology.shards]
    route = _routes(topology, senders)
    try:
        for name, chunks in rdbs:
            for item in walk(chunks, name):
                if isinstance(item, Key):
                    _send_key(item, route, done, now)
                    if done.keys % 20_000 == 0:
                        progress(done)
                elif isinstance(item, Library):
                    done.libraries += 1
                    for sender in senders:
                        sender.add(0, pack(("FUNCTION", "LOAD", "REPLACE", item.code)))
                else:
                    assert isinstance(item, Size)
        for sender in senders:
            sender.finish()
    finally:
        for sender in senders:
            sender.abandon()
    done.seconds = time.monotonic() - began
    _compare(target, done)
    return done


def _send_key(key: Key, route: Callable[[bytes], _Sender], done: Restored, now: Callable[[], float]) -> None:
    if key.expires and key.expires <= now() * 1000:
        done.expired += 1
        return
    words: list[str | bytes | int] = ["RESTORE", key.name, key.expires, key.payload, "REPLACE"]
    if key.expires:
        words.append("ABSTTL")
        done.expiring += 1
    if key.idle >= 0:
        words += ["IDLETIME", key.idle]
    if key.frequency >= 0:
        words += ["FREQ", key.frequency]
    route(key.name).add(key.db, pack(words))
    done.keys += 1
    done.by_type[key.type] += 1


def _routes(topology: RedisTopology, senders: list[_Sender]) -> Callable[[bytes], _Sender]:
    if topology.mode == "standalone":
        return lambda _: senders[0]
    by_slot = [senders[0]] * SLOTS
    for shard, sender in zip(topology.shards, senders, strict=True):
        for low, high in shard.slots:
            by_slot[low : high + 1] = [sender] * (high - low + 1)
    return lambda name: by_slot[slot_of(name)]


def _empty(topology: RedisTopology) -> None:
    for shard in topology.shards:
        with Connection.open(shard.master) as connection:
            connection.call("FLUSHALL", "SYNC")


def _compare(target: Address, done: Restored) -> None:
    """Count what is there; keys that expire may have gone meanwhile, no other."""
    found = keys_in(target)
    if not done.keys - done.expiring <= found <= done.keys:
        raise TemporaryError(
            f"{done.keys} keys were restored, and {found} are there: somebody else writes to it.",
            target=str(target),
            todo="Stop the writers, and restore again.",
        )


class _Sender:
    """Sends commands to one master from a thread of its own."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._queue: queue.Queue[tuple[bytes, int] | None] = queue.Queue(AHEAD)
        self._parts: list[bytes] = []
        self._size = self._count = self._db = 0
        self._error: OperationError | None = None
        self._thread = threading.Thread(target=self._run, name=f"restore-{shard.master}", daemon=True)
        self._thread.start()

    def add(self, db: int, command: bytes) -> None:
        """Send a command with the next batch; raises what an earlier one came to."""
        if db != self._db:
            self._parts.append(pack(("SELECT", db)))
            self._count += 1
            self._db = db
        self._parts.append(command)
        self._count += 1
        self._size += len(command)
        if self._size >= BATCH:
            self._flush()

    def finish(self) -> None:
        """Wait until the master has taken everything."""
        self._flush()
        self._put(None)
        self._thread.join()
        self._raise()

    def abandon(self) -> None:
        """End the thread, whatever it does."""
        self._error = self._error or OperationError("abandoned")
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            pass  # it looks for the error between batches
        self._thread.join()

    def _flush(self) -> None:
        if self._count:
            self._put((b"".join(self._parts), self._count))
            self._parts, self._size, self._count = [], 0, 0

    def _put(self, batch: tuple[bytes, int] | None) -> None:
        while True:
            self._raise()
            try:
                self._queue.put(batch, timeout=0.5)
                return
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with Connection.open(self._shard.master) as connection:
                while (batch := self._queue.get()) is not None and self._error is None:
                    data, count = batch
                    connection.send(data)
                    for _ in range(count):
                        connection.reply()
        except RedisRefused as error:
            self._error = _explained(error)
        except OperationError as error:
            self._error = error


def _explained(error: RedisRefused) -> OperationError:
    """What a master's refusal of a key means."""
    if "MOVED" in error.problem or "ASK " in error.problem or "CLUSTERDOWN" in error.problem:
        return SlotsMoved("slots moved while they were restored into.", target=error.target, todo="Restore again.")
    if "DUMP payload version" in error.problem:
        return PermanentError(
            "the target is older than the server of the backup, and does not know its format.",
            target=error.target,
            todo="Restore into a server of the same version or newer.",
        )
    if "OOM" in error.problem:
        return PermanentError("the target has no room: its maxmemory is reached.", target=error.target)
    return error
