"""Whether both colours of a release fit the node groups at their maximum, as its own manifests ask.

What counts is what will be applied, not what the topology says today: an older release may ask for more. Pods are
placed on nodes as a scheduler must place them, whole: two pods of five cores do not fit a node of eight, whatever
the sum of the group says. A node has the size that topology.yaml gives it; what a cluster's own agents take of it
is for the autoscaler's headroom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from nexus_ops.releases.operated import operated_pods
from nexus_ops.releases.policy import name_of, pod_of
from nexus_ops.releases.quantities import NoQuantity, amount
from nexus_ops.releases.rendering import Rendering
from nexus_ops.topology import COLOURS, NodeGroup, Topology

Object = dict[str, Any]
GIB = Decimal(2) ** 30
REPLICAS = "nexus.ai/replicas"
WORK = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Demand:
    """Equal pods: how many, and what each asks for (cores, bytes)."""

    name: str
    group: str
    copies: int
    cpu: Decimal
    memory: Decimal


@dataclass(frozen=True)
class Capacity:
    """What both colours ask of a node group, beside what it has at its maximum (cores, GiB, nodes)."""

    group: str
    pods: int
    cpu_used: float
    cpu: float
    memory_used: float
    memory: float
    nodes_used: int
    nodes: int


Sizes = Mapping[str, int]
"""Pods of a component in one colour, by component, where more are known to run than are declared."""


def capacity(renderings: Iterable[Rendering], topology: Topology, sizes: Sizes | None = None) -> tuple[Capacity, ...]:
    """A row for each node group that the pods of these renderings run on, in the topology's order."""
    demands = list(demands_of(renderings, topology, sizes))
    return tuple(
        _row(group, [demand for demand in demands if demand.group == group.name])
        for group in topology.node_groups.values()
        if any(demand.group == group.name for demand in demands)
    )


def capacity_problems(renderings: Iterable[Rendering], topology: Topology, sizes: Sizes | None = None) -> Iterator[str]:
    """Sentences: pods that fit no node, and node groups that both colours at once do not fit."""
    parts = list(renderings)
    too_big: set[str] = set()
    for demand in demands_of(parts, topology, sizes):
        if demand.group not in topology.node_groups:
            yield f"{demand.name}: its nodeSelector names no node group; allowed: the labels of {', '.join(topology.node_groups)}."
        elif demand.copies and not _copies_per_node(demand, topology.node_groups[demand.group]):
            too_big.add(demand.group)
            group = topology.node_groups[demand.group]
            yield (
                f"{demand.name}: one pod asks for {demand.cpu:f} cores and {demand.memory / GIB:.1f} GiB, a node of {group.name} "
                f"({group.instance_type}) has {group.cpu} cores and {group.memory}; lower its requests or take larger nodes."
            )
    for row in capacity(parts, topology, sizes):
        over = False
        for what, unit, used, room in (
            ("cpu", "cores", row.cpu_used, row.cpu),
            ("memory", "GiB", row.memory_used, row.memory),
        ):
            if used > room:
                over = True
                yield (
                    f"node group {row.group}: both colours ask for {used:.1f} {unit} of {what}, {row.group} has "
                    f"{room:.1f} at its maximum; raise its max or lower the replicas."
                )
        if row.nodes_used > row.nodes and not over and row.group not in too_big:
            yield (
                f"node group {row.group}: both colours need {row.nodes_used} nodes, for pods are not divided; {row.group} has "
                f"{row.nodes} at its maximum; raise its max, lower the replicas, or make the pods smaller."
            )


def demands_of(renderings: Iterable[Rendering], topology: Topology, sizes: Sizes | None = None) -> Iterator[Demand]:
    """The pods of these renderings. Of one colour alone, what runs in both at once counts twice.

    `sizes`: an autoscaler may have made a component larger than it is declared, and a rollout matches that.
    """
    parts = list(renderings)
    times = 2 if sum(rendering.part in COLOURS for rendering in parts) == 1 else 1
    exclusive: set[str] = set()
    for rendering in parts:
        for obj in rendering.objects:
            for operated in operated_pods(obj):
                yield Demand(name_of(obj), _group_of(operated.pod, topology), operated.copies, *_asked(operated.pod))
            pod = pod_of(obj)
            if pod is None:
                continue
            labels = obj["metadata"].get("labels") or {}
            copies, component = _copies(obj), labels.get("app.kubernetes.io/name", "")
            if rendering.part in COLOURS:
                copies = max(copies, (sizes or {}).get(component, 0))
                if labels.get(WORK) == "exclusive":  # never in both colours at once
                    copies = 0 if component in exclusive else copies
                    exclusive.add(component)
                else:
                    copies *= times
            group = _group_of(pod, topology)
            if obj["kind"] == "DaemonSet":
                copies = topology.node_groups[group].max if group in topology.node_groups else 1
            yield Demand(name_of(obj), group, copies, *_asked(pod))


def _group_of(pod: Object, topology: Topology) -> str:
    """The node group whose labels a pod selects, the largest of several; empty for none."""
    wanted = (pod.get("nodeSelector") or {}).items()
    fitting = [group for group in topology.node_groups.values() if wanted <= dict(group.labels).items()]
    return max(fitting, key=lambda group: group.max * amount(group.cpu)).name if fitting else ""


def _copies(obj: Object) -> int:
    """How many pods an object asks for. Where an autoscaler decides, the number to begin with is an annotation."""
    spec = obj.get("spec") or {}
    if obj["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    wanted = (obj["metadata"].get("annotations") or {}).get(REPLICAS)
    return int(spec.get("replicas", wanted if wanted is not None else spec.get("parallelism", 1)))


def _asked(pod: Object) -> tuple[Decimal, Decimal]:
    """What one pod asks for: its containers together, or its largest init container if that is more."""

    def of(container: Object, what: str) -> Decimal:
        try:
            return amount(((container.get("resources") or {}).get("requests") or {}).get(what, 0))
        except NoQuantity:
            return Decimal(0)  # what is no quantity is the schema gate's to refuse

    def total(what: str) -> Decimal:
        first = pod.get("initContainers") or ()
        sidecars = sum((of(one, what) for one in first if one.get("restartPolicy") == "Always"), Decimal(0))
        running = sum((of(one, what) for one in pod["containers"]), sidecars)
        return max(running, *(of(one, what) for one in first)) if first else running

    return total("cpu"), total("memory")


def _copies_per_node(demand: Demand, group: NodeGroup) -> int:
    """How many of these pods an empty node takes."""
    return _fit(demand, amount(group.cpu), amount(group.memory))


def _fit(demand: Demand, cpu: Decimal, memory: Decimal) -> int:
    room = [int(free // asked) for free, asked in ((cpu, demand.cpu), (memory, demand.memory)) if asked > 0]
    return max(min(room), 0) if room else demand.copies


def _row(group: NodeGroup, demands: list[Demand]) -> Capacity:
    return Capacity(
        group=group.name,
        pods=sum(demand.copies for demand in demands),
        cpu_used=float(sum(demand.copies * demand.cpu for demand in demands)),
        cpu=float(group.max * amount(group.cpu)),
        memory_used=float(sum(demand.copies * demand.memory for demand in demands) / GIB),
        memory=float(group.max * amount(group.memory) / GIB),
        nodes_used=_nodes(group, demands),
        nodes=group.max,
    )


def _nodes(group: NodeGroup, demands: list[Demand]) -> int:
    """How many nodes the pods need: the largest first, each where it fits first. Pods that fit no node are left out."""
    size = amount(group.cpu), amount(group.memory)
    free: list[tuple[Decimal, Decimal]] = []
    for demand in sorted(
        demands, key=lambda one: max(one.cpu / (size[0] or 1), one.memory / (size[1] or 1)), reverse=True
    ):
        left = demand.copies if _copies_per_node(demand, group) else 0
        for place, (cpu, memory) in enumerate(free):
            here = min(left, _fit(demand, cpu, memory))
            free[place] = cpu - here * demand.cpu, memory - here * demand.memory
            left -= here
        while left > 0:
            here = min(left, _copies_per_node(demand, group))
            free.append((size[0] - here * demand.cpu, size[1] - here * demand.memory))
            left -= here
    return len(free)


def capacity_table(rows: Iterable[Capacity]) -> str:
    """The rows as a markdown table: used of available, and how full."""
    lines = ["| node group | pods | cpu (cores) | memory (GiB) | nodes |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row.group} | {row.pods} | {row.cpu_used:g} of {row.cpu:g} | {row.memory_used:g} of {row.memory:g} "
            f"| {row.nodes_used} of {row.nodes} |"
        )
    return "\n".join(lines)
