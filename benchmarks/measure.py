"""How the benchmarks measure, and what a row looks like: a figure, what it is compared with, and their ratio."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_ops.errors import PermanentError
from nexus_ops.users import become, ordinary_user

HEAD = f"| {'what':44} | {'figure':>10} | {'beside':42} | {'figure':>10} | ratio |\n|{'-' * 46}|{'-' * 11}:|{'-' * 44}|{'-' * 11}:|------:|"


def median(work: Callable[[], object], times: int) -> float:
    """Median wall time of a piece of work (seconds)."""
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


@dataclass(frozen=True)
class Run:
    """What a process and its children took; memory is that of the largest of them (MB)."""

    seconds: float
    cpu: float
    peak: float


def run(command: Sequence[str] | str, environment: Mapping[str, str], folder: Path, *, as_server: bool = False) -> Run:
    """Run a command, or a pipeline (a str), in a folder; PermanentError with its last words when it fails.

    `as_server`: as the user whom servers run as. The memory of a small process is that of its parent at the fork.
    """
    argv = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else list(command)
    log = folder / "command.log"
    os.sync()  # what an earlier one has left to the disk is not this one's to wait for
    _touch_memory()
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, env=dict(environment), cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
            preexec_fn=become(ordinary_user(), signal.SIGTERM) if as_server else None,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    if process.returncode != 0:
        last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise PermanentError(f"{argv[-1][:60]} failed: {last}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _touch_memory() -> None:
    """Let the system have free memory at hand. A virtual machine's host takes back what is free, and fetching it anew
    takes some ten times as long as using it again: whoever comes second would be measured with other memory."""
    size = min(4 << 30, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    subprocess.run([sys.executable, "-c", f"bytearray({size})"], check=True)


def say(what: str, value: float, unit: str, beside: str, other: float) -> None:
    """One row of a Markdown table: the figure, what it is compared with, and the ratio."""
    figures = f"{_figure(value, unit):>10} | {beside:42} | {_figure(other, unit):>10}"
    print(f"| {what:44} | {figures} | {value / other:5.2f} |", flush=True)


def leave_out(what: str, why: str) -> None:
    """The row of what could not be measured here."""
    print(f"| {what:44} | {'-':>10} | not measured: {why} | - | - |", flush=True)


def _figure(value: float, unit: str) -> str:
    """Seconds below one in milliseconds, so that every row can be read."""
    if unit == "s" and value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} {unit}" if unit == "s" else f"{value:.0f} {unit}"
