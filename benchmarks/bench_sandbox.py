"""Starting the sandbox: the first time, and again from the same state folder; and what it takes of the memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.measure import say
from nexus_ops.sandbox import supervisor

GOAL_SECONDS = 15.0


def bench() -> None:
    """All enabled clusters with all their parts, as `make demo` starts them."""
    with tempfile.TemporaryDirectory(prefix="nexus-bench-") as folder:
        home = Path(folder)
        try:
            cold = _start(home)
            number = len(_found(home).clusters)
            used = sum(supervisor.memory(_found(home)).values()) / 2**20
            supervisor.stop(home)
            warm = _start(home)
        finally:
            supervisor.stop(home)
    say(f"sandbox, {number} clusters: first start", cold, "s", "goal", GOAL_SECONDS)
    say(f"sandbox, {number} clusters: start again", warm, "s", "its first start", cold)
    say("memory of the sandbox with nothing deployed", used, "MiB", "goal, with two colours deployed", 800)


def _start(home: Path) -> float:
    began = time.perf_counter()
    supervisor.start(home)
    return time.perf_counter() - began


def _found(home: Path) -> supervisor.State:
    state = supervisor.find(home)
    assert state is not None, "the sandbox has ended"
    return state


if __name__ == "__main__":
    bench()
