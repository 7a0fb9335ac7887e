"""The tables of docs/analysis.md, from the results of the judge's benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- written by python -m benchmarks.bench_judge -->", "<!-- end -->"
GOALS = {
    "independent errors": 0.015,
    "share 3 to 8 %, errors 0.2 to 2 %": 0.015,
    "clusters of 20": 0.025,
    "AR(1) load": 0.025,
}
"""Upper bounds of the share of false rollbacks that were asked for."""
ALONE, AMONG = 1.5, 2.5
"""The delay over Wald's limit that was asked for: of one metric, and of one bad among 28."""
LATE = 1.5
PEERS = ("threshold, limit 0", "threshold, limit 3", "Mann-Whitney")
Result = Mapping[str, Any]


def write(page: Path, found: Sequence[Result], seed: int) -> None:
    """Replace what stands between the marks."""
    text = page.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{tables(found, seed)}{END}{after}")


def tables(found: Sequence[Result], seed: int) -> str:
    """All tables in Markdown."""
    by_name = {one["cell"]: one for one in found}
    parts = [f"Seed {seed}. Each row says how many rollouts it rests on.\n"]
    parts.append(
        _rows(("no fault", "rollouts", "false", "95 % bounds", "goal", *PEERS), map(_false, _group(found, "false")))
    )
    parts.append(
        _rows(
            (
                "fault from the first look",
                "Wald",
                "one metric: found",
                "median",
                "× Wald",
                "among 28: found",
                "median",
                "× Wald",
                *PEERS,
            ),
            map(_power, _group(found, "power")),
        )
    )
    parts.append(
        _rows(
            (
                "fault that begins late",
                "false before",
                "one metric: median",
                "× early",
                "among 28: median",
                "× early",
                *PEERS,
            ),
            [_late(one, by_name) for one in _group(found, "late") if one["begins"]],
        )
    )
    parts.append(
        _rows(
            ("odd ones", "rollouts", "one metric: found", "median", "among 28: found", "median", *PEERS),
            map(_odd, _group(found, "odd")),
        )
    )
    return "\n".join(parts)


def _group(found: Sequence[Result], group: str) -> list[Result]:
    return [one for one in found if one["group"] == group]


def _rows(header: Sequence[str], rows: Any) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} s"


def _ratio(value: float | None, beside: float | None, goal: float) -> str:
    if value is None or not beside:
        return "-"
    ratio = value / beside
    return f"{ratio:.2f}" if ratio <= goal else f"**{ratio:.2f}**"


def _found(rule: Mapping[str, Any] | None) -> str:
    """Of a peer: what it found, when, and how often it had failed before there was a fault."""
    if rule is None:
        return "-"
    early = f", {_share(rule['false'], rule['rollouts'])} false" if rule["false"] else ""
    return f"{_share(rule['found'], rule['asked'])}, {_seconds(rule['median'])}{early}"


def _peers(one: Result) -> list[str]:
    return [_found(one["rules"].get(name)) for name in PEERS]


def _false(one: Result) -> list[str]:
    judge, goal = one["rules"]["judge"], GOALS.get(one["cell"])
    upper = f"{100 * judge['upper']:.2f} %"
    bounds = f"{100 * judge['lower']:.2f} to {upper if goal is None or judge['upper'] <= goal else f'**{upper}**'}"
    peers = [
        f"{_share(rule['false'], rule['rollouts'])} of {rule['rollouts']}" if (rule := one["rules"].get(name)) else "-"
        for name in PEERS
    ]
    return [
        one["cell"],
        str(judge["rollouts"]),
        str(judge["false"]),
        bounds,
        f"≤ {100 * goal:g} %" if goal else "none",
        *peers,
    ]


def _power(one: Result) -> list[str]:
    judge, among, wald = one["rules"]["judge"], one["rules"]["one of 28"], one["wald"]
    return [
        f"{one['cell']} ({judge['rollouts']})",
        f"{wald:.1f} s" if wald < 10 else f"{wald:.0f} s",
        _share(judge["found"], judge["asked"]),
        _seconds(judge["median"]),
        _ratio(judge["median"], wald, ALONE),
        _share(among["found"], among["asked"]),
        _seconds(among["median"]),
        _ratio(among["median"], wald, AMONG),
        *_peers(one),
    ]


def _late(one: Result, by_name: Mapping[str, Result]) -> list[str]:
    name = one["cell"].replace(", from minute 20", "").replace("from hour 2", "from hour 0")
    row = [
        f"{one['cell']} ({one['rules']['judge']['rollouts']})",
        _share(one["rules"]["judge"]["false"], one["rules"]["judge"]["rollouts"]),
    ]
    for rule in ("judge", "one of 28"):
        early = by_name.get(name, {"rules": {}})["rules"].get(rule, {}).get("median")
        row += [_seconds(one["rules"][rule]["median"]), _ratio(one["rules"][rule]["median"], early, LATE)]
    return row + _peers(one)


def _odd(one: Result) -> list[str]:
    """With no fault to find, what is found is false."""
    row = [one["cell"], str(one["rules"]["judge"]["rollouts"])]
    key = "false" if one["begins"] is None else "found"
    for rule in ("judge", "one of 28"):
        found = one["rules"][rule]
        row += [_share(found[key], found["rollouts"]), _seconds(found["median"])]
    return row + _peers(one)
