"""A backup of a Redis: the RDB of every master at once, from a replica where one follows, as bundles while they stream.

Each shard is a snapshot of one moment, and the moments of two shards are not the same: Redis itself knows no moment across shards.
Slots must not move meanwhile; when they did, there is no backup, and the next try makes one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib.metadata import version

from nexus_ops.backups.bundles import BundleWriter, Packing
from nexus_ops.backups.catalogue import Catalogue, Listed
from nexus_ops.backups.manifest import Manifest, Redis, RedisNode, Stream
from nexus_ops.backups.progress import Meter
from nexus_ops.backups.rdb import Checksum
from nexus_ops.backups.redis_stream import take_snapshot
from nexus_ops.backups.redis_topology import ClusterNotWhole, Source, choose_source, keys_of, observe
from nexus_ops.backups.redis_wire import Address, Connection

AT_ONCE = 3
"""Shards that stream at the same time: each forks its server, and has a bundle of memory here."""


def back_up(
    address: Address,
    catalogue: Catalogue,
    packing: Packing,
    *,
    clock: Callable[[], datetime],
    meter: Meter | None = None,
    report: Callable[[str], None] = lambda _: None,
    before_commit: Callable[[], None] = lambda: None,
) -> Listed:
    """Back up a Redis by the address of any of its servers. `before_commit` raises when it must not become visible."""
    started = clock()
    topology = observe(address)
    sources = [choose_source(shard) for shard in topology.shards]
    for source in sources:
        report(f"{source.shard.node[:8]}: from the {source.role} {source.address}")
    backup = catalogue.new_id(started)
    with BundleWriter(catalogue.store, catalogue.place, backup, packing, meter) as writer:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shard") as pool:
            parts = list(pool.map(lambda source: _take(source, writer), sources))
        if (after := observe(address)).slot_map() != topology.slot_map():
            moved = {node for node, slots in after.slot_map().items() if topology.slot_map().get(node) != slots}
            raise ClusterNotWhole(
                "slots moved, or a replica was promoted, while the copy was taken.",
                target=f"{address} ({', '.join(sorted(node[:8] for node in moved)) or 'a node left'})",
                todo="Take it again when the cluster is quiet.",
            )
        ended = clock()
    streams = tuple(stream for _, stream in parts)
    manifest = Manifest(
        id=backup,
        cluster=catalogue.place.cluster,
        system="redis",
        kind="redis",
        started=started,
        ended=max(ended, started),
        lock_until=catalogue.locked_until(streams),
        streams=streams,
        recipients=packing.recipients,
        tools={"nexus-ops": version("nexus-ops"), "server": topology.version},
        redis=Redis(
            version=topology.version,
            mode="cluster" if topology.mode == "cluster" else "standalone",
            nodes=tuple(node for node, _ in parts),
        ),
        counts={node.id: sum(node.keys.values()) for node, _ in parts},
    )
    before_commit()
    return catalogue.commit(manifest)


def _take(source: Source, writer: BundleWriter) -> tuple[RedisNode, Stream]:
    """One shard. Its RDB's own checksum is checked as it passes: what the network changed is never a backup."""
    checksum = Checksum()
    target = str(source.address)
    with take_snapshot(source.address) as snapshot:
        with Connection.open(source.address) as connection:
            keys = keys_of(connection)
        stream = writer.stream(source.shard.node, "rdb")
        for chunk in snapshot.chunks:
            checksum.update(chunk)
            stream.write(chunk)
    checksum.finish(target)
    node = RedisNode(
        id=source.shard.node,
        source=target,
        slots=source.shard.slots,
        replication_id=snapshot.replication_id,
        offset=snapshot.offset,
        keys={str(db): count for db, count in sorted(keys.items())},
        stream=source.shard.node,
    )
    return node, stream.finish()
