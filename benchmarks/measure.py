"""How the benchmarks measure, and what a row looks like: a figure, what it is compared with, and their ratio."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

HEAD = f"| {'what':44} | {'figure':>10} | {'beside':42} | {'figure':>10} | ratio |\n|{'-' * 46}|{'-' * 11}:|{'-' * 44}|{'-' * 11}:|------:|"


def median(work: Callable[[], object], times: int) -> float:
    """Median wall time of a piece of work (seconds)."""
    taken: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


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
