"""Whether a live cluster is what the topology declares: its version, its nodes by group, its add-ons.

How many nodes a group has between its bounds is the autoscaler's choice, and no drift. What could not be seen is said to be
unseen, and what shows nothing at all (no node, no workload in kube-system) is unseen, too: an empty read is no proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nexus_ops.clusters.client import DEPLOYMENT, ClusterClient, Kind
from nexus_ops.infrastructure.add_ons import SYSTEM, add_on
from nexus_ops.infrastructure.eks import EksCluster, NotSeen, describe
from nexus_ops.releases.quantities import NoQuantity, amount
from nexus_ops.topology import Cluster, NodeGroup, Topology

Object = dict[str, Any]
NODE = Kind("v1", "Node")
DAEMON_SET = Kind("apps/v1", "DaemonSet")
INSTANCE_TYPE = "node.kubernetes.io/instance-type"
MOST = 3


@dataclass
class Judgement:
    """What was held against the topology: what differs, and what could not be seen."""

    drift: list[str] = field(default_factory=list[str])
    unseen: list[str] = field(default_factory=list[str])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    also: list[str] = field(default_factory=list[str])
    """What is there beside what is declared, and is nobody's fault."""

    @property
    def passed(self) -> bool:
        return not self.drift and not self.unseen

    def summary(self, fine: str) -> str:
        """One line: the drift first, then what is unseen; `fine` when there is neither."""
        unseen = [f"not seen: {'; '.join(self.unseen)}"] if self.unseen else []
        return "; ".join([*self.drift, *unseen]) or fine


def nodes_of(topology: Topology, cluster: Cluster, client: ClusterClient, eks: Any = None) -> Judgement:
    """The nodes of a live cluster, by its API server and, on AWS, by EKS. `eks`: a boto3 client of EKS."""
    found = judge_nodes(client.list(NODE), topology.node_groups, cluster.cloud == "aws")
    _judge_version(found, "the API server", client.version(), topology.kubernetes_version)
    if cluster.cloud != "aws":
        found.unseen.append(f"the sizes of the node groups: {cluster.cloud} is not asked")
        return found
    try:
        judge_eks(found, describe(cluster, eks), topology)
    except NotSeen as error:
        found.unseen.append(f"the sizes of the node groups: {error.problem} {error.todo}".rstrip("."))
    return found


def judge_nodes(nodes: Iterable[Object], groups: Mapping[str, NodeGroup], typed: bool = True) -> Judgement:
    """Live nodes beside the groups. Pure. `typed`: whether the topology's instance types are those of this cloud."""
    nodes, found = list(nodes), Judgement()
    if not nodes:
        found.unseen.append("the API server shows no nodes at all")
        return found
    strangers = {node["metadata"]["name"] for node in nodes}
    for name, group in groups.items():
        own = [node for node in nodes if group.labels.items() <= (node["metadata"].get("labels") or {}).items()]
        strangers -= {node["metadata"]["name"] for node in own}
        found.numbers[f"{name} nodes"] = len(own)
        if not group.min <= len(own) <= group.max:
            found.drift.append(f"{name} has {len(own)} nodes; declared: {group.min} to {group.max}")
        _judge_kind(found, name, group, own, typed)
    if strangers:
        found.drift.append(f"{len(strangers)} nodes belong to no declared group: {_some(strangers)}")
    return found


def _judge_kind(found: Judgement, name: str, group: NodeGroup, own: list[Object], typed: bool) -> None:
    """What kind of machine the nodes of a group are."""
    types = {node["metadata"]["name"]: (node["metadata"].get("labels") or {}).get(INSTANCE_TYPE) for node in own}
    if typed and (
        others := {f"{node} is {kind}" for node, kind in types.items() if kind not in (None, group.instance_type)}
    ):
        found.drift.append(f"{name} is declared as {group.instance_type}: {_some(others)}")
    if typed and None in types.values():
        found.unseen.append(f"the instance type of {name}: its nodes do not say it")
    sizes = {node["metadata"]["name"]: ((node.get("status") or {}).get("capacity") or {}).get("cpu") for node in own}
    if small := {f"{node} has {cpu}" for node, cpu in sizes.items() if cpu is not None and not _equal(cpu, group.cpu)}:
        found.drift.append(f"{name} is declared with {group.cpu} cores a node: {_some(small)}")


def _equal(one: Any, other: Any) -> bool:
    try:
        return amount(one) == amount(other)
    except NoQuantity:
        return False


def judge_eks(found: Judgement, live: EksCluster, topology: Topology) -> None:
    """What EKS says of its node groups, added to a judgement. Pure."""
    _judge_version(found, "EKS", live.version, topology.kubernetes_version)
    groups = {group.name: group for group in live.groups}
    for name, group in topology.node_groups.items():
        seen = groups.pop(name, None)
        if seen is None:
            found.drift.append(f"EKS has no node group {name}")
            continue
        if (seen.min, seen.max) != (group.min, group.max):
            found.drift.append(f"{name} may have {seen.min} to {seen.max} nodes; declared: {group.min} to {group.max}")
        if seen.instance_types and set(seen.instance_types) != {group.instance_type}:
            found.drift.append(f"{name} is of {', '.join(seen.instance_types)}; declared: {group.instance_type}")
        if wrong := [label for label, value in group.labels.items() if seen.labels.get(label) != value]:
            found.drift.append(f"{name} does not give its nodes the label {', '.join(wrong)}")
        if seen.status not in ("ACTIVE", "UPDATING"):
            found.drift.append(f"{name} is {seen.status}")
    if groups:
        found.drift.append(f"node groups that nobody declared: {_some(groups)}")


def _judge_version(found: Judgement, who: str, version: str, declared: str) -> None:
    minor = ".".join(version.removeprefix("v").split(".")[:2])
    if minor != declared:
        found.drift.append(f"{who} is of version {minor}; declared: {declared}")


def add_ons_of(topology: Topology, client: ClusterClient) -> Judgement:
    """The add-ons of a live cluster, by their workloads in kube-system."""
    names = [obj["metadata"]["name"] for kind in (DEPLOYMENT, DAEMON_SET) for obj in client.list(kind, SYSTEM)]
    return judge_add_ons(names, topology.add_ons)


def judge_add_ons(workloads: Iterable[str], declared: Iterable[str]) -> Judgement:
    """Every declared add-on must be there; others may be. Pure. Whether they are ready is what health looks at."""
    there, found, declared = set(workloads), Judgement(), list(declared)
    found.numbers = {"declared": len(declared), "missing": 0}
    if not there:
        found.unseen.append(f"{SYSTEM} shows no workloads at all, so that no add-on can be seen")
        return found
    for name in declared:
        if missing := [workload for workload in add_on(name).workloads if workload not in there]:
            found.numbers["missing"] += 1
            found.drift.append(f"{name} is declared and not there (no {', '.join(missing)} in {SYSTEM})")
    found.also = sorted(there - {workload for name in declared for workload in add_on(name).workloads})
    return found


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:MOST]) + (f" and {len(listed) - MOST} more" if listed[MOST:] else "")
