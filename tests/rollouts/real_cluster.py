"""A cluster named by NEXUS_TEST_KUBECONFIG as a place for rollout tests, in namespaces made for them alone.

The kubeconfig's current context is used. Gateway, Prometheus, database and Redis are the cluster's own (they are only
read, or reached through the API server); what the prerequisites look for in the platform's namespaces is brought there.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nexus_ops.clusters.client import NAMESPACE, SERVICE, ClusterClient, Kind
from nexus_ops.topology import Cluster, Topology

Object = dict[str, Any]
SECRETS = {"database-secret": {"url": "postgresql://test"}, "agent-secrets": {"token": "test"}}
ENDPOINTS = Kind("v1", "Endpoints")
SEI = "sei-rpc"
GONE_SECONDS = 120


@contextmanager
def borrowed(topology: Topology, name: str, kubeconfig: Path) -> Generator[Topology]:
    """The topology with this cluster led to the real one, in namespaces of its own; gone at the end."""
    original, mark = topology.cluster(name), f"test-{uuid.uuid4().hex[:8]}"
    context: str = yaml.safe_load(kubeconfig.read_text())["current-context"]
    spaces = {"namespace": f"{mark}-agents", "ops_namespace": f"{mark}-ops"}
    cluster = original.model_copy(update={"context": context, **spaces})
    client = ClusterClient.connect(cluster, kubeconfig=kubeconfig)
    try:
        for space in spaces.values():
            client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}, manager="test")
        _furnish(client, original, cluster)
        yield topology.model_copy(update={"clusters": {**topology.clusters, name: cluster}})
    finally:
        for space in spaces.values():
            client.delete(NAMESPACE, space, None)
        deadline = time.monotonic() + GONE_SECONDS
        while any(client.get(NAMESPACE, space) for space in spaces.values()):
            assert time.monotonic() < deadline, f"{', '.join(spaces.values())} are still there; delete them by hand"
            client.pause(0.5)
        client.close()


def _furnish(client: ClusterClient, original: Cluster, cluster: Cluster) -> None:
    """The Secrets that pods refer to, and the cluster's way to SEI where it has one."""
    for name, data in SECRETS.items():
        meta = {"name": name, "namespace": cluster.namespace}
        client.create({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": data}, manager="test")
    service = client.get(SERVICE, SEI, original.ops_namespace)
    endpoints = client.get(ENDPOINTS, SEI, original.ops_namespace)
    if service is None or endpoints is None:
        return
    meta = {"name": SEI, "namespace": cluster.ops_namespace}
    ports = [
        {key: port[key] for key in ("name", "port", "protocol") if key in port} for port in service["spec"]["ports"]
    ]
    # Without a selector: the addresses are those of the original's pods, which a selector could not reach from here.
    client.create({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}}, manager="test")
    subsets = [
        {
            "ports": subset.get("ports"),
            "addresses": [{"ip": address["ip"]} for address in subset.get("addresses") or ()],
        }
        for subset in endpoints.get("subsets") or ()
    ]
    client.create({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets}, manager="test")
