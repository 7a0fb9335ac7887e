"""One sandbox cluster with stored releases, for the benchmarks that need one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

from nexus_ops.clusters.client import ClusterClient
from nexus_ops.releases.build import build_release, read_chart
from nexus_ops.releases.catalogue import FileCatalogue
from nexus_ops.releases.model import Release
from nexus_ops.releases.store import ReleaseStore
from nexus_ops.rollouts.context import RolloutContext
from nexus_ops.sandbox import supervisor
from nexus_ops.storage import ObjectStore
from nexus_ops.topology import Topology, default_path, project_folder

CLUSTER = "staging-us-west-2"
VERSIONS = ("v1.0.0", "v1.1.0")


class Scene:
    """`with Scene(parts) as scene`: a cluster of the sandbox, or with `beside` all of them, that runs as long as the block."""

    def __init__(self, parts: tuple[str, ...], cluster: str = CLUSTER, *, beside: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nexus-bench-")
        self.home = Path(self._folder.name)
        self.parts = parts
        self.clusters = None if beside else [cluster]
        self.topology = Topology.load(default_path())
        self.cluster = self.topology.cluster(cluster)
        self.store = ObjectStore.open((self.home / "store").as_uri())
        self.releases = ReleaseStore(self.store)

    def __enter__(self) -> Scene:
        helm = project_folder() / "helm"
        chart, catalogue = read_chart(helm / "nexus-ai-defi"), FileCatalogue(project_folder() / "images.yaml")
        values = helm / f"values-{self.cluster.environment}.yaml"
        for version in VERSIONS:
            self.releases.save(
                build_release(self.topology, self.cluster.environment, version, catalogue, chart, values), chart
            )
        self.state = supervisor.start(self.home, self.clusters, self.parts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        supervisor.stop(self.home)
        self._folder.cleanup()

    def release(self, version: str) -> Release:
        """A stored release."""
        return self.releases.resolve(self.cluster.environment, version)

    def context(self) -> RolloutContext:
        """What a rollout on the cluster works with."""
        client = ClusterClient.connect(self.cluster, kubeconfig=Path(self.state.kubeconfig))
        return RolloutContext(self.topology, self.cluster, client, self.store, self.releases)
