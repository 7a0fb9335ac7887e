"""What a cluster has before the platform comes, besides its nodes: the add-ons of the topology, in kube-system.

Deployments run through the usual controllers, as pods that do nothing. DaemonSets have no controller here: their status
says one pod for each node.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from nexus_ops.infrastructure.add_ons import SYSTEM, add_on
from nexus_ops.topology import Topology

Object = dict[str, Any]
DAEMONS = frozenset({"aws-node", "ebs-csi-node", "kube-proxy"})
"""The workloads that run on each node."""
VERSION = "simulated"


def images(topology: Topology) -> dict[str, tuple[str, str]]:
    """(name, version) by digest, as for the platform's own images."""
    return {_digest(name): (name, VERSION) for name in _workloads(topology)}


def seed(
    topology: Topology, nodes: int, create: Callable[[str, Object, str], None], store: Callable[[str, Object], object]
) -> None:
    """Make them: `create` is given the kind's key, the object and its namespace; `store` takes a status as well."""
    for name in _workloads(topology):
        labels = {"app.kubernetes.io/name": name}
        container = {
            "name": name,
            "image": f"simulated/{name}@{_digest(name)}",
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        }
        spec: Object = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }
        body: Object = {"metadata": {"name": name, "labels": labels}, "spec": spec}
        if name not in DAEMONS:
            create("deployments.apps", body, SYSTEM)
            continue
        counts = (
            "currentNumberScheduled",
            "desiredNumberScheduled",
            "numberAvailable",
            "numberReady",
            "updatedNumberScheduled",
        )
        body["status"] = {**dict.fromkeys(counts, nodes), "numberMisscheduled": 0, "observedGeneration": 1}
        body["metadata"]["namespace"] = SYSTEM
        store("daemonsets.apps", body)


def _workloads(topology: Topology) -> Iterator[str]:
    for declared in topology.add_ons:
        yield from add_on(declared).workloads


def _digest(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
