"""How far a backup or restore is: bytes, MB/s, time left; told at most once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A moment of something long."""

    done: int
    """Bytes before compression."""
    stored: int
    """Bytes written to, or read from, the store."""
    total: int | None
    """Bytes that are to be done, where that is known."""
    seconds: float

    @property
    def megabytes_per_second(self) -> float:
        return self.done / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """As long as what is left takes at the speed so far."""
        if self.total is None or not self.done:
            return None
        return max(0.0, (self.total - self.done) * self.seconds / self.done)

    def __str__(self) -> str:
        whole = f" of {self.total / 1e6:.0f}" if self.total is not None else ""
        left = f", {self.seconds_left:.0f} s left" if self.seconds_left is not None else ""
        return f"{self.done / 1e6:.0f}{whole} MB, {self.megabytes_per_second:.0f} MB/s{left}"


Tell = Callable[[Progress], None]


class Meter:
    """Counts, from any thread, and tells."""

    def __init__(self, tell: Tell | None = None, *, total: int | None = None, every: float = 1.0) -> None:
        self.total = total
        self._tell = tell
        self._every = every
        self._began = self._told = time.monotonic()
        self._done = self._stored = 0
        self._lock = threading.Lock()

    def add(self, *, done: int = 0, stored: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            self._done += done
            self._stored += stored
        self._say()

    def reached(self, done: int) -> None:
        """What the server says it has done."""
        with self._lock:
            self._done = max(self._done, done)
        self._say()

    def now(self) -> Progress:
        return Progress(self._done, self._stored, self.total, time.monotonic() - self._began)

    def _say(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = self._tell is not None and now - self._told >= self._every
            if due:
                self._told = now
        if due and self._tell:
            self._tell(self.now())
