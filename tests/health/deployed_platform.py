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


def renewed(obj: dict[str, Any]) -> dict[str, Any]:
    """An object that is gone, to be made again."""
    meta = {key: obj["metadata"][key] for key in ("name", "namespace", "labels") if key in obj["metadata"]}
    return {key: obj[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": meta}
