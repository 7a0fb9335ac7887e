"""The node groups as a table: what they are, what they have, and what both colours of a release ask of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from nexus_ops.releases.capacity import Capacity
from nexus_ops.releases.quantities import amount
from nexus_ops.topology import NodeGroup

GIB = Decimal(2) ** 30


def size_table(groups: Mapping[str, NodeGroup], asked: Iterable[Capacity] = ()) -> str:
    """Markdown: a row for each group, narrow enough for the UI; `asked` is what a release's pods need of it."""
    needs = {row.group: row for row in asked}
    lines = ["| node group | nodes | cores | GiB | asked |", "|---|---|---|---|---|"]
    for name, group in groups.items():
        cpu, memory = amount(group.cpu), amount(group.memory) / GIB
        need = needs.get(name)
        asks = f"{need.nodes_used} nodes: {need.cpu_used:g} cores, {need.memory_used:g} GiB" if need else "-"
        lines.append(
            f"| {name} ({group.instance_type}) | {group.min}–{group.desired}–{group.max} "
            f"| {group.desired * cpu:f} to {group.max * cpu:f} | {group.desired * memory:f} to {group.max * memory:f} | {asks} |"
        )
    note = "Nodes: minimum, desired, maximum. Cores and GiB: at the desired size, at most. Asked: by both colours of the newest release at once."
    return "\n".join([*lines, "", note])


def numbers(groups: Mapping[str, NodeGroup], asked: Iterable[Capacity] = ()) -> dict[str, float]:
    """What can be plotted: by group the nodes there may be, and those that both colours need."""
    found = {f"{name}/nodes at most": float(group.max) for name, group in groups.items()}
    return {**found, **{f"{row.group}/nodes both colours need": float(row.nodes_used) for row in asked}}
