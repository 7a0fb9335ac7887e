"""What the tests of health work with: a sandbox cluster on which the platform runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.health.probes import PATIENCE
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.rollouts.strategy import Settings
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology

CLUSTER, VERSION = "staging-us-west-2", "v1.0.0"
QUICK = Settings(monitor_seconds=1, hold_seconds=0, ready_seconds=60, insufficient_seconds=20)


@dataclass(frozen=True)
class Deployed:
    """A sandbox cluster on which the platform runs."""

    home: Path
    state: supervisor.State
    topology: Topology
    store: ObjectStore

    def connect(self) -> RolloutContext:
        """A fresh way to the cluster, as every snapshot has one."""
        cluster = self.topology.cluster(CLUSTER)
        client = ClusterClient.connect(cluster, kubeconfig=Path(self.state.kubeconfig), patience=PATIENCE)
        return RolloutContext(self.topology, cluster, client, self.store, ReleaseStore(self.store))

    def admin(self, method: str, path: str, body: Any = None) -> None:
        """Ask the sandbox's admin interface."""
        url = self.state.clusters[CLUSTER]["admin"] + path
        httpx.request(method, url, json=body, timeout=30).raise_for_status()


def make_cluster(eks: Any, topology: Topology, name: str) -> None:
    """A cluster in EKS as its ClusterConfig would have it. `eks`: a boto3 client."""
    network = {"subnetIds": ["subnet-1", "subnet-2"], "securityGroupIds": ["sg-1"]}
    role = "arn:aws:iam::123456789012:role/test"
    eks.create_cluster(name=name, version=topology.kubernetes_version, roleArn=role, resourcesVpcConfig=network)
    for group in topology.node_groups.values():
        eks.create_nodegroup(
            clusterName=name,
            nodegroupName=group.name,
            scalingConfig={"minSize": group.min, "maxSize": group.max, "desiredSize": group.desired},
            instanceTypes=[group.instance_type],
            labels=dict(group.labels),
            subnets=network["subnetIds"],
            nodeRole=role,
        )
