"""RESP over a socket, as far as backups need it: commands, pipelines, and the raw bytes of a replication stream.

A client library hides the socket, and a replication stream needs it. Credentials come in an `Address`, which never shows them.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection
from socket import socket as Socket
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from nexus_ops.errors import PermanentError, TemporaryError

Read = TypeVar("Read", bytes, int)
Reply = bytes | int | list["Reply"] | None
CHUNK = 1 << 20


class RedisUnreachable(TemporaryError):
    """A server that does not answer, or stopped to."""


class RedisRefused(PermanentError):
    """The server's own refusal: a wrong password, a missing right, an unknown command."""


@dataclass(frozen=True)
class Address:
    """Where a server answers, and the credentials for it."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    timeout: float = 30.0
    """Seconds without a byte after which the server counts as gone."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """`redis://user:password@host:port`, or rediss:// with TLS. The error never repeats the URL."""
        parts = urlsplit(url)
        try:
            port = parts.port or 6379
        except ValueError:
            port = 0
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or not port:
            raise RedisRefused(
                "the URL of Redis leads nowhere.",
                todo="Write it as redis://user:password@host:port; rediss:// with TLS.",
            )
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.hostname, port, user, password, parts.scheme == "rediss")

    def at(self, host: str, port: int) -> Address:
        """Another server of the same cluster, hence with the same credentials."""
        return replace(self, host=host, port=port)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Connection:
    """A connection to one server, authenticated. Not for use from several threads."""

    def __init__(self, address: Address, socket: Socket) -> None:
        self.address = address
        self.socket = socket
        self._buffer = bytearray()

    @classmethod
    @contextmanager
    def open(cls, address: Address) -> Generator[Connection]:
        """Connect and authenticate; `RedisUnreachable` or `RedisRefused` when that fails."""
        try:
            socket = create_connection((address.host, address.port), timeout=min(address.timeout, 10.0))
            if address.tls:
                socket = ssl.create_default_context().wrap_socket(socket, server_hostname=address.host)
            socket.settimeout(address.timeout)
            socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        except ssl.SSLError as error:
            raise RedisRefused(f"TLS failed: {error.reason}.", target=str(address)) from None
        except OSError as error:
            raise _gone(address, error) from None
        made = cls(address, socket)
        with socket:
            if address.password:
                user = [address.user] if address.user else []
                made.call("AUTH", *user, address.password)
            yield made

    def call(self, *command: str | bytes | int) -> Reply:
        """Send a command; its reply, or `RedisRefused` with the server's error."""
        self.send(pack(command))
        return self.reply()

    def text(self, *command: str | bytes | int) -> str:
        """A command whose reply is a string."""
        reply = self.call(*command)
        if not isinstance(reply, bytes):
            raise RedisRefused(f"{command[0]} was not answered with a string.", target=str(self.address))
        return reply.decode("utf-8", "replace")

    def send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise _gone(self.address, error) from None

    def reply(self) -> Reply:
        """The next reply; an error is raised."""
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RedisRefused(f"it answers {rest.decode('utf-8', 'replace')}.", target=str(self.address))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.take(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        raise RedisRefused("what answers is no Redis.", target=str(self.address))

    def line(self) -> bytes:
        """A line, without its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._buffer += self.receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def take(self, size: int) -> bytes:
        """So many bytes."""
        while len(self._buffer) < size:
            self._buffer += self.receive()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def some_into(self, room: memoryview) -> int:
        """What is there, at least a byte, into the beginning of some room: for streams. How many bytes it was."""
        if self._buffer:
            size = min(len(room), len(self._buffer))
            room[:size] = self._buffer[:size]
            del self._buffer[:size]
            return size
        return self._read(lambda: self.socket.recv_into(room))

    def receive(self) -> bytes:
        return self._read(lambda: self.socket.recv(CHUNK))

    def _read(self, read: Callable[[], Read]) -> Read:
        try:
            found = read()
        except OSError as error:
            raise _gone(self.address, error) from None
        if not found:
            raise RedisUnreachable("the server ended the connection.", target=str(self.address))
        return found


def pack(command: Sequence[str | bytes | int]) -> bytes:
    """A command as it goes over the wire."""
    parts = [b"*%d\r\n" % len(command)]
    for word in command:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(data), data))
    return b"".join(parts)


def info(connection: Connection, section: str) -> dict[str, str]:
    """A section of INFO."""
    lines = connection.text("INFO", section).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def server_version(server: dict[str, str]) -> str:
    """The version in the section `server` of INFO; Valkey also claims to be the Redis that it is compatible with."""
    return server.get("valkey_version") or server.get("redis_version", "unknown")


def _gone(address: Address, error: OSError) -> RedisUnreachable:
    reason = (
        "it does not answer in time" if isinstance(error, TimeoutError) else error.strerror or "the name leads nowhere"
    )
    return RedisUnreachable(
        f"Redis is not reachable: {reason}.", target=str(address), todo="Check that it runs, and the network to it."
    )
