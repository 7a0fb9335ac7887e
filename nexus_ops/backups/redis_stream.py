"""An RDB by replication: asked of a server as a replica asks (PSYNC), and given to one as a master gives it.

Asking needs no file on the server and no right but that of a replica. Giving replaces all that the asking server holds, in one
step, after it has the whole of it; only servers that are no part of a cluster can be told whom to follow.
See https://valkey.io/topics/replication/ and replicationSetupReplicaForFullResync in Valkey's replication.c.
"""

from __future__ import annotations

import os
import socket as sockets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from nexus_ops.backups.rdb import BrokenRdb
from nexus_ops.backups.redis_wire import (
    CHUNK,
    Address,
    Connection,
    RedisRefused,
    RedisUnreachable,
    info,
    server_version,
)
from nexus_ops.errors import TemporaryError

REACH_SECONDS = 20.0
"""How long a server may need to connect to us when it is told to follow us."""
MARK = 40
"""Length of the mark that ends an RDB of unknown length."""


@dataclass(frozen=True)
class Snapshot:
    """An RDB that is on its way: where in the replication stream it stands, and its bytes."""

    replication_id: str
    offset: int
    chunks: Iterator[memoryview]
    """Each is valid until the next is asked for."""


@contextmanager
def take_snapshot(address: Address) -> Generator[Snapshot]:
    """Ask a server for its RDB. The bytes come as the server makes them, at the speed at which they are read."""
    with Connection.open(address) as connection:
        connection.call("REPLCONF", "capa", "eof")
        # Without it, the server would also keep for us every write of the meantime. Older than 7: it does not know.
        with suppress(RedisRefused):
            connection.call("REPLCONF", "rdb-only", "1")
        # To a replica that does not say its version, Valkey gives the format of 7.2, which knows no expiring fields.
        with suppress(RedisRefused):
            connection.call("REPLCONF", "version", server_version(info(connection, "server")))
        connection.send(b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n")
        answer = _line_after_pings(connection).decode("utf-8", "replace")
        words = answer.split()
        if len(words) != 3 or words[0] != "+FULLRESYNC":
            todo = "Its user needs the rights of a replica: +psync +replconf +ping."
            raise RedisRefused(f"it gives no copy: {answer.lstrip('-')}.", target=str(address), todo=todo)
        yield Snapshot(words[1], int(words[2]), _payload(connection))


def _line_after_pings(connection: Connection) -> bytes:
    """The next line; while the server prepares, it sends bare line feeds to show that it lives."""
    return connection.line().lstrip(b"\n")


def _payload(connection: Connection) -> Iterator[memoryview]:
    header = _line_after_pings(connection)
    room = memoryview(bytearray(CHUNK))
    if header.startswith(b"$EOF:"):
        yield from _until_mark(connection, header[5:], room)
        return
    if not header.startswith(b"$"):
        raise RedisRefused(
            f"it gives no copy: {header.decode('utf-8', 'replace').lstrip('-')}.", target=str(connection.address)
        )
    left = int(header[1:])
    while left:
        size = connection.some_into(room[:left])
        left -= size
        yield room[:size]


def _until_mark(connection: Connection, mark: bytes, room: memoryview) -> Iterator[memoryview]:
    """The RDB of a server that does not know its length: it ends with a mark, after which nothing is of it."""
    if len(mark) != MARK:
        raise BrokenRdb("the mark that ends the RDB is too short.", target=str(connection.address))
    held = 0  # at the beginning of the room: what may be the mark
    while True:
        size = held + connection.some_into(room[held:])
        # The mark is random: it is looked for at the end only, as a replica does, and nothing follows until we answer.
        held = min(size, MARK)
        last = bytes(room[size - held : size])
        yield room[: size - held]
        if last == mark:
            return
        room[:held] = last


class LoadFailed(TemporaryError):
    """A server that did not take the RDB."""


def load_snapshot(target: Address, chunks: Iterable[bytes], *, seconds: float = 3600.0) -> None:
    """Replace everything that a standalone server holds by an RDB.

    We are its master for as long as it loads, on a port that only this call listens on; then it is its own again. A server
    that stops half-way has either what it held or nothing (repl-diskless-load), and says so: `LoadFailed`.
    """
    with Connection.open(target) as connection, sockets.create_server(("", 0)) as listener:
        listener.settimeout(min(seconds, REACH_SECONDS))
        replication_id = os.urandom(20).hex()
        host, port = connection.socket.getsockname()[0], listener.getsockname()[1]
        failure: list[Exception] = []
        giver = threading.Thread(
            target=_give, args=(listener, chunks, replication_id, failure.append, seconds), name="rdb", daemon=True
        )
        before = info(connection, "replication")
        giver.start()
        try:
            connection.call("REPLICAOF", host, port)
            _wait_until_loaded(connection, giver, failure, seconds)
        finally:
            # Whatever happened, it must not stay the replica of a master that is about to vanish.
            connection.call("REPLICAOF", "NO", "ONE")
            giver.join(timeout=10)
        after = info(connection, "replication")
        if after.get("master_replid") == before.get("master_replid"):
            raise LoadFailed("the server did not take the copy.", target=str(target))


def _wait_until_loaded(
    connection: Connection, giver: threading.Thread, failure: list[Exception], seconds: float
) -> None:
    deadline = time.monotonic() + seconds
    while True:
        if failure:
            raise failure[0]
        state = info(connection, "replication")
        if state.get("master_link_status") == "up":
            return
        if not giver.is_alive() and state.get("master_sync_in_progress") == "0" and not failure:
            loading = info(connection, "persistence").get("loading")
            if loading == "0" and info(connection, "replication").get("master_link_status") != "up":
                raise LoadFailed("the server did not load the copy; its log says why.", target=str(connection.address))
        if time.monotonic() > deadline:
            raise LoadFailed(f"the copy was not loaded within {seconds:.0f} s.", target=str(connection.address))
        time.sleep(0.02)


def _give(
    listener: sockets.socket,
    chunks: Iterable[bytes],
    replication_id: str,
    fail: Callable[[Exception], None],
    seconds: float,
) -> None:
    """Be a master for one replica: answer its greeting, send the RDB, and hold the line until it is done with us."""
    try:
        try:
            replica, _ = listener.accept()
        except TimeoutError:
            raise LoadFailed("the server does not reach us to follow us.") from None
        with replica:
            replica.settimeout(seconds)
            connection = Connection(Address("the restored server", replica.getpeername()[1]), replica)
            _greet(connection, replication_id)
            mark = os.urandom(MARK // 2).hex().encode()
            connection.send(b"$EOF:" + mark + b"\r\n")
            for chunk in chunks:
                connection.send(chunk)
            connection.send(mark)
            with suppress(RedisUnreachable):
                while True:
                    connection.receive()  # acknowledgements, until it leaves us
    except Exception as error:  # handed to the thread that waits, whatever it is
        fail(error)


def _greet(connection: Connection, replication_id: str) -> None:
    while True:
        command = connection.reply()
        word = command[0] if isinstance(command, list) and command else b""
        name = word.upper() if isinstance(word, bytes) else b""
        if name == b"PING":
            connection.send(b"+PONG\r\n")
        elif name in (b"PSYNC", b"SYNC"):
            connection.send(f"+FULLRESYNC {replication_id} 0\r\n".encode())
            return
        else:  # REPLCONF, AUTH
            connection.send(b"+OK\r\n")
