"""Ports that nobody else gets meanwhile, and processes that are not mistaken for others with the same number."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from nexus_ops.errors import PermanentError


def birth(pid: int) -> int:
    """When a process began, in clock ticks since the machine's start; 0 when it does not run.

    Numbers are given again to others; number and birth together are not (proc_pid_stat(5), field 22).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def free_port(wanted: int = 0) -> int:
    """A loopback port that is free now: the wanted one, or any where it is not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port: int) -> bool:
    """Whether a server takes connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Ports:
    """Loopback ports by name, kept until `release`.

    Each is bound but not listened on: the kernel gives it to nobody who asks for any port, while a server that asks
    for this one with SO_REUSEADDR, as servers do, gets it.
    """

    def __init__(self, names: Iterable[str], fixed: Mapping[str, int]) -> None:
        """`fixed`: ports that are wanted; `PermanentError` when one is taken."""
        self._held: list[socket.socket] = []
        self.numbers: dict[str, int] = {}
        for name in names:
            held = socket.socket()
            self._held.append(held)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind(("127.0.0.1", fixed.get(name, 0)))
            except OSError as error:
                self.release()
                if error.errno != errno.EADDRINUSE:
                    raise
                raise PermanentError(
                    f"the port {fixed[name]} for {name} is taken by another program.",
                    todo="Name another one, or none: a free one is found.",
                ) from None
            self.numbers[name] = held.getsockname()[1]

    def release(self) -> None:
        """Leave the ports to who listens on them."""
        for held in self._held:
            held.close()
        self._held.clear()
