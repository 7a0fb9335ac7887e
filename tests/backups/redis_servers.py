"""Real servers for the tests of Redis: standalone with replicas, and clusters of any size; and data of every type."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_ops.backups.redis_restore import slot_of
from nexus_ops.backups.redis_scratch import server_program
from nexus_ops.backups.redis_topology import observe
from nexus_ops.backups.redis_wire import Address, Connection, RedisRefused, RedisUnreachable, info
from nexus_ops.sandbox.processes import free_port
from nexus_ops.users import die_with_parent

CLUSTERED = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
FAR = 4102444800000
"""2100-01-01 in milliseconds."""


@dataclass
class Servers:
    """Servers of one test, ended with it."""

    folder: Path
    password: str = "s3cret-of-the-test"
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict[int, subprocess.Popen[bytes]])

    def start(self, port: int = 0, settings: Mapping[str, str] = {}) -> Address:
        port = port or free_port()
        folder = self.folder / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": "127.0.0.1", "port": str(port), "dir": str(folder), "save": "", "io-threads": "1",
            "repl-diskless-sync-delay": "0", "requirepass": self.password, "masterauth": self.password,
            **settings,
        }  # fmt: skip
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        with (folder / "log").open("ab") as log:
            self.processes[port] = subprocess.Popen(
                [server_program(), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        address = Address("127.0.0.1", port, password=self.password)
        eventually(lambda: answers(address))
        return address

    def stop(self, address: Address) -> None:
        process = self.processes.pop(address.port)
        process.kill()
        process.wait()

    def stop_all(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()

    def cluster(self, masters: int, replicas: int = 0) -> list[Address]:
        """A formed cluster; its masters, in the order of their slots."""
        nodes = [
            self.start(settings={**CLUSTERED, "cluster-port": str(free_port())})
            for _ in range(masters * (1 + replicas))
        ]
        form(nodes, masters)
        return nodes[:masters]


def form(nodes: list[Address], masters: int, *, assign: bool = True) -> None:
    """Make one cluster of nodes: masters first, then their replicas in turn."""
    ids = [text(node, "CLUSTER", "MYID") for node in nodes]
    for number, node in enumerate(nodes[:masters]):
        low, high = number * 16384 // masters, (number + 1) * 16384 // masters - 1
        if assign:
            call(node, "CLUSTER", "ADDSLOTSRANGE", low, high)
        call(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in nodes[1:]:
        bus = text(nodes[0], "CLUSTER", "NODES").split("@")[1].split(",")[0].split(" ")[0]
        call(node, "CLUSTER", "MEET", nodes[0].host, nodes[0].port, bus)
    for node in nodes:
        eventually(lambda node=node: len(text(node, "CLUSTER", "NODES").splitlines()) == len(nodes))
    for number, node in enumerate(nodes[masters:]):
        master = ids[number % masters]
        eventually(lambda node=node, master=master: is_done(lambda: call(node, "CLUSTER", "REPLICATE", master)))
    for node in nodes:
        eventually(lambda node=node: "cluster_state:ok" in text(node, "CLUSTER", "INFO"))
    for node in nodes[masters:]:
        eventually(lambda node=node: state(node).get("master_link_status") == "up")
    for node in nodes:
        eventually(lambda node=node: sum(len(shard.replicas) for shard in observe(node).shards) == len(nodes) - masters)


def state(node: Address) -> dict[str, str]:
    with Connection.open(node) as connection:
        return info(connection, "replication")


def call(address: Address, *command: str | bytes | int) -> Any:
    with Connection.open(address) as connection:
        return connection.call(*command)


def text(address: Address, *command: str | bytes | int) -> str:
    with Connection.open(address) as connection:
        return connection.text(*command)


def answers(address: Address) -> bool:
    try:
        return call(address, "PING") == b"PONG"
    except RedisUnreachable:
        return False


def is_done(what: Callable[[], object]) -> bool:
    try:
        what()
    except RedisRefused:
        return False
    return True


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def servers(folder: Path) -> Generator[Servers]:
    made = Servers(folder)
    try:
        yield made
    finally:
        made.stop_all()


def every_type() -> list[tuple[str | bytes | int, ...]]:
    """Commands that make a key of every type in each of its encodings, with and without a TTL."""
    many = [word for n in range(600) for word in (f"field {n}", f"value {n} " * 3)]
    return [
        ("SET", "string", "plain"),
        ("SET", "number", 12345),
        ("SET", "negative", -77),
        ("SET", "big number", 2**40),
        ("SET", "binary", bytes(range(256))),
        ("SET", "compressible", "nexus " * 5000),
        ("SET", "ключ ✓", "не ASCII"),
        ("SET", b"\x00\xff key", b"\x00"),
        ("SET", "", "the empty key"),
        ("SET", "expires", "later", "PXAT", FAR + 1),
        ("RPUSH", "small list", "a", 1, "", "x" * 300),
        ("RPUSH", "long list", *[f"element {n}" * 4 for n in range(3000)]),
        ("RPUSH", "list with a large one", "y" * 100_000, "z"),
        ("SADD", "set of numbers", *range(300)),
        ("SADD", "small set", "a", "b"),
        ("SADD", "large set", *[f"member {n}" for n in range(900)]),
        ("ZADD", "small zset", "1.5", "one", "-inf", "low", "inf", "high"),
        ("ZADD", "large zset", *[word for n in range(700) for word in (str(n / 7), f"member {n}")]),
        ("HSET", "small hash", "a", "1", "b", "2"),
        ("HSET", "large hash", *many),
        ("HSET", "hash with a field that expires", "stays", "1", "goes", "2"),
        ("HPEXPIREAT", "hash with a field that expires", FAR, "FIELDS", 1, "goes"),
        ("PEXPIREAT", "large hash", FAR + 2),
        ("PFADD", "hyperloglog", *range(1000)),
        ("SETBIT", "bitmap", 100_000, 1),
        ("GEOADD", "geo", "13.361389", "38.115556", "Palermo"),
        *[("XADD", "stream", f"{n}-1", "price", n, "venue", "sei") for n in range(1, 400)],
        ("XGROUP", "CREATE", "stream", "engines", "0"),
        ("XGROUP", "CREATE", "stream", "idle group", "$"),
        ("XREADGROUP", "GROUP", "engines", "first", "COUNT", 30, "STREAMS", "stream", ">"),
        ("XREADGROUP", "GROUP", "engines", "second", "COUNT", 5, "STREAMS", "stream", ">"),
        ("XACK", "stream", "engines", "3-1"),
        ("XDEL", "stream", "9-1"),
        ("FUNCTION", "LOAD", "REPLACE", "#!lua name=risk\nserver.register_function('limit', function() return 42 end)"),
    ]


def fill(masters: list[Address], commands: list[tuple[str | bytes | int, ...]]) -> None:
    """Carry out commands, each on the master that has its key's slot; functions on all of them."""
    by_slot = {
        slot: shard.master
        for shard in observe(masters[0]).shards
        for low, high in shard.slots
        for slot in range(low, high + 1)
    }
    keyless = {"FUNCTION"}
    keyed_second = {"XGROUP": 2, "XREADGROUP": -2}
    for command in commands:
        if command[0] in keyless:
            for master in masters:
                call(master, *command)
            continue
        name = command[keyed_second.get(str(command[0]), 1)]
        key = name if isinstance(name, bytes) else str(name).encode()
        call(by_slot.get(slot_of(key), masters[0]), *command)


def contents(masters: list[Address], db: int = 0) -> dict[bytes, tuple[Any, ...]]:
    """All that is in a Redis: for each key its type, its TTL as a moment, and its value as the server tells it."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for master in masters:
        with Connection.open(master) as connection:
            if db:
                connection.call("SELECT", db)
            keys = connection.call("KEYS", "*")
            assert isinstance(keys, list)
            for key in keys:
                assert isinstance(key, bytes)
                kind = connection.text("TYPE", key)
                found[key] = (kind, connection.call("PEXPIRETIME", key), _value(connection, kind, key))
            found[b"functions of " + str(master.port).encode()] = (
                (connection.call("FCALL", "limit", 0),) if connection.call("FUNCTION", "LIST") else ()
            )
    return {(b"functions" if key.startswith(b"functions of") else key): value for key, value in found.items()}


def replicated(masters: list[Address]) -> None:
    """Wait until every replica has what its master has."""
    for master in masters:
        assert call(master, "WAIT", 1, 10_000) == 1


def _value(connection: Connection, kind: str, key: bytes) -> Any:
    if kind == "string":
        return connection.call("GET", key)
    if kind == "list":
        return connection.call("LRANGE", key, 0, -1)
    if kind == "set":
        members = connection.call("SMEMBERS", key)
        assert isinstance(members, list)
        return sorted(member for member in members if isinstance(member, bytes))
    if kind == "zset":
        return connection.call("ZRANGE", key, 0, -1, "WITHSCORES")
    if kind == "hash":
        pairs = connection.call("HGETALL", key)
        assert isinstance(pairs, list)
        fields: dict[Any, Any] = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return (
            {name: (value, connection.call("HPEXPIRETIME", key, "FIELDS", 1, name)) for name, value in fields.items()}
            if len(fields) < 10
            else fields
        )
    assert kind == "stream"
    groups = connection.call("XINFO", "GROUPS", key)
    return connection.call("XRANGE", key, "-", "+"), groups, connection.call("XPENDING", key, "engines")
