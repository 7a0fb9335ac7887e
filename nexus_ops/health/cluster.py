"""The cluster itself: its API server, its nodes by group, its add-ons."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from nexus_ops.clusters.client import DEPLOYMENT
from nexus_ops.clusters.errors import ClusterUnreachable
from nexus_ops.health.model import Finding, State, worst
from nexus_ops.infrastructure.add_ons import SYSTEM, add_on
from nexus_ops.infrastructure.drift import DAEMON_SET, NODE
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.topology import NodeGroup

Object = dict[str, Any]
SLOW_SECONDS = 2.0
"""An API server that takes so long for its version number is in trouble."""
PRESSURE = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")


def look_at_api_server(context: RolloutContext) -> Finding:
    """Whether it answers, and how fast. That it does not is a failure; that we may not ask is unknown."""
    begun = time.monotonic()
    try:
        version = context.client.version()
    except ClusterUnreachable as error:
        return Finding("failed", error.problem.rstrip("."), error.todo or "")
    seconds = time.monotonic() - begun
    numbers = {"milliseconds": round(1000 * seconds, 1)}
    if seconds > SLOW_SECONDS:
        return Finding("degraded", f"{version} took {seconds:.1f} s to answer", "Look at the control plane.", numbers)
    return Finding("healthy", f"{version} answered in {1000 * seconds:.0f} ms", "", numbers)


def look_at_nodes(context: RolloutContext) -> Finding:
    """The nodes of each group of the topology."""
    return judge_nodes(context.client.list(NODE), context.topology.node_groups)


def judge_nodes(nodes: Iterable[Object], groups: Mapping[str, NodeGroup]) -> Finding:
    """A group without a ready node has failed; one below its minimum, or with a sick node, is degraded. Pure."""
    nodes, numbers, said, states = list(nodes), dict[str, float](), list[str](), list[State]()
    for name, group in groups.items():
        own = [node for node in nodes if group.labels.items() <= (node["metadata"].get("labels") or {}).items()]
        sick = {node["metadata"]["name"]: why for node in own if (why := _trouble(node))}
        ready = len(own) - sum(why == "not ready" for why in sick.values())
        cordoned = sum(bool((node.get("spec") or {}).get("unschedulable")) for node in own)
        numbers |= {f"{name} ready": ready, f"{name} nodes": len(own), f"{name} cordoned": cordoned}
        state: State = "failed" if not ready else "degraded" if sick or ready < group.min else "healthy"
        states.append(state)
        problems = [f"{node} {why}" for node, why in sorted(sick.items())[:3]]
        problems += [f"the minimum is {group.min}"] if ready < group.min else []
        detail = f" ({'; '.join(problems)})" if problems else ""
        said.append(f"{name} {ready} of {len(own)} ready{detail}")
    found = worst(states)
    todo = "" if found == "healthy" else "Look at the nodes' conditions (kubectl describe node) and the node group."
    return Finding(found, ", ".join(said), todo, numbers)


def _trouble(node: Object) -> str:
    """What ails a node; empty when nothing does."""
    conditions = {c["type"]: c["status"] for c in (node.get("status") or {}).get("conditions") or ()}
    if conditions.get("Ready") != "True":
        return "not ready"
    return next((f"has {kind}" for kind in PRESSURE if conditions.get(kind) == "True"), "")


def look_at_add_ons(context: RolloutContext) -> Finding:
    """The topology's add-ons, by their workloads in kube-system."""
    workloads = [obj for kind in (DEPLOYMENT, DAEMON_SET) for obj in context.client.list(kind, SYSTEM)]
    return judge_add_ons(workloads, context.topology.add_ons)


def judge_add_ons(workloads: Iterable[Object], add_ons: Iterable[str]) -> Finding:
    """Each add-on's workloads must be there and have all their pods ready. Pure.

    Where kube-system shows no workload at all (an emulated cluster, a control plane that hides it) nothing is known.
    """
    pods = {obj["metadata"]["name"]: _ready_of(obj) for obj in workloads}
    if not pods:
        return Finding("unknown", f"{SYSTEM} shows no workloads, so that no add-on can be seen")
    states, problems, add_ons = list[State](), list[str](), list(add_ons)
    for declared in add_ons:
        for name in add_on(declared).workloads:
            if name not in pods:
                states.append("failed")
                problems.append(f"{declared}: there is no {name}")
            elif pods[name][0] < pods[name][1] or not pods[name][1]:
                states.append("degraded" if pods[name][0] else "failed")
                problems.append(f"{declared}: {name} has {pods[name][0]} of {pods[name][1]} pods ready")
            else:
                states.append("healthy")
    bad = len({problem.partition(":")[0] for problem in problems})
    numbers = {"wanted": len(add_ons), "in trouble": bad}
    why = "; ".join(problems) or f"all {len(add_ons)} are there and ready"
    todo = "Install or repair them as eksctl's ClusterConfig lists them." if problems else ""
    return Finding(worst(states), why, todo, numbers)


def _ready_of(workload: Object) -> tuple[int, int]:
    """Pods ready and wanted of a Deployment or DaemonSet."""
    status = workload.get("status") or {}
    if workload["kind"] == "DaemonSet":
        return status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
    return status.get("readyReplicas", 0), workload["spec"].get("replicas", 1)
