"""A snapshot as a person reads it: a table, what to do next, and numbers to plot."""

from __future__ import annotations

from nexus_ops.health.model import STATES, Result, Snapshot

SIGNS = {"healthy": "🟢", "degraded": "🟡", "unknown": "⚪", "failed": "🔴"}
SCORES = {"failed": 0, "unknown": 1, "degraded": 2, "healthy": 3}
"""The overall word as a number to plot: higher is better."""


def table(snapshot: Snapshot) -> str:
    """Markdown: what, state, why, what next. Critical probes are in bold."""
    head = f"**{snapshot.cluster}** is **{snapshot.state}** {SIGNS[snapshot.state]}, seen {snapshot.taken:%Y-%m-%d %H:%M:%S} UTC."
    rows = [f"| {_name(result)} | {SIGNS[result.state]} {result.state} | {_cell(result.why)} | {_cell(result.todo)} |" for result in snapshot.results]  # fmt: skip
    note = "What is critical is in bold: the worst of it is the word for the cluster."
    return "\n".join([head, "", "| what | state | why | what next |", "|---|---|---|---|", *rows, "", note])


def summary(snapshot: Snapshot) -> str:
    """The overall word, and every probe that is not healthy with its reason, the critical ones first."""
    bad = sorted((one for one in snapshot.results if one.state != "healthy"), key=_urgency)
    why = "; ".join(f"{one.probe} {one.state}: {one.why}" for one in bad) or f"all {len(snapshot.results)} probes"
    return f"{SIGNS[snapshot.state]} {snapshot.state}. {why[0].upper()}{why[1:]}."


def rows(snapshot: Snapshot) -> list[dict[str, str | float | bool]]:
    """The same as records, for a table that a program can read."""
    return [
        {
            "probe": result.probe, "state": result.state, "why": result.why, "what_next": result.todo or "-",
            "critical": result.critical, "seconds": result.seconds,
        }
        for result in snapshot.results
    ]  # fmt: skip


def _name(result: Result) -> str:
    return f"**{result.probe}**" if result.critical else result.probe


def _cell(text: str) -> str:
    """Text that stays within its cell, and is shown as it is."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "-"


def what_next(snapshot: Snapshot) -> str:
    """The worst trouble's way out; critical probes first."""
    troubles = sorted((result for result in snapshot.results if result.state != "healthy"), key=_urgency)
    if not troubles:
        return "Nothing: all is well."
    return f"{troubles[0].probe}: {troubles[0].todo or troubles[0].why}"


def _urgency(result: Result) -> tuple[bool, int]:
    """By which troubles are sorted: critical ones first, then the worse ones."""
    return not result.critical, -STATES.index(result.state)


def problems(snapshot: Snapshot) -> list[str]:
    """A line for each critical probe that has failed or is unknown, the failed ones first."""
    bad = [result for result in snapshot.results if result.critical and result.state in ("failed", "unknown")]
    return [f"{result.probe} {result.state}: {result.why}" for result in sorted(bad, key=lambda r: r.state != "failed")]


def numbers(snapshot: Snapshot) -> dict[str, float]:
    """All numbers by `probe/number`, how long each probe took, and the overall score: what can be plotted over time."""
    found: dict[str, float] = {"score": float(SCORES[snapshot.state])}
    for state in STATES:
        found[f"probes {state}"] = float(sum(result.state == state for result in snapshot.results))
    for result in snapshot.results:
        found |= {f"{result.probe}/{name}": float(value) for name, value in result.numbers.items()}
        found[f"{result.probe}/probe seconds"] = result.seconds
    return found
