"""How the benchmarks measure and what a row looks like: a figure, what it is compared with, and their ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median(work: Callable[[], object], times: int) -> float:
    """Median wall time of a piece of work (seconds)."""
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def say(what: str, value: float, unit: str, beside: str, other: float) -> None:
    """One row: the figure, what it is compared with, and the ratio."""
    print(
        f"{what:34} {value:9.4f} {unit:3}   {beside:38} {other:9.4f} {unit:3}   ratio {value / other:6.3f}", flush=True
    )
