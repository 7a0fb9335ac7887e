"""What a Redis is made of: one server with its replicas, or a cluster of shards with their slots; and whom to ask for a copy.

Addresses are those that the servers tell each other: nexus-ops must be able to reach them (inside Kubernetes it is).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nexus_ops.backups.redis_wire import Address, Connection, RedisRefused, RedisUnreachable, info, server_version
from nexus_ops.errors import TemporaryError

SLOTS = 16384


class ClusterNotWhole(TemporaryError):
    """A cluster of which a copy would lack keys, or have some twice."""


@dataclass(frozen=True)
class Shard:
    """A master with its slots and replicas. Standalone: no slots, and the run id for its node id."""

    node: str
    master: Address
    slots: tuple[tuple[int, int], ...]
    """Ranges, both ends included; sorted."""
    replicas: tuple[Address, ...]


@dataclass(frozen=True)
class RedisTopology:
    """All shards of a Redis at one moment."""

    mode: str
    """standalone or cluster."""
    version: str
    shards: tuple[Shard, ...]

    def slot_map(self) -> dict[str, tuple[tuple[int, int], ...]]:
        """Slots by node id."""
        return {shard.node: shard.slots for shard in self.shards}


@dataclass(frozen=True)
class Source:
    """The server that is asked for a shard's copy."""

    shard: Shard
    address: Address
    role: str
    """master or replica."""


def observe(address: Address) -> RedisTopology:
    """Ask one server what it belongs to; `ClusterNotWhole` when a cluster lacks slots or is moving some."""
    with Connection.open(address) as connection:
        server = info(connection, "server")
        version = server_version(server)
        mode = server.get("redis_mode") or server.get("server_mode") or "standalone"
        if mode == "sentinel":
            raise RedisRefused("this is a sentinel.", target=str(address), todo="Name a server that holds data.")
        if mode == "cluster":
            shards = _of_cluster(address, connection.text("CLUSTER", "NODES"))
            return RedisTopology("cluster", version, shards)
        return RedisTopology("standalone", version, (_standalone(address, info(connection, "replication"), server),))


def choose_source(shard: Shard) -> Source:
    """The replica that is furthest of those that follow; the master where none does."""
    able: list[tuple[int, Address]] = []
    for replica in shard.replicas:
        try:
            with Connection.open(replica) as connection:
                state = info(connection, "replication")
        except (RedisUnreachable, RedisRefused):
            continue  # it is asked for nothing, then
        follows = state.get("master_link_status") == "up" and state.get("master_sync_in_progress") == "0"
        if state.get("role") == "slave" and follows:
            able.append((int(state.get("slave_repl_offset", "0")), replica))
    if able:
        return Source(shard, max(able, key=lambda found: found[0])[1], "replica")
    return Source(shard, shard.master, "master")


def keys_of(connection: Connection) -> dict[int, int]:
    """DBSIZE of every database of a server that is not empty."""
    found = info(connection, "keyspace")
    return {int(name[2:]): int(text.split(",")[0].removeprefix("keys=")) for name, text in found.items()}


def _standalone(address: Address, state: dict[str, str], server: dict[str, str]) -> Shard:
    if state.get("role") == "slave":
        master = address.at(state["master_host"], int(state["master_port"]))
        return Shard(server["run_id"], master, (), (address,))
    replicas: list[Address] = []
    for number in range(int(state.get("connected_slaves", "0"))):
        one = dict(pair.split("=", 1) for pair in state.get(f"slave{number}", "").split(",") if "=" in pair)
        if one.get("state") == "online" and int(one.get("port", "0")):
            replicas.append(address.at(one["ip"], int(one["port"])))
    return Shard(server["run_id"], address, (), tuple(replicas))


def _of_cluster(asked: Address, text: str) -> tuple[Shard, ...]:
    """Shards from CLUSTER NODES (https://valkey.io/commands/cluster-nodes/)."""
    masters: dict[str, tuple[Address, tuple[tuple[int, int], ...]]] = {}
    replicas: dict[str, list[Address]] = {}
    for line in text.splitlines():
        node, where, flags, of, _, _, _, link, *slots = line.split(" ")
        address = _node_address(asked, where)
        failed = {"fail", "fail?", "handshake", "noaddr"} & set(flags.split(","))
        if any(slot.startswith("[") for slot in slots):
            problem = "slots are being moved between its nodes: a copy could have keys twice, or lack them."
            raise ClusterNotWhole(problem, target=str(asked), todo="Wait until the resharding is over.")
        if "master" in flags.split(","):
            ranges = tuple(sorted(_range(slot) for slot in slots))
            if failed and ranges:
                raise ClusterNotWhole("a master is not reachable for the others.", target=str(address))
            masters[node] = (address, ranges)
        elif not failed and link == "connected":
            replicas.setdefault(of, []).append(address)
    _must_be_whole(asked, [ranges for _, ranges in masters.values()])
    return tuple(
        Shard(node, address, ranges, tuple(replicas.get(node, ())))
        for node, (address, ranges) in sorted(masters.items(), key=lambda item: item[1][1])
        if ranges
    )


def _must_be_whole(asked: Address, ranges: Iterable[tuple[tuple[int, int], ...]]) -> None:
    served = sum(high - low + 1 for of_node in ranges for low, high in of_node)
    if served != SLOTS:
        raise ClusterNotWhole(
            f"{SLOTS - served} of {SLOTS} slots have no master.",
            target=str(asked),
            todo="Repair the cluster first; an older backup is untouched.",
        )


def _node_address(asked: Address, where: str) -> Address:
    """host:port@bus[,hostname]; a node that does not know its own host yet is the one that was asked."""
    place = where.split("@")[0].split(",")[0]
    host, _, port = place.rpartition(":")
    return asked.at(host or asked.host, int(port))


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low)
