"""Connections: ordinary ones, and those that speak the replication protocol (protocol-replication in the manual).

A connection that cannot be made is one clear sentence. A DSN may hold a password: it is in no error and in no log.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from nexus_ops.backups.lsn import Lsn
from nexus_ops.errors import OperationError, PermanentError, TemporaryError

CONNECT_SECONDS = 10
STALL_SECONDS = 300
"""A server that sends nothing for so long is given up. A checkpoint, at the beginning, may take minutes."""
APPLICATION = "nexus-ops backup"
OLDEST = 150000
"""Servers before 15 know no compression and another syntax."""


class CannotConnect(TemporaryError):
    """The server is not reached."""


class NotAllowed(PermanentError):
    """The server is reached and refuses us: the role, the password, or a missing grant."""


class ServerFailed(TemporaryError):
    """The server broke off what it was doing."""


# What libpq and the server say, by the words in it (src/backend/libpq/auth.c, replication/walsender.c).
_REFUSALS = (
    ("no pg_hba.conf entry", "its pg_hba.conf has no entry for us", "Add one: host replication <role> <our address> scram-sha-256."),
    ("password authentication failed", "the password is wrong", "Check the secret that holds the DSN."),
    ("no password supplied", "the DSN holds no password", "Check the secret that holds the DSN."),
    ("must be superuser or replication role", "the role may not replicate", "ALTER ROLE … REPLICATION."),
    ("permission denied to start WAL sender", "the role may not replicate", "ALTER ROLE … REPLICATION."),
    ("permission denied", "the role lacks a grant", "docs/backups.md lists the grants."),
    ("does not exist", "the role or the database does not exist", "Check the DSN's user and dbname."),
    ("requested WAL segment", "it removed WAL that the backup needs", "Raise wal_keep_size, or allow a replication slot."),
)  # fmt: skip
_CROWDED = ("number of requested standby connections exceeds", "too many clients", "remaining connection slots")


def describe(dsn: str) -> str:
    """Where a DSN leads, without what is secret in it: host:port/dbname."""
    import psycopg.conninfo

    try:
        parts = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise PermanentError(
            "the DSN cannot be read.", todo="Write it as postgresql://user@host:port/dbname."
        ) from None
    return f"{parts.get('host', 'local')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def explain(text: str, target: str) -> OperationError:
    """The error that stands for what PostgreSQL said."""
    for words, problem, todo in _REFUSALS:
        if words in text:
            return NotAllowed(f"the server refuses: {problem}.", target=target, todo=todo)
    if any(words in text for words in _CROWDED):
        return ServerFailed("the server has no connection left.", target=target, todo="Raise max_wal_senders, or wait.")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return ServerFailed(f"the server broke off: {lines[0]}", target=target, todo="Its log may say more.")


def connect(dsn: str, **options: Any) -> Any:
    """An ordinary psycopg connection, in autocommit."""
    import psycopg

    where = describe(dsn)
    settings: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": APPLICATION, **options}
    try:
        return psycopg.connect(dsn, autocommit=True, **settings)
    except psycopg.OperationalError as error:
        raise _failed(str(error), where) from None


def _failed(text: str, where: str) -> OperationError:
    found = explain(text, where)
    if isinstance(found, NotAllowed) or "connection left" in found.problem:
        return found
    reason = text.strip().splitlines()[-1].strip() if text.strip() else "no reason given"
    return CannotConnect(f"the server is not reached: {reason}", target=where, todo="Check host, port and network.")


@dataclass(frozen=True)
class Server:
    """What a server says of itself."""

    system_id: str
    timeline: int
    position: Lsn
    version: int
    segment_bytes: int
    data_checksums: bool
    in_recovery: bool

    @property
    def major(self) -> int:
        return self.version // 10000


class Wire:
    """A connection at the level of libpq, for what psycopg's cursors do not do: replication, and COPY without a copy."""

    def __init__(self, dsn: str, **options: str) -> None:
        import psycopg.conninfo
        from psycopg import pq

        self.where = describe(dsn)
        settings: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": APPLICATION, **options}
        info = psycopg.conninfo.make_conninfo(dsn, **settings)
        self._pq = pq
        self._conn = pq.PGconn.connect(info.encode())
        if self._conn.status != pq.ConnStatus.OK:
            text = self._conn.error_message.decode(errors="replace")
            self._conn.finish()
            raise _failed(text, self.where)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._conn.finish()

    def rows(self, command: str) -> list[tuple[str, ...]]:
        """Send a command that answers with rows."""
        self.send(command)
        rows: list[tuple[str, ...]] = []
        while (result := self.result()) is not None:
            rows += self.values(result)
        return rows

    def send(self, command: str) -> None:
        self._conn.send_query(command.encode())

    def result(self) -> Any:
        """The next result of what was sent, None after the last; the server's error is raised."""
        while self._conn.is_busy():
            self._wait()
        result = self._conn.get_result()
        if result is not None and result.status == self._pq.ExecStatus.FATAL_ERROR:
            while self._conn.get_result() is not None:
                pass  # or the next command is refused
            raise explain(result.error_message.decode(errors="replace"), self.where)
        return result

    def is_copying(self, result: Any) -> bool:
        """Whether messages follow."""
        return result.status in (self._pq.ExecStatus.COPY_OUT, self._pq.ExecStatus.COPY_BOTH)

    @staticmethod
    def values(result: Any) -> list[tuple[str, ...]]:
        """The rows of a result, as text; NULL is empty."""
        return [
            tuple((result.get_value(row, column) or b"").decode() for column in range(result.nfields))
            for row in range(result.ntuples)
        ]

    def messages(self) -> Iterator[memoryview]:
        """The messages of a COPY stream, until its end. Each is valid until the next is asked for."""
        while True:
            size, data = self._conn.get_copy_data(1)
            if size > 0:
                yield data
            elif size == 0:
                self._wait()
            else:
                return  # -1: its end; what follows is a result, or the error

    def copy_in(self, command: str, data: Iterator[bytes | memoryview]) -> int:
        """Run COPY … FROM STDIN with this data; the rows that it wrote."""
        self.send(command)
        answer = self.result()
        if answer is None or answer.status != self._pq.ExecStatus.COPY_IN:
            raise ServerFailed("the server takes no data.", target=self.where)
        # Not blocking: within a blocking call, libpq would keep the interpreter's lock while the server is busy.
        self._conn.nonblocking = 1
        try:
            for piece in data:
                self._conn.put_copy_data(piece)
                self._send_all()
            self._conn.put_copy_end()
            self._send_all()
        finally:
            self._conn.nonblocking = 0
        return self.copied()

    def copied(self) -> int:
        """The rows that a COPY tells at its end."""
        rows = 0
        while (result := self.result()) is not None:
            rows = result.command_tuples or 0
        return rows

    def try_message(self, seconds: float) -> memoryview | bool | None:
        """The next message of a COPY stream that goes both ways; None: none came in time; False: it ended."""
        size, data = self._conn.get_copy_data(1)
        if size == 0 and self._readable(seconds):
            self._consume()
            size, data = self._conn.get_copy_data(1)
        return data if size > 0 else None if size == 0 else False

    def put(self, data: bytes) -> None:
        """Send a message within a COPY stream that goes both ways."""
        self._conn.put_copy_data(data)
        self._conn.flush()

    def end_copy(self) -> None:
        """Answer the end of a COPY stream that goes both ways."""
        self._conn.put_copy_end()
        self._conn.flush()

    def _send_all(self) -> None:
        """Until libpq has handed everything to the network; what the server says meanwhile is taken in."""
        while self._conn.flush():
            poll = select.poll()
            poll.register(self._conn.socket, select.POLLIN | select.POLLOUT)
            ready = poll.poll(STALL_SECONDS * 1000)
            if not ready:
                raise ServerFailed(f"the server took nothing for {STALL_SECONDS} s.", target=self.where)
            if ready[0][1] & ~select.POLLOUT:
                self._consume()

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._conn.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _wait(self) -> None:
        if not self._readable(STALL_SECONDS):
            raise ServerFailed(f"the server sent nothing for {STALL_SECONDS} s.", target=self.where)
        self._consume()

    def _consume(self) -> None:
        import psycopg

        try:
            self._conn.consume_input()
        except psycopg.OperationalError as error:
            raise explain(str(error), self.where) from None


class Replication(Wire):
    """A replication connection. `target_session_attrs=prefer-standby` and several hosts in the DSN choose a standby."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, replication="true")

    def identify(self) -> Server:
        """Who this is; servers that are too old are refused."""
        system, timeline, position, *_ = self.rows("IDENTIFY_SYSTEM")[0]
        version = int(self._show("server_version_num"))
        if version < OLDEST:
            raise PermanentError(
                f"PostgreSQL {version // 10000} is too old for a physical backup; 15 or newer is needed.",
                target=self.where,
                todo="Take a logical one.",
            )
        return Server(
            system_id=system,
            timeline=int(timeline),
            position=Lsn.parse(position),
            version=version,
            segment_bytes=_bytes_of(self._show("wal_segment_size")),
            data_checksums=self._show("data_checksums") == "on",
            in_recovery=self._show("in_hot_standby") == "on",
        )

    def _show(self, name: str) -> str:
        return self.rows(f"SHOW {name}")[0][0]


def _bytes_of(text: str) -> int:
    """`16MB` as SHOW prints a size."""
    number = text.rstrip("kMGB")
    return int(number) * {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}[text[len(number) :].rstrip("B")]
